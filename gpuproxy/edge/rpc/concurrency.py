"""Limits on concurrent calls or connections: in total, and from one network. A call over the limit is refused at once.

Nobody waits for a slot: anonymous clients could fill a queue, and then it would keep everybody else out.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network

from gpuproxy.model.errors import TooManyCalls

_IPV6_NETWORK = 64


class ConcurrencyLimit:
    """A number of slots that callers hold for a while."""

    def __init__(self, limit: int, *, per_network: int | None = None) -> None:
        """`per_network` limits an IPv4 address or an IPv6 /64 network; None sets no such limit."""
        self._limit = limit
        self._per_network = per_network
        self._used = 0
        self._used_by_network: Counter[str] = Counter()

    @contextmanager
    def slot(self, peer: str) -> Iterator[None]:
        """Hold one slot until the block ends; raises TooManyCalls when none is free."""
        network = "" if self._per_network is None else network_of(peer)
        network_full = self._per_network is not None and self._used_by_network[network] >= self._per_network
        if network_full or self._used >= self._limit:
            raise TooManyCalls(
                "Too many calls are running at the moment. This call did nothing; retry it in a second.", retry_after=1
            )
        self._used += 1
        self._used_by_network[network] += 1
        try:
            yield
        finally:
            self._used -= 1
            self._used_by_network[network] -= 1
            if not self._used_by_network[network]:
                del self._used_by_network[network]


def network_of(peer: str) -> str:
    """The address of a peer without its port; for IPv6 the /64 network, because one client usually has all of it."""
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
