"""A command whose packages are not installed: `gpuproxy[cli]` has what calls a server, `gpuproxy[server]` the rest."""

import re
from importlib import metadata

import click

_OF_SERVER = re.compile(r"""([A-Za-z0-9._-]+)(?:\[.*\])?[^;]*;\s*extra\s*==\s*['"]server['"]""")
"""A package that the server needs on every platform, as the metadata of gpuproxy names it."""


class NotInstalled(click.ClickException):
    """The command can't run here, because packages of the extra `server` are missing. Nothing was done."""

    exit_code = 2

    def show(self, file: object = None) -> None:
        """Print the message to stderr, without click's prefix "Error:"."""
        del file
        click.echo(self.message, err=True)


def not_installed(error: ModuleNotFoundError, command: str) -> NotInstalled | None:
    """What to install, as one line. None if the server is installed, so that the import failed for another reason."""
    missing = missing_packages(metadata.requires("gpuproxy") or [])
    if not missing or (error.name or "").partition(".")[0] == "gpuproxy":
        return None
    return NotInstalled(
        f"gpuproxy {command} needs the server, which is not installed. Run: pip install 'gpuproxy[server]'. "
        f"Missing: {', '.join(missing)}."
    )


def missing_packages(requirements: list[str]) -> list[str]:
    """The packages of the extra `server` that are not installed, in the order of `requirements`."""
    found = (match.group(1) for line in requirements if (match := _OF_SERVER.fullmatch(line)))
    return [name for name in found if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
