"""The parts of a sum, each of which one host gives, and the hosts that may give it. Pure.

No pick takes the last host of another part: a host may give a part only if each later part can still have a host of its
own.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from gpuproxy.model.chunks import Shape, canonical
from gpuproxy.model.offers import HostKey, Offer, ProviderName
from gpuproxy.model.strategies import Target


@dataclass(slots=True)
class Host:
    """A host with offers that fit the request."""

    key: HostKey
    provider: ProviderName
    target: Target
    """The host's state before this call."""
    offers: list[Offer]
    """By size, then cheapest first. The lists in `sizes` have the same order."""
    sizes: dict[int, list[Offer]]
    shape: Shape

    def giving(self, total: int) -> list[Offer]:
        """The offers that make `total` GPUs of this host."""
        offers = canonical(self.offers)
        return [offers[index] for index in self.shape.ways[total]]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """`total` GPUs from any one of these hosts. Two parts are equal only if they are the same object."""

    hosts: Sequence[Host]
    total: int


Kind = int
"""The parts that a host can give, as a bit mask. Hosts of one kind are interchangeable."""


class Supply:
    """The hosts that are left for the parts that are left, as counts of each kind."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._left = Counter(parts)
        self._bits = {part: 1 << place for place, part in enumerate(self._left)}
        self._kinds: dict[HostKey, Kind] = {}
        for part, bit in self._bits.items():
            for host in part.hosts:
                self._kinds[host.key] = self._kinds.get(host.key, 0) | bit
        self._free = Counter(self._kinds.values())

    def kinds(self, part: Part) -> frozenset[Kind]:
        """The kinds of hosts that may give `part` now. There is one, if the parts were possible at first.

        By Hall's theorem, all other parts can have hosts of their own as long as no set of them is larger than the
        number of hosts that can give one of the set. So no host is taken that can give one of a set without a reserve.
        """
        bit = self._bits[part]
        related = self._related(bit)
        # All sets of related parts: at most 6 different parts, because they make at most 16 GPUs together.
        sets, rest = [0], related
        while rest:
            lowest = rest & -rest
            sets += [each | lowest for each in sets]
            rest ^= lowest
        full = [each for each in sets if each and self._reserve(each, besides=bit) == 0]
        able = (kind for kind, hosts in self._free.items() if hosts and kind & bit)
        return frozenset(kind for kind in able if not any(kind & each for each in full))

    def hosts(self, part: Part, kinds: Collection[Kind]) -> list[Host]:
        """The hosts of these kinds that are left for `part`."""
        return [host for host in part.hosts if self._kinds.get(host.key) in kinds]

    def take(self, host: Host, part: Part) -> None:
        """`host` gives `part`: both are no longer left."""
        self._free[self._kinds.pop(host.key)] -= 1
        self._left[part] -= 1

    def _related(self, bit: int) -> int:
        """The parts that need hosts of the same kinds as this one, directly or through others."""
        found, before = bit, 0
        while found != before:
            before = found
            for kind in self._free:
                if kind & found:
                    found |= kind
        return found

    def _reserve(self, parts: int, *, besides: int) -> int:
        """How many more hosts can give one of `parts` than they need, once the part `besides` has its host."""
        needed = sum(count for part, count in self._left.items() if self._bits[part] & parts)
        able = sum(hosts for kind, hosts in self._free.items() if kind & parts)
        return able - needed + bool(parts & besides)
