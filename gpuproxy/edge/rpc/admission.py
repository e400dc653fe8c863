"""Rooms: how many callers may be somewhere at once, in all and from one network. Who finds no place is told at once.

Nobody waits for a place: a queue that strangers can fill would keep others out as well as the room itself.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network

from gpuproxy.model.errors import TooManyCalls

_IPV6_NETWORK = 64


class Room:
    """So many places."""

    def __init__(self, most: int, *, per_network: int | None = None) -> None:
        """`per_network`: of an IPv6 peer's network, else of its address; None: no matter where from."""
        self._most = most
        self._per_network = per_network
        self._taken = 0
        self._networks: Counter[str] = Counter()

    @contextmanager
    def place(self, peer: str) -> Iterator[None]:
        """A place until the end of the block; raises TooManyCalls when there is none."""
        network = "" if self._per_network is None else network_of(peer)
        crowded = self._per_network is not None and self._networks[network] >= self._per_network
        if crowded or self._taken >= self._most:
            raise TooManyCalls("Too many calls are under way; nothing happened. Try again in a moment.", retry_after=1)
        self._taken += 1
        self._networks[network] += 1
        try:
            yield
        finally:
            self._taken -= 1
            self._networks[network] -= 1
            if not self._networks[network]:
                del self._networks[network]


def network_of(peer: str) -> str:
    """Where a call comes from, without the port; of an IPv6 address the network, which one stranger may own whole."""
    text = peer.replace("%5B", "[").replace("%5D", "]")
    for scheme in ("ipv4:", "ipv6:"):
        text = text.removeprefix(scheme)
    host = text[1:].partition("]")[0] if text.startswith("[") else text
    host = host.partition(":")[0] if host.count(":") == 1 else host
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    return str(ip_network((address, _IPV6_NETWORK), strict=False)) if address.version == 6 else str(address)
