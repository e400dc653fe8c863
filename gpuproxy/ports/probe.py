"""The probe port: whether a machine is reachable."""

from typing import Literal, Protocol

ProbeKind = Literal["tcp", "ssh", "ssh_login", "http"]
"""What an address must do: accept a connection; also send SSH's banner; also let the check key in.

http: a GET of `path` is answered with a status from 200 to 299.
"""


class Probe(Protocol):
    """Checks whether an address is reachable from this server."""

    async def reachable(
        self, kind: ProbeKind, host: str, port: int, timeout: float, *, path: str = "/", user: str = "root"
    ) -> bool:
        """True if the address does what `kind` names. Never raises. `timeout` is in real seconds.

        `path` is for http only: the path and query of the URL. `user` is for ssh_login only: who logs in.
        """
