"""Where the books are: the file that a path names, what SQLite keeps beside it, and the lock.

Nothing there is made or changed before it is known that the file holds our books, or nothing yet. The lock is on the
database file itself, so that no symbolic link, hard link or renaming lets a second server in. A `.lock` file is locked
too: versions before this one lock nothing else.
"""

import os
import stat
from pathlib import Path

import structlog

from gpuproxy.adapters import private_files
from gpuproxy.store.sqlite import files as database_files
from gpuproxy.store.sqlite import mounts
from gpuproxy.store.sqlite.locks import Handle, locks_are_apart

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
        self._named = path
        self.path = path = database_files.real(path)
        self._file: Handle | None = None
        self._locks: list[Handle] = []
        self._locked = False
        self._opened: dict[Path, tuple[int, int]] = {}
        self._missed = False
        if not path.parent.is_dir():
            folder = path.parent if self._named.is_symlink() else self._named.parent
            raise WrongPlace(f"there is no folder {folder}; make it first")
        if path.exists() and not path.is_file():
            raise WrongPlace("it is not a file")
        if path.exists() and not _may_write(path):
            mode = stat.S_IMODE(path.stat().st_mode)
            raise WrongPlace(f"this user may not read and write it (its mode is {mode:04o})")
        require_one_name(path)

    @property
    def is_empty(self) -> bool:
        """True where there are no books yet."""
        return not self.path.exists() or self.path.stat().st_size == 0

    @property
    def locked(self) -> bool:
        """True when no other process has it."""
        return self._locked

    def open(self) -> None:
        """Open the file, if there is one; to be called before SQLite opens it, since `lock` needs it open."""
        if self._file is None and self.path.exists():
            self._file = Handle(self.path)

    def lock(self, *, required: bool) -> None:
        """Keep other servers out until `close`, and make an empty file where there are no books yet.

        Raises WrongPlace when the file was replaced, DatabaseLocked when the lock is `required` and another server has
        it, or when a server has it that opened the file by another name: SQLite keeps that one's log elsewhere.
        """
        beside = self._lock_beside()
        self._locked = beside and self._lock_file()
        if self._locked:
            return
        for handle in self._handles():
            handle.unlock()
        if beside:
            why = f"which opened it by another name, or whose {self._beside('.lock')} was removed"
            raise DatabaseLocked(f"{self._named} is in use by another GPU Proxy, {why}.")
        if required:
            raise DatabaseLocked(f"{self._named} is in use by another GPU Proxy.")
        private_files.create(self.path)  # whoever has the lock may be about to do it

    def _lock_beside(self) -> bool:
        """Lock the file beside the database, and the one that an earlier version left beside a symbolic link to it."""
        made, left = self._beside(".lock"), Path(f"{self._named}.lock")
        private_files.create(made)
        files = [made] if _identity(left) in (None, _identity(made)) else [made, left]
        self._locks = [Handle(file) for file in files]
        return all(handle.lock() for handle in self._locks)

    def _lock_file(self) -> bool:
        # They hold keys: the file is private from its making on, and SQLite gives its mode to the files beside it.
        private_files.create(self.path)
        file = self._file = self._file or Handle(self.path)
        if file.identity != _identity(self.path):
            raise WrongPlace("it was replaced while it was being opened; start again")
        return not locks_are_apart(mounts.network_file_system(self.path)) or file.lock()

    def free(self) -> bool:
        """True when a file that SQLite left beside a read-only database could not be written, and now can be.

        It gives them the mode of the database and keeps that when the database's own is changed back. Nothing that
        is open takes notice.
        """
        stuck = [file for end in ("-wal", "-shm") if (file := self._beside(end)).is_file() and not _may_write(file)]
        for file in stuck:
            private_files.restore_access(file)
        return bool(stuck)

    def make_private(self) -> None:
        """Take from everybody else what an earlier mode, or a copy, gave them."""
        for end in _BESIDE:
            private_files.restrict(self._beside(end))

    def note_opened(self) -> None:
        """What the path names now is what was opened."""
        links = [] if self._named.absolute() == self.path else [self._named]
        found = {file: _identity(file) for file in (*links, *map(self._beside, _BESIDE))}
        self._opened = {file: identity for file, identity in found.items() if identity is not None}

    def names_opened(self) -> bool:
        """False while another start would find other files here, or none; that is said once each time it happens."""
        amiss = [str(file) for file, identity in self._opened.items() if _identity(file) != identity]
        if amiss and not self._missed:
            effect = "no new machines until they are back: whatever starts here now would know of none"
            log.error("database_files_removed", files=amiss, effect=effect)
        elif self._missed and not amiss:
            log.info("database_files_restored", file=str(self.path))
        self._missed = bool(amiss)
        return not amiss

    def close(self) -> None:
        """Let others in; to be called after every connection to the file is closed."""
        for handle in self._handles():
            handle.close()
        self._locks, self._file, self._locked = [], None, False

    def _handles(self) -> list[Handle]:
        """In the order to let go: whoever gets the locks beside the file must find the file's own free."""
        return [self._file, *self._locks] if self._file else self._locks

    def _beside(self, end: str) -> Path:
        return Path(f"{self.path}{end}")


def require_one_name(path: Path) -> None:
    """Raise WrongPlace for a file with hard links: SQLite keeps a log (`-wal`) beside it for each of its names."""
    if path.is_file() and (names := path.stat().st_nlink) > 1:
        raise WrongPlace(
            f"it has {names} names (hard links), and with each of them SQLite would keep another log of its last "
            "changes; remove all names but the one that the server used last"
        )


def _may_write(file: Path) -> bool:
    return os.access(file, os.R_OK | os.W_OK, effective_ids=True)


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
