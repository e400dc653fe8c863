"""What was seen of a machine: why it counts as ready, what its boot script reported, and what its owner should know."""

from collections.abc import Iterable

from gpuproxy.v1 import gpuproxy_pb2 as pb

_FINE = frozenset({"requested", "added", "started"})
"""Reports of a part of the boot script that need no attention."""


def evidence(machine: pb.GPUInstance) -> str:
    """Why the machine counts as ready, to be appended to a word: ` (ssh greets)`; "" if that is not known."""
    return f" ({machine.ready_evidence})" if machine.ready_evidence else ""


def boot(machine: pb.GPUInstance) -> str:
    """What the boot script reported, by part: `keys: added, onstart: started`."""
    return ", ".join(f"{part}: {report}" for part, report in sorted(machine.boot_parts.items()))


def warnings(machines: Iterable[pb.GPUInstance]) -> list[str]:
    """One line for each warning: `warning: 7001: its contract ends before its lease`."""
    return [f"warning: {_name(one)}: {text}" for one in machines for text in one.warnings]


def attention(machines: Iterable[pb.GPUInstance]) -> list[str]:
    """The warnings, and the parts of the boot script that did not run: `7001: keys: unsupported in entrypoint mode`."""
    lines = []
    for one in machines:
        lines += [f"{_name(one)}: {part}: {report}" for part, report in _troubles(one)]
        lines += warnings([one])
    return lines


def _troubles(machine: pb.GPUInstance) -> list[tuple[str, str]]:
    return sorted((part, report) for part, report in machine.boot_parts.items() if report not in _FINE)


def _name(machine: pb.GPUInstance) -> str:
    return machine.contract_id or machine.lease_id
