"""Real loopback ports for the doors of instances: bound as soon as an instance is made, answering while it runs.

Until a port answers it is bound and not listening, so that connections are refused and nobody else gets the number.
"""

import asyncio
import contextlib
import resource
import socket

from gpuproxy.sandbox.market.doors import Doors

_HOST = "127.0.0.1"
_BANNER = b"SSH-2.0-OpenSSH_9.6p1 sandbox\r\n"
_BACKLOG = 16


class Listeners:
    """The sockets behind a book of doors."""

    def __init__(self) -> None:
        _allow_many_files()
        self.doors = Doors(self._reserve)
        self._sockets: dict[int, socket.socket] = {}
        self._listening: set[int] = set()
        self._seen = -1

    def follow(self) -> None:
        """Bring the sockets to where the doors are. Must be called on the loop."""
        if self._seen == self.doors.version:
            return
        self._seen = self.doors.version
        for number in self._listening - self.doors.open.keys():
            self._shut(number)
        for number in self.doors.take_released():
            if found := self._sockets.pop(number, None):
                found.close()
        for number in self.doors.open.keys() - self._listening:
            self._listen(number)

    def close(self) -> None:
        """Give all numbers back."""
        for number in list(self._listening):
            self._shut(number)
        for bound in self._sockets.values():
            bound.close()
        self._sockets.clear()

    def _reserve(self, preferred: int | None) -> int:
        bound = _bound(preferred or 0) or _bound(0)
        if bound is None:
            raise OSError("no loopback port is free")
        number: int = bound.getsockname()[1]
        self._sockets[number] = bound
        return number

    def _listen(self, number: int) -> None:
        listening = self._sockets.get(number) or _bound(number)
        if listening is None:  # somebody took it while the instance was stopped
            return
        self._sockets[number] = listening
        listening.listen(_BACKLOG)
        self._listening.add(number)
        asyncio.get_running_loop().add_reader(listening, self._greet, listening, number)

    def _shut(self, number: int) -> None:
        self._listening.discard(number)
        listening = self._sockets.pop(number)
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            asyncio.get_running_loop().remove_reader(listening)
        listening.close()
        if again := _bound(number):
            self._sockets[number] = again

    def _greet(self, listening: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):
            connection, _ = listening.accept()
            with connection:
                if self.doors.open.get(number) == "ssh":
                    connection.sendall(_BANNER)
                connection.shutdown(socket.SHUT_WR)


def _bound(number: int) -> socket.socket | None:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((_HOST, number))
    except OSError:
        made.close()
        return None
    return made


def _allow_many_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
