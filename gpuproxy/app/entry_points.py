"""The entry points of the installed marketplaces. Client commands use their names, so no adapter is imported here."""

from importlib.metadata import EntryPoint, entry_points

from gpuproxy.ports.descriptor import GROUP


def points() -> list[EntryPoint]:
    """The entry points of all adapters, sorted by name."""
    return sorted(entry_points(group=GROUP), key=lambda point: point.name)


def names() -> tuple[str, ...]:
    """The names of the installed marketplaces, sorted; no adapter is imported."""
    return tuple(sorted({point.name for point in points()}))
