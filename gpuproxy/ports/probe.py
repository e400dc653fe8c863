"""The probe port: whether a machine is reachable."""

from typing import Literal, Protocol


class Probe(Protocol):
    """Checks whether an address is reachable from this server."""

    async def reachable(self, kind: Literal["tcp", "ssh"], host: str, port: int, timeout: float) -> bool:
        """True if the address accepts a connection and, for ssh, sends its banner. Never raises.

        `timeout` is in real seconds.
        """
