"""Ballast: a file that takes up room beside the books, given up once the disk is full.

What has to be written so that nothing is paid any longer than agreed (ends of leases, releases, what a create brought)
then still finds room, and new machines are refused until the disk has room for the ballast again.
"""

import os
from contextlib import suppress
from pathlib import Path

import structlog

from gpuproxy.adapters import private_files

log = structlog.get_logger(__name__)

BYTES = 16 << 20
"""SQLite's log takes 4 MB of it, the rest is for the books: weeks of ends and hourly meters."""


class Ballast:
    """Held, or given up. Not held before `hold` was called."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._missed = False
        self.held = False

    def hold(self) -> None:
        """Take the room, if the disk has it twice: else it would be full again at once."""
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
        """Make room; False when there is none left to be made."""
        if not self.held:
            return False
        self.held = False
        self._remove()
        self._miss("the disk is full")
        return True

    def _miss(self, why: str) -> None:
        if not self._missed:
            self._missed = True
            log.error(
                "disk_space_exhausted",
                file=str(self._file),
                why=why,
                effect="no new machines until there is room again",
            )

    def _there(self) -> bool:
        """True when an earlier process left it, whole."""
        with suppress(FileNotFoundError):
            found = self._file.stat()
            return found.st_size == BYTES and found.st_blocks * 512 >= BYTES
        return False

    def _take(self) -> None:
        disk = os.statvfs(self._file.parent)
        if disk.f_bavail * disk.f_frsize < 2 * BYTES:
            raise OSError(f"less than {2 * BYTES >> 20} MB are free")
        private_files.create(self._file)
        with self._file.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, BYTES)
            os.fsync(file.fileno())

    def _remove(self) -> None:
        with suppress(OSError):
            self._file.unlink(missing_ok=True)
