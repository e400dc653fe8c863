"""The location of the database: the file that a path names, SQLite's files beside it, and the lock.

Nothing is created or changed before the file is known to be our database or empty. The lock is on the database file
itself, so that no second server can use it through a symbolic link, a hard link or another name. A `.lock` file beside
it is locked too, because earlier versions lock only that one.
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


class UnusableLocation(Exception):
    """The path can't hold our database. The text gives the reason; the caller's sentence names the file as "it"."""


class DatabaseLocked(Exception):
    """Another server uses this database."""


class DatabaseLocation:
    """The files of one database. Creating the object locks nothing."""

    def __init__(self, path: Path) -> None:
        """Raises UnusableLocation if the path can't name a database, and OSError if it can't be read."""
        self._given_path = path
        self.path = path = database_files.real(path)
        self._file: Handle | None = None
        self._locks: list[Handle] = []
        self._locked = False
        self._identities: dict[Path, tuple[int, int]] = {}
        self._reported = False
        if not path.parent.is_dir():
            folder = path.parent if self._given_path.is_symlink() else self._given_path.parent
            raise UnusableLocation(f"the folder {folder} does not exist; create it first")
        if path.exists() and not path.is_file():
            raise UnusableLocation("it is not a regular file")
        if path.exists() and not _may_write(path):
            mode = stat.S_IMODE(path.stat().st_mode)
            raise UnusableLocation(f"this user can't read and write it (its mode is {mode:04o})")
        require_one_name(path)

    @property
    def is_empty(self) -> bool:
        """True if the file is missing or empty."""
        return not self.path.exists() or self.path.stat().st_size == 0

    @property
    def locked(self) -> bool:
        """True if this object has the lock."""
        return self._locked

    def open(self) -> None:
        """Open the file if it exists. Call this before SQLite opens the file; `lock` needs the open file."""
        if self._file is None and self.path.exists():
            self._file = Handle(self.path)

    def lock(self, *, required: bool) -> None:
        """Lock the database until `close`, so that no other server can use it; create an empty file if there is none.

        Raises UnusableLocation if the file was replaced. Raises DatabaseLocked if the lock is `required` and another
        server has it, or if a server has it that opened the file by another name: SQLite keeps its log elsewhere.
        """
        beside = self._lock_beside()
        self._locked = beside and self._lock_file()
        if self._locked:
            return
        for handle in self._handles():
            handle.unlock()
        if beside:
            why = f"That server opened it by another name, or its {self._beside('.lock')} was removed."
            raise DatabaseLocked(f"{self._given_path} is in use by another GPU Proxy server. {why}")
        if required:
            raise DatabaseLocked(f"{self._given_path} is in use by another GPU Proxy server.")
        private_files.create(self.path)  # the server that has the lock may not have created it yet

    def _lock_beside(self) -> bool:
        """Lock the `.lock` file beside the database, and one that an earlier version left beside a symbolic link."""
        lock_file, old_lock_file = self._beside(".lock"), Path(f"{self._given_path}.lock")
        private_files.create(lock_file)
        files = [lock_file] if _identity(old_lock_file) in (None, _identity(lock_file)) else [lock_file, old_lock_file]
        self._locks = [Handle(file) for file in files]
        return all(handle.lock() for handle in self._locks)

    def _lock_file(self) -> bool:
        # The database contains keys, so it is created with mode 0600. SQLite gives its own files the same mode.
        private_files.create(self.path)
        file = self._file = self._file or Handle(self.path)
        if file.identity != _identity(self.path):
            raise UnusableLocation("it was replaced while the server opened it; start the server again")
        return not locks_are_apart(mounts.network_file_system(self.path)) or file.lock()

    def free_stuck_files(self) -> bool:
        """Make SQLite's files writable that it has created for a read-only database; True if there were any.

        SQLite gives these files the mode of the database, and they keep it when the database becomes writable again.
        Connections that are already open don't notice the change.
        """
        stuck = [file for end in ("-wal", "-shm") if (file := self._beside(end)).is_file() and not _may_write(file)]
        for file in stuck:
            private_files.restore_access(file)
        return bool(stuck)

    def make_private(self) -> None:
        """Set the mode of all files to 0600, in case an earlier version or a copy gave others access."""
        for end in _BESIDE:
            private_files.restrict(self._beside(end))

    def remember_files(self) -> None:
        """Remember the files that the path names now as the open files."""
        links = [] if self._given_path.absolute() == self.path else [self._given_path]
        found = {file: _identity(file) for file in (*links, *map(self._beside, _BESIDE))}
        self._identities = {file: identity for file, identity in found.items() if identity is not None}

    def files_unchanged(self) -> bool:
        """False while the path names other files than the open ones, or none. Each change is logged once."""
        changed = [str(file) for file, identity in self._identities.items() if _identity(file) != identity]
        if changed and not self._reported:
            effect = "no new machines until the files are back: a server that starts now would not find these machines"
            log.error("database_files_removed", files=changed, effect=effect)
        elif self._reported and not changed:
            log.info("database_files_restored", file=str(self.path))
        self._reported = bool(changed)
        return not changed

    def close(self) -> None:
        """Unlock the database. Call this after all connections to the file are closed."""
        for handle in self._handles():
            handle.close()
        self._locks, self._file, self._locked = [], None, False

    def _handles(self) -> list[Handle]:
        """The handles in the order of unlocking: the database first, because another server locks `.lock` first."""
        return [self._file, *self._locks] if self._file else self._locks

    def _beside(self, end: str) -> Path:
        return Path(f"{self.path}{end}")


def require_one_name(path: Path) -> None:
    """Raise UnusableLocation for a file with several hard links: SQLite would keep a separate log for each name."""
    if path.is_file() and (names := path.stat().st_nlink) > 1:
        raise UnusableLocation(
            f"it has {names} names (hard links), and SQLite would keep a separate log of the last changes for each "
            "name; remove all names except the one that the server used last"
        )


def _may_write(file: Path) -> bool:
    return os.access(file, os.R_OK | os.W_OK, effective_ids=True)


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
