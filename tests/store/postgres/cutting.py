"""A wire to a PostgreSQL server that can be cut at a COMMIT: before the server has it, or before its answer is back.

It can also fall silent there: the connection stays open, and nothing is forwarded. So can the whole wire, for a while.
"""

import socket
import threading
from contextlib import suppress
from typing import Literal
from urllib.parse import parse_qs, urlsplit

Cut = Literal["before", "after", "silent before", "silent after", "all silent after"]


class Wire:
    """Listens on loopback. Each armed cut ends one connection."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        place = parse_qs(parts.query)
        self._server = f"{place['host'][0]}/.s.PGSQL.{place['port'][0]}"
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"postgresql://tester@127.0.0.1:{self._listening.getsockname()[1]}{parts.path}?sslmode=disable"
        self._cuts: list[Cut] = []
        self.made = 0
        """The number of cuts that were made."""
        self._open: list[socket.socket] = []
        self._flows = threading.Event()
        self._flows.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, *cuts: Cut) -> None:
        """Cut the next connections that commit."""
        self._cuts.extend(cuts)

    def silence(self) -> None:
        """Forward nothing on any connection, also on new ones, until `go_on`. What comes is kept."""
        self._flows.clear()

    def go_on(self) -> None:
        """Forward everything, also what has come in the meantime."""
        self._flows.set()

    def close(self) -> None:
        """Cut everything."""
        self._listening.close()
        self._flows.set()
        _end(*self._open)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                self._open += [client, server]
                cut: list[Cut] = []
                threading.Thread(target=self._send, args=(client, server, cut), daemon=True).start()
                threading.Thread(target=self._answer, args=(client, server, cut), daemon=True).start()

    def _send(self, client: socket.socket, server: socket.socket, cut: list[Cut]) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                self._flows.wait()
                if self._cuts and b"COMMIT\x00" in data and b"writers" in data:
                    cut.append(self._cuts.pop(0))
                    self.made += 1
                    if cut == ["before"]:
                        break
                if cut == ["all silent after"]:
                    cut.clear()
                    self.silence()
                if cut != ["silent before"]:
                    server.sendall(data)
        if cut != ["after"]:
            _end(client, server)

    def _answer(self, client: socket.socket, server: socket.socket, cut: list[Cut]) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                self._flows.wait()
                if cut == ["after"]:
                    break
                if cut != ["silent after"]:
                    client.sendall(data)
        _end(client, server)


def _end(*ends: socket.socket) -> None:
    for each in ends:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
