"""The probe port: whether a machine is reachable."""

from typing import Literal, Protocol

ProbeKind = Literal["tcp", "ssh", "ssh_login"]
"""What an address must do: accept a connection; also send SSH's banner; also let the check key in."""


class Probe(Protocol):
    """Checks whether an address is reachable from this server."""

    async def reachable(self, kind: ProbeKind, host: str, port: int, timeout: float) -> bool:
        """True if the address does what `kind` names. Never raises. `timeout` is in real seconds."""
