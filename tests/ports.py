"""Ports for the servers that tests start."""

import random
import socket
from contextlib import suppress

_PORTS = range(20_000, 32_768)
"""Below the ports that Linux gives to connections, so none takes the port before the server does."""


def free_port() -> int:
    """A port on loopback that nobody uses now."""
    chance = random.SystemRandom()
    while True:
        port = chance.choice(_PORTS)
        with socket.socket() as found, suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port
