"""Real loopback ports for instances. A port is bound when its instance is created and listens while it runs.

A port that doesn't answer is bound but not listening, so that connections are refused and no other program gets it. SSH
sends its banner at once. All other ports wait for a request and answer it.
"""

import asyncio
import contextlib
import resource
import socket
from dataclasses import dataclass

from gpuproxy.sandbox.market.port_table import PortTable

_HOST = "127.0.0.1"
_BANNER = b"SSH-2.0-OpenSSH_9.6p1 sandbox\r\n"
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n"
_ILL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 8\r\nConnection: close\r\n\r\nno GPU!\n"
_ANSWERS: dict[str | None, bytes] = {"http": _OK, "tcp": _OK, "ill": _ILL}
_PATIENCE = 10.0  # real seconds for which a connection may take to send its request
_MOST_BYTES = 64 * 1024
_END = b"\r\n\r\n"
_BACKLOG = 16
_ATTEMPTS = 100
_LAST_PORT = 65_535


class Listeners:
    """The sockets of a port table."""

    def __init__(self) -> None:
        _allow_many_files()
        self.port_table = PortTable(self._reserve)
        self._sockets: dict[int, socket.socket] = {}
        self._listening: set[int] = set()
        self._requests: dict[socket.socket, _Request] = {}
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
        for connection in list(self._requests):
            self._drop(connection)
        for bound in self._sockets.values():
            bound.close()
        self._sockets.clear()

    def _reserve(self, preferred: int | None, count: int) -> int:
        bound = (self._row(preferred, count) if preferred else []) or self._free_row(count)
        self._sockets.update((_port(one), one) for one in bound)
        return _port(bound[0])

    def _free_row(self, count: int) -> list[socket.socket]:
        """Sockets at `count` consecutive ports. Raises OSError.

        A port whose neighbour is in use stays bound until a row is found, so that the system doesn't offer it again.
        """
        unsuitable: list[socket.socket] = []
        try:
            for _ in range(_ATTEMPTS):
                first = _bound(0)
                if first is None:
                    break
                if count == 1:
                    return [first]
                rest = self._row(_port(first) + 1, count - 1, alone=True)
                if rest:
                    return [first, *rest]
                unsuitable.append(first)
        finally:
            for one in unsuitable:
                one.close()
        raise OSError("no loopback port is free" if count == 1 else f"no {count} consecutive loopback ports are free")

    def _row(self, first: int, count: int, *, alone: bool = False) -> list[socket.socket]:
        """Sockets at these ports, or none if one of them is in use."""
        row: list[socket.socket] = []
        for number in range(first, first + count):
            one = None if number in self._sockets or number > _LAST_PORT else _bound(number, alone=alone)
            if one is None:
                for made in row:
                    made.close()
                return []
            row.append(one)
        return row

    def _listen(self, number: int) -> None:
        listening = self._sockets.get(number) or _bound(number)
        if listening is None:  # another program took the port while the instance was stopped
            return
        self._sockets[number] = listening
        try:
            listening.listen(_BACKLOG)
        except OSError:  # another program has bound the port too, and listens
            return
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
        try:
            connection, _ = listening.accept()
        except OSError:  # the client has left again
            return
        if self.port_table.open.get(number) == "ssh":
            _say(connection, _BANNER)
            return
        loop = asyncio.get_running_loop()
        connection.setblocking(False)
        self._requests[connection] = _Request(number, loop.call_later(_PATIENCE, self._drop, connection))
        loop.add_reader(connection, self._read, connection)

    def _read(self, connection: socket.socket) -> None:
        """Answer a request once it is complete."""
        request = self._requests[connection]
        try:
            data = connection.recv(_MOST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        request.data += data
        if data and _END not in request.data and len(request.data) < _MOST_BYTES:
            return
        answer = _ANSWERS.get(self.port_table.open.get(request.number), b"") if _END in request.data else b""
        self._forget(connection)
        _say(connection, answer)

    def _drop(self, connection: socket.socket) -> None:
        self._forget(connection)
        connection.close()

    def _forget(self, connection: socket.socket) -> None:
        self._requests.pop(connection).timer.cancel()
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            asyncio.get_running_loop().remove_reader(connection)


@dataclass(slots=True)
class _Request:
    """What a connection to a port has sent so far."""

    number: int
    timer: asyncio.TimerHandle
    data: bytes = b""


def _say(connection: socket.socket, text: bytes) -> None:
    """Send a short text and close the connection."""
    with connection, contextlib.suppress(OSError):
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)


def _port(bound: socket.socket) -> int:
    number: int = bound.getsockname()[1]
    return number


def _bound(number: int, *, alone: bool = False) -> socket.socket | None:
    """A socket at a port, or None if the port is in use.

    A port is free for SO_REUSEADDR also while another program has it bound without listening, as a second sandbox
    does. With `alone`, such a port is not free.
    """
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0 if alone else 1)
    try:
        made.bind((_HOST, number))
    except OSError:
        made.close()
        return None
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # its old connections don't keep the port from us
    return made


def _allow_many_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
