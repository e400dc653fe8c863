"""Locks on files by flock: held by a process until it lets go or ends, and never seen by SQLite."""

import fcntl
import os
import sys
from pathlib import Path

_in_use: dict[tuple[int, int], int] = {}
"""How many handles of this process are open, by file."""
_retired: dict[tuple[int, int], list[int]] = {}
"""Descriptors that are done with, by file, until the last handle of the file is closed."""


class Handle:
    """A file that is held open, to be locked.

    When a process closes any descriptor of a file, POSIX drops all locks by fcntl that the process has on that file.
    SQLite keeps its own locks that way, so a second descriptor of a database that is closed too early would let other
    processes write into what SQLite takes for locked. Therefore a handle is opened before SQLite opens the file and
    closed after every connection is closed, and its descriptor lives until the last handle of the file is closed.
    """

    def __init__(self, file: Path) -> None:
        self._descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        found = os.fstat(self._descriptor)
        self.identity = (found.st_dev, found.st_ino)
        _in_use[self.identity] = _in_use.get(self.identity, 0) + 1

    def lock(self) -> bool:
        """False when somebody else has it, also another handle of this process."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self) -> None:
        """Let others lock it; nothing happens when it is not locked."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go; to be called once."""
        self.unlock()
        _retired.setdefault(self.identity, []).append(self._descriptor)
        _in_use[self.identity] -= 1
        if not _in_use[self.identity]:
            del _in_use[self.identity]
            for descriptor in _retired.pop(self.identity):
                os.close(descriptor)


def locks_are_apart(network: str) -> bool:
    """True where a lock by flock never stands in the way of SQLite's own: on Linux, on a local file system.

    Elsewhere both kinds are one, and SQLite could not lock a database that is locked here. `network`: the type of the
    network file system that the file is on, if it is on one.
    """
    return sys.platform.startswith("linux") and not network
