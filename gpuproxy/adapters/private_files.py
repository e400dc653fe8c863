"""Files with secrets: only their owner can read or write them (mode 0600), even if they existed before.

Files that SQLite may have open are never opened here: closing them would drop SQLite's locks in this process.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

_MODE = 0o600


def create(file: Path) -> None:
    """Create an empty file if it doesn't exist."""
    with suppress(FileExistsError):
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE))


def write(file: Path, text: str) -> None:
    """Write `text` to `file`, replacing its content, and sync it to disk. Raises OSError, also for a link.

    The mode is set before anything is written. Links aren't followed, because a link could redirect the secret.
    """
    _write(file, text, os.O_NOFOLLOW)


def write_new(file: Path, text: str) -> None:
    """Like `write`, but raises FileExistsError if the file or a link exists. If it fails, the new file is removed."""
    try:
        _write(file, text, os.O_EXCL)
    except FileExistsError:
        raise
    except OSError:
        with suppress(OSError):
            file.unlink()
        raise


def restrict(file: Path) -> None:
    """Set the mode of a regular file to 0600 if others can access it, and log a warning.

    A missing file, or one of another owner, is left unchanged; so are directories and devices.
    """
    with suppress(FileNotFoundError, PermissionError):
        found = file.stat().st_mode
        mode = stat.S_IMODE(found)
        if stat.S_ISREG(found) and mode & ~_MODE:
            file.chmod(_MODE)
            log.warning("file_permissions_restricted", file=str(file), mode=f"{mode:04o}")


def restore_access(file: Path) -> None:
    """Set the mode to 0600, so that the owner can write the file. Raises OSError, also for another owner's file."""
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
