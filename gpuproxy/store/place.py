"""Where the books are: the file that a path names, what SQLite keeps beside it, and the lock.

Nothing there is made or changed before it is known that the file holds our books, or nothing yet.
"""

import fcntl
import os
import stat
from pathlib import Path
from typing import IO

import structlog

from gpuproxy import private_files

log = structlog.get_logger(__name__)

_BESIDE = ("", "-wal", "-shm", ".lock")


class WrongPlace(Exception):
    """No books of ours can be kept there; the text says why, for a sentence that names the file."""


class DatabaseLocked(Exception):
    """Another process uses this database."""


class Place:
    """The files of one database. Takes hold of nothing until it is locked."""

    def __init__(self, path: Path) -> None:
        """Raises WrongPlace where a path can't name a database; OSError where nothing can be seen."""
        self._path = path
        self._lock: IO[str] | None = None
        self._opened: dict[Path, tuple[int, int]] = {}
        self._missed = False
        if not path.parent.is_dir():
            raise WrongPlace(f"there is no folder {path.parent}; make it first")
        if path.exists() and not path.is_file():
            raise WrongPlace("it is not a file")
        if path.exists() and not _may_write(path):
            mode = stat.S_IMODE(path.stat().st_mode)
            raise WrongPlace(f"this user may not read and write it (its mode is {mode:04o})")

    @property
    def is_empty(self) -> bool:
        """True where there are no books yet."""
        return not self._path.exists() or self._path.stat().st_size == 0

    @property
    def locked(self) -> bool:
        """True when no other process has it."""
        return self._lock is not None

    def lock(self, *, required: bool) -> None:
        """Keep other servers out until `close`; raises DatabaseLocked when it is `required` and another one is in."""
        file = self._beside(".lock")
        private_files.create(file)
        handle = file.open("a")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
            if required:
                raise DatabaseLocked(f"{self._path} is in use by another GPU Proxy.") from None
        else:
            self._lock = handle

    def make(self) -> None:
        """An empty file for new books. They hold keys; SQLite gives the files beside them the mode that they have."""
        private_files.create(self._path)

    def free(self) -> bool:
        """True when a file that SQLite left beside a read-only database could not be written, and now can be.

        It gives them the mode of the database and keeps that when the database's own is changed back. Nothing that
        is open takes notice.
        """
        stuck = [file for end in ("-wal", "-shm") if (file := self._beside(end)).is_file() and not _may_write(file)]
        for file in stuck:
            private_files.regain(file)
        return bool(stuck)

    def make_private(self) -> None:
        """Take from everybody else what an earlier mode, or a copy, gave them."""
        for end in _BESIDE:
            private_files.tighten(self._beside(end))

    def note_opened(self) -> None:
        """What the path names now is what was opened."""
        found = {file: _identity(file) for file in map(self._beside, _BESIDE)}
        self._opened = {file: identity for file, identity in found.items() if identity is not None}

    def names_opened(self) -> bool:
        """False while another start would find other files here, or none; that is said once each time it happens."""
        amiss = [str(file) for file, identity in self._opened.items() if _identity(file) != identity]
        if amiss and not self._missed:
            effect = "no new machines until they are back: whatever starts here now would know of none"
            log.error("database_files_gone", files=amiss, effect=effect)
        elif self._missed and not amiss:
            log.info("database_files_back", file=str(self._path))
        self._missed = bool(amiss)
        return not amiss

    def close(self) -> None:
        """Let others in."""
        if self._lock is not None:
            self._lock.close()

    def _beside(self, end: str) -> Path:
        return Path(f"{self._path}{end}")


def _may_write(file: Path) -> bool:
    return os.access(file, os.R_OK | os.W_OK, effective_ids=True)


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
