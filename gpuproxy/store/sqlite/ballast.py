"""Ballast: a file beside the database that reserves disk space. It is deleted when the disk is full.

Then there is still space for the writes that limit costs: ends of leases, releases and the results of creates. New
machines are refused until the disk has space for the ballast again.
"""

import os
from contextlib import suppress
from pathlib import Path

import structlog

from gpuproxy.adapters import private_files

log = structlog.get_logger(__name__)

BYTES = 16 << 20
"""SQLite's log needs 4 MB of it. The rest is enough for weeks of releases and hourly meters."""


class Ballast:
    """The ballast file. `held` says whether the space is reserved; it is False before `hold` is called."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._missed = False
        self.held = False

    def hold(self) -> None:
        """Reserve the space if the disk has twice as much free; otherwise it would be full again at once."""
        if self.held:
            return
        try:
            if not self._there():
                self._take()
        except OSError as error:
            self._remove()
            self._miss(str(error))
        else:
            self.held, self._missed = True, False

    def give_up(self) -> bool:
        """Free the space; False if it wasn't reserved."""
        if not self.held:
            return False
        self.held = False
        self._remove()
        self._miss("the disk is full")
        return True

    def _miss(self, why: str) -> None:
        if not self._missed:
            self._missed = True
            effect = "no new machines until there is free space again"
            log.error("disk_space_exhausted", file=str(self._file), why=why, effect=effect)

    def _there(self) -> bool:
        """True if an earlier process has left the complete file."""
        with suppress(FileNotFoundError):
            found = self._file.stat()
            return found.st_size == BYTES and found.st_blocks * 512 >= BYTES
        return False

    def _take(self) -> None:
        disk = os.statvfs(self._file.parent)
        if disk.f_bavail * disk.f_frsize < 2 * BYTES:
            raise OSError(f"the disk has less than {2 * BYTES >> 20} MB of free space")
        private_files.create(self._file)
        with self._file.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, BYTES)
            os.fsync(file.fileno())

    def _remove(self) -> None:
        with suppress(OSError):
            self._file.unlink(missing_ok=True)
