"""Whether a machine is reachable."""

from typing import Literal, Protocol


class Probe(Protocol):
    """Whether something is reachable from here."""

    async def reachable(self, kind: Literal["tcp", "ssh"], host: str, port: int, timeout: float) -> bool:
        """tcp: it accepts; ssh: it accepts and greets. `timeout` in real seconds. Never raises."""
