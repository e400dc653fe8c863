"""Real loopback ports for instances. A port is bound when its instance is created and listens while it runs.

A port that doesn't answer is bound but not listening, so that connections are refused and no other program gets it.
"""

import asyncio
import contextlib
import resource
import socket

from gpuproxy.sandbox.market.port_table import PortTable

_HOST = "127.0.0.1"
_BANNER = b"SSH-2.0-OpenSSH_9.6p1 sandbox\r\n"
_BACKLOG = 16


class Listeners:
    """The sockets of a port table."""

    def __init__(self) -> None:
        _allow_many_files()
        self.port_table = PortTable(self._reserve)
        self._sockets: dict[int, socket.socket] = {}
        self._listening: set[int] = set()
        self._seen = -1

    def follow(self) -> None:
        """Open and close sockets according to the port table. Call it in the event loop."""
        if self._seen == self.port_table.version:
            return
        self._seen = self.port_table.version
        for number in self._listening - self.port_table.open.keys():
            self._shut(number)
        for number in self.port_table.take_released():
            if found := self._sockets.pop(number, None):
                found.close()
        for number in self.port_table.open.keys() - self._listening:
            self._listen(number)

    def close(self) -> None:
        """Close all sockets."""
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
        if listening is None:  # another program took the port while the instance was stopped
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
                if self.port_table.open.get(number) == "ssh":
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
