"""Which offers to rent: sizes that make the exact sum, then a host for each by the strategy, with the reason.

Pure and exact: integers only, ties broken by a total order, so the same market gives the same choice in whatever
order its offers come. A strategy is one function here that scores a host; its name is the wire name and its docstring
what users read. What a score leaves equal is decided by price, then reliability, then the longest time since a pick,
then name. Hosts are compared, not offers: an offer is gone once it is rented, its host is not.
"""

from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby

from gpuproxy.model.chunks import IMPOSSIBLE, Aim, Shape, by_host, canonical, exact_sum, shape
from gpuproxy.model.demands import Packing
from gpuproxy.model.errors import InvalidArgument, NotBuilt, Violation
from gpuproxy.model.load import UNTOUCHED, HostLoad
from gpuproxy.model.money import Micro, dollars
from gpuproxy.model.offers import DEFAULT_DISK_GB, HostKey, Offer, ProviderName
from gpuproxy.model.reservations import Decision, Pick

STRATEGIES = (
    "round_robin",
    "equal_weighted",
    "weighted_round_robin",
    "least_connections",
    "least_response_time",
    "lowest_price",
)
DEFAULT_STRATEGY = "least_connections"
_TOP = 5
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_THIS_CALL = 1 << 62
"""Later than any pick before this call, on the scale of microseconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """How many GPUs (1-16) in what packing, and the disk that is rented with each offer: prices depend on it."""

    count: int
    packing: Packing = "any"
    disk_gb: float = DEFAULT_DISK_GB


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The offers in the order in which they were picked. An offer without conflict keys may be there twice."""

    picks: tuple[Offer, ...]
    decision: Decision


class Shortage(Exception):
    """The exact sum can't be made of what there is."""

    def __init__(
        self, *, available: int, best: int, per_provider: Mapping[ProviderName, int], sizes: tuple[int, ...]
    ) -> None:
        super().__init__(f"{available} GPUs at once, in chunks of {sizes}")
        self.available = available
        """GPUs to be had at once in this packing; it may reach the count when only the sizes do not fit."""
        self.best = best
        """The largest sum below the count that can be made."""
        self.per_provider = per_provider
        self.sizes = sizes
        """The sizes that are on offer, ascending."""


@dataclass(frozen=True, slots=True)
class Target:
    """One host as a strategy sees it."""

    load: HostLoad
    last_pick: int
    """On a scale on which later is more; 0: never."""
    picks: int = 0
    """By this call so far."""


Score = Callable[[Target], int]
"""A strategy: the least score wins."""


def least_connections(target: Target) -> int:
    """Where the fewest of our leases are live; creates in flight and unknown ones count."""
    return target.load.live + target.picks


def lowest_price(target: Target) -> int:
    """The cheapest GPU-hour, disk included."""
    del target
    return 0


BUILT: Mapping[str, Score] = {"least_connections": least_connections, "lowest_price": lowest_price}


def strategy_named(name: str) -> Score:
    """The strategy; raises NotBuilt for one that is still to come, InvalidArgument for any other word."""
    if name in BUILT:
        return BUILT[name]
    if name in STRATEGIES:
        raise NotBuilt(f"Strategy {name} is not built yet; there are {', '.join(BUILT)}.", metadata={"strategy": name})
    raise InvalidArgument([Violation("strategy", f"{name!r} is none of {', '.join(STRATEGIES)}")])


def choose(want: Want, offers: Sequence[Offer], load: Mapping[HostKey, HostLoad], strategy: str) -> Choice:
    """Exactly `want.count` GPUs out of `offers`, which have passed every filter; raises Shortage, NotBuilt.

    The decision counts all offers as considered and eligible: who filtered them knows better and replaces that.
    """
    score = strategy_named(strategy)
    market = _Market(want, offers, load)
    parts = market.plan()
    run = _run(market, parts, score)
    cheapest = run if score is lowest_price else _run(market, parts, lowest_price)
    decision = Decision(
        strategy=strategy,
        considered=len(offers),
        eligible=len(offers),
        rejected=(),
        sizes=tuple(offer.num_gpus for offer in run.picks),
        picks=tuple(run.reasons),
        top=run.top,
        cheapest_alternative=Micro(sum(market.prices[offer.id] for offer in cheapest.picks)),
    )
    return Choice(picks=tuple(run.picks), decision=decision)


def _run(market: "_Market", parts: "Sequence[_Part]", score: Score) -> "_Run":
    """The hosts by the strategy, size for size; as planned where that can't be completed or hosts come first."""
    if market.want.packing in _BY_SIZE:
        run = _Run(market, score)
        if run.pick_sizes(size for part in parts for size in part.shape.sizes[part.total]):
            return run
    run = _Run(market, score)
    run.pick_hosts(parts)
    return run


@dataclass(slots=True)
class _Host:
    key: HostKey
    provider: ProviderName
    target: Target
    """Before this call."""
    offers: list[Offer]
    """By size, then cheapest first; so are `sizes`."""
    sizes: dict[int, list[Offer]]


@dataclass(frozen=True, slots=True)
class _Part:
    """So many GPUs from any one of these hosts, which can all give them in the same way."""

    hosts: Sequence[_Host]
    shape: Shape
    total: int

    def given_by(self, host: _Host) -> list[Offer]:
        """What it is when `host` gives it."""
        offers = canonical(host.offers)
        return [offers[index] for index in self.shape.ways[self.total]]


_AIMS: Mapping[Packing, Aim] = {
    "any": "singles",
    "single": "singles",
    "spread": "one",
    "pack": "few",
    "single_host": "few",
}
_BY_SIZE: frozenset[Packing] = frozenset({"any", "single", "spread"})


class _Market:
    """The offers by host, with prices, and the sums that can be made of them."""

    def __init__(self, want: Want, offers: Sequence[Offer], load: Mapping[HostKey, HostLoad]) -> None:
        self.want = want
        self.prices = {offer.id: offer.price(want.disk_gb) for offer in offers}
        usable = [offer for offer in offers if want.packing != "single" or offer.num_gpus == 1]
        # One total order for the whole call: what follows from it can't depend on how the offers came.
        usable.sort(key=self._rank)
        self.hosts = [_host(key, own, load.get(key, UNTOUCHED)) for key, own in by_host(usable).items()]

    def _rank(self, offer: Offer) -> tuple[int, int, int, int, str]:
        """Among offers of one size and host, best first."""
        return offer.num_gpus, self.prices[offer.id], -offer.reliability_ppm, _number(offer), offer.id

    def plan(self) -> Sequence[_Part]:
        """How the sum is made, and which hosts could give the parts; raises Shortage."""
        aim = _AIMS[self.want.packing]
        groups: dict[Shape, list[_Host]] = {}
        for host in self.hosts:
            groups.setdefault(shape(host.offers, aim), []).append(host)
        if self.want.packing == "single_host":
            return [self._one_part(groups)]
        ordered = sorted(groups.items(), key=lambda group: (group[0].costs, group[0].ways, group[0].sizes))
        parts, best = exact_sum([(each, len(hosts)) for each, hosts in ordered], self.want.count)
        if parts is None:
            raise self._shortage(sum(each.most * len(hosts) for each, hosts in ordered), best)
        return [_Part(ordered[index][1], ordered[index][0], total) for index, total in parts]

    def _one_part(self, groups: Mapping[Shape, Sequence[_Host]]) -> _Part:
        count = self.want.count
        able = [each for each in groups if each.costs[count] < IMPOSSIBLE]
        if not able:
            sums = {total for each in groups for total in range(count) if each.costs[total] < IMPOSSIBLE}
            raise self._shortage(max((each.most for each in groups), default=0), max(sums, default=0))
        fewest = min(able, key=lambda each: (each.costs[count], each.ways, each.sizes))
        return _Part(groups[fewest], fewest, count)

    def _shortage(self, available: int, best: int) -> Shortage:
        join = max if self.want.packing == "single_host" else int.__add__
        per_provider: dict[ProviderName, int] = {}
        for host in sorted(self.hosts, key=lambda host: host.provider):
            most = shape(host.offers, _AIMS[self.want.packing]).most
            per_provider[host.provider] = join(per_provider.get(host.provider, 0), most)
        sizes = {size for host in self.hosts for size in host.sizes}
        return Shortage(available=available, best=best, per_provider=per_provider, sizes=tuple(sorted(sizes)))


_Rank = tuple[int, int, int, int, str, str]
"""Score, price, minus reliability, last pick, provider and host: less is better.

That ends the chain: a host takes part with one offer at a time, and `_Market` has ordered its own.
"""
_Entry = tuple[_Rank, _Host, Offer]


class _Run:
    """One pass of a strategy over the market."""

    def __init__(self, market: _Market, score: Score) -> None:
        self._market = market
        self._score = score
        self._picked: dict[HostKey, Target] = {}
        """The hosts whose standing has changed."""
        self._used: dict[HostKey, set[str]] = {}
        self.picks: list[Offer] = []
        self.reasons: list[Pick] = []
        self.top: tuple[Pick, ...] = ()

    def pick_sizes(self, sizes: Iterable[int]) -> bool:
        """A host for each size, larger ones first; False when what was picked leaves no room for the rest."""
        for size, same in groupby(sorted(sizes, reverse=True)):
            entries = sorted(self._entries(self._market.hosts, size), key=_rank_of)
            for _ in same:
                if not entries:
                    return False
                self._note_top(entries)
                rank, host, offer = entries.pop(0)
                self._pick(host, offer, _why(rank, entries[0][0] if entries else None))
                # Only this host's standing has changed.
                for entry in self._entries([host], size):
                    insort(entries, entry, key=_rank_of)
        return True

    def pick_hosts(self, parts: Iterable[_Part]) -> None:
        """A host for each part, which gives all of it in the way that was planned."""
        for part in sorted(parts, key=lambda part: -part.total):
            free = [host for host in part.hosts if host.key not in self._picked]
            entries = sorted((self._whole(host, part) for host in free), key=_rank_of)
            self._note_top(entries)
            rank, host, _ = entries[0]
            why = _why(rank, entries[1][0] if len(entries) > 1 else None)
            for offer in part.given_by(host):
                self._pick(host, offer, why)

    def _entries(self, hosts: Iterable[_Host], size: int) -> Iterator[_Entry]:
        for host in hosts:
            if self._market.want.packing == "spread" and host.key in self._picked:
                continue
            used = self._used.get(host.key)
            for offer in host.sizes.get(size, ()):
                if used is None or used.isdisjoint(offer.conflict_keys):
                    yield self._entry(host, offer, self._market.prices[offer.id])
                    break

    def _whole(self, host: _Host, part: _Part) -> _Entry:
        given = part.given_by(host)
        return self._entry(host, given[0], sum(self._market.prices[offer.id] for offer in given))

    def _entry(self, host: _Host, offer: Offer, price: int) -> _Entry:
        target = self._picked.get(host.key, host.target)
        rank = self._score(target), price, -offer.reliability_ppm, target.last_pick, host.provider, host.key
        return rank, host, offer

    def _pick(self, host: _Host, offer: Offer, why: str) -> None:
        self.picks.append(offer)
        self.reasons.append(self._described(offer, why))
        before = self._picked.get(host.key, host.target)
        self._picked[host.key] = Target(before.load, _THIS_CALL + len(self.picks), before.picks + 1)
        self._used.setdefault(host.key, set()).update(offer.conflict_keys)

    def _note_top(self, entries: Sequence[_Entry]) -> None:
        if self.top:
            return
        best = entries[: _TOP + 1]
        following = [entry[0] for entry in best[1:]] + [None]
        described = [
            self._described(offer, _why(rank, after)) for (rank, _, offer), after in zip(best, following, strict=True)
        ]
        self.top = tuple(described[:_TOP])

    def _described(self, offer: Offer, why: str) -> Pick:
        price = self._market.prices[offer.id]
        return Pick(offer_id=offer.id, host=offer.host, num_gpus=offer.num_gpus, price=price, why=why)


def _rank_of(entry: _Entry) -> _Rank:
    return entry[0]


def _why(rank: _Rank, after: _Rank | None) -> str:
    """The first rule by which one candidate comes before the next."""
    score, price, unreliability, last, *_ = rank
    if after is None:
        return "the only one left"
    if score < after[0]:
        return f"score {score}, next {after[0]}"
    if price < after[1]:
        return f"score {score} as the next; {dollars(price)}/h, next {dollars(after[1])}/h"
    if unreliability < after[2]:
        return f"score and price as the next; reliability {-unreliability / 10_000:g} %, next {-after[2] / 10_000:g} %"
    if last < after[3]:
        return "score, price and reliability as the next; longest since its last pick"
    return "as the next in everything; first by name"


def _host(key: HostKey, offers: list[Offer], load: HostLoad) -> _Host:
    picked_at = load.last_picked_at
    last = 0 if picked_at is None else (picked_at - _EPOCH) // timedelta(microseconds=1)
    sizes: dict[int, list[Offer]] = {}
    for offer in offers:
        sizes.setdefault(offer.num_gpus, []).append(offer)
    return _Host(key, offers[0].provider, Target(load, last), offers, sizes)


def _number(offer: Offer) -> int:
    """Numeric ids in numeric order; others by their text."""
    native = offer.native_id()
    return int(native) if native.isdecimal() else 0
