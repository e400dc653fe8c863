"""File locks by flock. A process has a lock until it unlocks or ends. SQLite isn't affected by these locks."""

import fcntl
import os
import sys
from pathlib import Path

_in_use: dict[tuple[int, int], int] = {}
"""The number of open handles of this process, by (device, inode)."""
_retired: dict[tuple[int, int], list[int]] = {}
"""Descriptors of closed handles, by (device, inode). They are closed with the last handle of the file."""


class Handle:
    """An open file that can be locked.

    When a process closes any descriptor of a file, POSIX drops all fcntl locks of the process on that file. SQLite uses
    fcntl locks. If a second descriptor of a database is closed too early, other processes can write although SQLite
    believes that it has the lock. Therefore open a handle before SQLite opens the file, and close it after all
    connections are closed. The descriptor stays open until the last handle of the file is closed.
    """

    def __init__(self, file: Path) -> None:
        self._descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        found = os.fstat(self._descriptor)
        self.identity = (found.st_dev, found.st_ino)
        _in_use[self.identity] = _in_use.get(self.identity, 0) + 1

    def lock(self) -> bool:
        """Lock the file without waiting; False if another process or another handle has the lock."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self) -> None:
        """Unlock the file; does nothing if it isn't locked."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Unlock the file and close the handle. Call it once."""
        self.unlock()
        _retired.setdefault(self.identity, []).append(self._descriptor)
        _in_use[self.identity] -= 1
        if not _in_use[self.identity]:
            del _in_use[self.identity]
            for descriptor in _retired.pop(self.identity):
                os.close(descriptor)


def locks_are_apart(network: str) -> bool:
    """True if flock locks are independent of SQLite's fcntl locks: on Linux, on a local file system.

    Elsewhere they exclude each other, and SQLite couldn't lock a database that is locked here. `network` is the type of
    the file's network file system; "" for a local one.
    """
    return sys.platform.startswith("linux") and not network
