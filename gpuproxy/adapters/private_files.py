"""Files with secrets: nobody but their owner reads or writes them (mode 0600), whoever made them before.

Nothing is opened that SQLite may hold open: closing it again would end SQLite's locks in this process.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

_MODE = 0o600


def create(file: Path) -> None:
    """An empty file unless there is one."""
    with suppress(FileExistsError):
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE))


def write(file: Path, text: str) -> None:
    """Make `file` hold `text` alone, safe on disk when this returns; raises OSError, as for a link or a directory.

    It is private before anything is written. Links are not followed: whoever laid one would have the text.
    """
    _write(file, text, os.O_NOFOLLOW)


def write_new(file: Path, text: str) -> None:
    """As `write`, but raises FileExistsError where there is anything, were it a link; leaves nothing when it fails."""
    try:
        _write(file, text, os.O_EXCL)
    except FileExistsError:
        raise
    except OSError:
        with suppress(OSError):
            file.unlink()
        raise


def tighten(file: Path) -> None:
    """Take from everybody else what they may do with a file, if there is one and it is ours; say so.

    Directories and devices are left alone.
    """
    with suppress(FileNotFoundError, PermissionError):
        found = file.stat().st_mode
        mode = stat.S_IMODE(found)
        if stat.S_ISREG(found) and mode & ~_MODE:
            file.chmod(_MODE)
            log.warning("file_made_private", file=str(file), mode=f"{mode:04o}")


def regain(file: Path) -> None:
    """Let the owner read and write it, and nobody else; raises OSError, as for a file of somebody else's."""
    file.chmod(_MODE)


def _write(file: Path, text: str, how: int) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | how | os.O_CLOEXEC, _MODE)
    with os.fdopen(descriptor, "w") as handle:
        os.fchmod(descriptor, _MODE)
        handle.truncate()
        handle.write(text)
        handle.flush()
        os.fsync(descriptor)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
