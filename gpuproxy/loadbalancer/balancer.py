"""Which offers to rent: chunk sizes with the exact sum, then a host for each size by the strategy, with the reason.

Pure and exact: integers only, and a total order for ties. So the same market gives the same choice, whatever the order
of its offers. Ties in a strategy's score are broken by price, then reliability, then the longest time since a pick,
then name. Hosts are compared, not offers: an offer disappears once it is rented, its host does not.
"""

from bisect import insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import groupby

from gpuproxy.loadbalancer.parts import Host, Part, Supply
from gpuproxy.model.chunks import IMPOSSIBLE, Aim, Shape, exact_sum, shape
from gpuproxy.model.demands import Packing
from gpuproxy.model.load import UNTOUCHED, HostLoad, Rotation
from gpuproxy.model.money import Micro, dollars
from gpuproxy.model.offers import DEFAULT_DISK_GB, HostKey, Offer, OfferId, ProviderName
from gpuproxy.model.reservations import Decision, Pick
from gpuproxy.model.strategies import STRATEGIES, PeerTimes, Strategy, Target, TurnState, strategy_by_name, weight

_TOP = 5
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_THIS_CALL = 1 << 62
"""Added to the picks of this call, so that they count as later than any pick before it (in microseconds since 1970)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """How many GPUs (1-16), in which packing, and the disk in GB for each offer: prices depend on the disk."""

    count: int
    packing: Packing = "any"
    disk_gb: float = DEFAULT_DISK_GB


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The picked offers in the order of their picks. An offer without conflict keys may occur twice."""

    picks: tuple[Offer, ...]
    decision: Decision
    rotation: Rotation = field(default_factory=Rotation)
    """The state of the strategy after these picks. It must be stored together with them."""


class Shortage(Exception):
    """The exact sum can't be made of the offers."""

    def __init__(
        self, *, available: int, best: int, per_provider: Mapping[ProviderName, int], sizes: tuple[int, ...]
    ) -> None:
        super().__init__(f"{available} GPUs at once, in chunks of {sizes}")
        self.available = available
        """GPUs that can be rented at once in this packing. It may reach the count if only the sizes do not fit."""
        self.best = best
        """The largest sum below the count that can be made."""
        self.per_provider = per_provider
        self.sizes = sizes
        """The chunk sizes on offer, ascending."""


def choose(
    want: Want,
    offers: Sequence[Offer],
    load: Mapping[HostKey, HostLoad],
    strategy: str,
    rotation: Rotation | None = None,
) -> Choice:
    """Exactly `want.count` GPUs out of `offers`, which have passed every filter. Raises Shortage.

    The decision counts all offers as considered and eligible. The caller, who filtered them, corrects these counts.
    """
    rotation = rotation or Rotation()
    chosen = strategy_by_name(strategy)
    market = _Market(want, offers, load, measured=strategy == "least_response_time")
    parts = market.plan()
    run = _run(market, parts, chosen, rotation)
    lowest = STRATEGIES["lowest_price"]
    cheapest = run if chosen is lowest else _run(market, parts, lowest, Rotation())
    # It chooses a host at a time, so its sum can be above that of another strategy.
    least = min(sum(market.prices[offer.id] for offer in each.picks) for each in (run, cheapest))
    decision = Decision(
        strategy=strategy,
        considered=len(offers),
        eligible=len(offers),
        rejected=(),
        sizes=tuple(offer.num_gpus for offer in run.picks),
        picks=tuple(run.reasons),
        top=run.top,
        cheapest_alternative=Micro(least),
    )
    return Choice(picks=tuple(run.picks), decision=decision, rotation=run.rotation(rotation))


def reach(want: Want, offers: Sequence[Offer]) -> int:
    """The largest sum up to `want.count` that can be made of `offers`."""
    try:
        _Market(want, offers, {}, measured=False).plan()
    except Shortage as shortage:
        return shortage.best
    return want.count


def _run(market: "_Market", parts: Sequence[Part], strategy: Strategy, rotation: Rotation) -> "_Run":
    """A host for each size by the strategy. If that can't be completed or the packing needs it, one for each part."""
    if market.want.packing in _BY_SIZE:
        run = _Run(market, strategy, rotation)
        if run.pick_sizes(size for part in parts for size in part.hosts[0].shape.sizes[part.total]):
            return run
    run = _Run(market, strategy, rotation)
    run.pick_hosts(parts)
    return run


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

    def __init__(
        self, want: Want, offers: Sequence[Offer], load: Mapping[HostKey, HostLoad], *, measured: bool
    ) -> None:
        self.want = want
        self.prices: dict[OfferId, Micro] = {}
        only_single, disk_gb = want.packing == "single", want.disk_gb
        hosts: dict[HostKey, list[_Ranked]] = {}
        for place, offer in enumerate(offers):
            size, offer_id = offer.num_gpus, offer.id
            price = self.prices[offer_id] = offer.price(disk_gb)
            if size == 1 or not only_single:
                native = offer_id.partition("-")[2]
                number = int(native) if native.isdecimal() else 0  # ids that are no numbers are compared as text
                ranked = size, price, -offer.reliability_ppm, number, offer_id, place, offer
                hosts.setdefault(offer.host, []).append(ranked)
        like, aim = PeerTimes(load) if measured else None, _AIMS[want.packing]
        self.hosts = [_host(key, own, load.get(key, UNTOUCHED), like, aim) for key, own in hosts.items()]

    def plan(self) -> Sequence[Part]:
        """The parts that make the sum, and the hosts that could give each part. Raises Shortage."""
        groups: dict[Shape, list[Host]] = {}
        for host in self.hosts:
            groups.setdefault(host.shape, []).append(host)
        if self.want.packing == "single_host":
            return [self._one_part(groups)]
        ordered = sorted(groups.items(), key=lambda group: (group[0].costs, group[0].ways, group[0].sizes))
        parts, best = exact_sum([(each, len(hosts)) for each, hosts in ordered], self.want.count)
        if parts is None:
            raise self._shortage(sum(each.most * len(hosts) for each, hosts in ordered), best)
        if self.want.packing in _BY_SIZE:
            made = {(index, total): Part(ordered[index][1], total) for index, total in set(parts)}
            return [made[part] for part in parts]
        # Fewest chunks first, so that equal parts are neighbours.
        wanted = sorted((total, ordered[index][0].costs[total]) for index, total in parts)
        able = {(total, cost): _able(groups, total, cost) for total, cost in set(wanted)}
        return [able[part] for part in wanted]

    def _one_part(self, groups: Mapping[Shape, Sequence[Host]]) -> Part:
        count = self.want.count
        fewest = min((each.costs[count] for each in groups), default=IMPOSSIBLE)
        if fewest == IMPOSSIBLE:
            sums = {total for each in groups for total in range(count) if each.costs[total] < IMPOSSIBLE}
            raise self._shortage(max((each.most for each in groups), default=0), max(sums, default=0))
        return _able(groups, count, fewest)

    def _shortage(self, available: int, best: int) -> Shortage:
        join = max if self.want.packing == "single_host" else int.__add__
        per_provider: dict[ProviderName, int] = {}
        for host in sorted(self.hosts, key=lambda host: host.provider):
            per_provider[host.provider] = join(per_provider.get(host.provider, 0), host.shape.most)
        sizes = {size for host in self.hosts for size in host.sizes}
        return Shortage(available=available, best=best, per_provider=per_provider, sizes=tuple(sorted(sizes)))


_Ranked = tuple[int, int, int, int, OfferId, int, Offer]
"""An offer behind its rank among those of its host: best first among those of one size. No two have the same rank."""
_Rank = tuple[int, int, int, int, int, str, str]
"""Score, second score, price, minus reliability, last pick, provider and host: smaller is better.

No two entries have the same rank: a host takes part with one offer at a time, the first in the order of `_Market`.
"""
_Entry = tuple[_Rank, Host, Offer, int]
"""Rank, host, offer and weight."""


class _Run:
    """One pass of a strategy over the market."""

    def __init__(self, market: _Market, strategy: Strategy, rotation: Rotation) -> None:
        self._market = market
        self._strategy = strategy
        self._course = TurnState(rotation)
        self._picked: dict[HostKey, Target] = {}
        """The hosts that were picked in this run, with their changed state."""
        self._used: dict[HostKey, set[str]] = {}
        self.picks: list[Offer] = []
        self.reasons: list[Pick] = []
        self.top: tuple[Pick, ...] = ()

    def pick_sizes(self, sizes: Iterable[int]) -> bool:
        """Pick a host for each size, larger sizes first. False if no host is left for one of them."""
        for size, same in groupby(sorted(sizes, reverse=True)):
            race = _Race(self._entries(self._market.hosts, size), self._course)
            for _ in same:
                if not race:
                    return False
                rank, host, offer, why = self._win(race)
                self._pick(host, offer, why)
                self._take_turn(host, rank[0], offer.num_gpus)
                for entry in self._entries([host], size):
                    race.add(entry)
            race.end()
        return True

    def pick_hosts(self, parts: Iterable[Part]) -> None:
        """Pick a host for each part, larger parts first. It gives the whole part as planned."""
        ordered = sorted(parts, key=lambda part: -part.total)
        supply = Supply(ordered)
        of: tuple[Part, frozenset[int]] | None = None
        race = _Race((), self._course)
        for part in ordered:
            kinds = supply.kinds(part)
            if of != (part, kinds):
                race.end()
                race = _Race((self._whole(host, part) for host in supply.hosts(part, kinds)), self._course)
                of = part, kinds
            rank, host, _, why = self._win(race)
            for offer in host.giving(part.total):
                self._pick(host, offer, why)
            self._take_turn(host, rank[0], part.total)
            supply.take(host, part)
        race.end()

    def rotation(self, before: Rotation) -> Rotation:
        """The state of the strategy now."""
        course, weighted = self._course, self._strategy.weighted
        kept = {host: value for host, value in course.standing.items() if weighted or value > course.level}
        return replace(before, last=self.picks[-1].host, level=course.level, standing=kept)

    def _entries(self, hosts: Iterable[Host], size: int) -> Iterator[_Entry]:
        for host in hosts:
            if self._market.want.packing == "spread" and host.key in self._picked:
                continue
            used = self._used.get(host.key)
            for offer in host.sizes.get(size, ()):
                if used is None or used.isdisjoint(offer.conflict_keys):
                    yield self._entry(host, offer, self._market.prices[offer.id], size)
                    break

    def _whole(self, host: Host, part: Part) -> _Entry:
        given = host.giving(part.total)
        return self._entry(host, given[0], sum(self._market.prices[offer.id] for offer in given), part.total)

    def _entry(self, host: Host, offer: Offer, price: int, gpus: int) -> _Entry:
        strategy, course = self._strategy, self._course
        target = self._picked.get(host.key, host.target)
        score = strategy.score(target, course)
        if strategy.by_name:
            return (score, 0, 0, 0, 0, host.provider, host.key), host, offer, 0
        then = strategy.then(target, course) if strategy.then else 0
        rank = score, then, price, -offer.reliability_ppm, target.last_pick, host.provider, host.key
        return rank, host, offer, weight(offer.vram_gb, price, gpus) if strategy.weighted else 0

    def _win(self, race: "_Race") -> tuple[_Rank, Host, Offer, str]:
        best = race.win(2 if self.top else _TOP + 1)
        ranks: list[_Rank | None] = [entry[0] for entry in best]
        picks = [
            self._described(offer, _why(rank, after, by_name=self._strategy.by_name))
            for (rank, _, offer, _), after in zip(best, [*ranks[1:], None], strict=True)
        ]
        self.top = self.top or tuple(picks[:_TOP])
        return best[0][0], best[0][1], best[0][2], picks[0].why

    def _take_turn(self, host: Host, score: int, gpus: int) -> None:
        if self._strategy.turn is not None:
            self._strategy.turn(self._course, host.key, score, gpus)

    def _pick(self, host: Host, offer: Offer, why: str) -> None:
        self.picks.append(offer)
        self.reasons.append(self._described(offer, why))
        before = self._picked.get(host.key, host.target)
        self._picked[host.key] = replace(before, last_pick=_THIS_CALL + len(self.picks), picks=before.picks + 1)
        self._used.setdefault(host.key, set()).update(offer.conflict_keys)

    def _described(self, offer: Offer, why: str) -> Pick:
        price = self._market.prices[offer.id]
        return Pick(offer_id=offer.id, host=offer.host, num_gpus=offer.num_gpus, price=price, why=why)


class _Race:
    """The candidates for one size, best first.

    Without weights, a pick changes only the rank of the winner. With weights, it changes the ranks of all candidates,
    by the same amount for candidates of the same weight. So there is one list for each weight, which stays sorted.
    """

    def __init__(self, entries: Iterable[_Entry], course: TurnState) -> None:
        self._course = course
        self._lists: dict[int, list[_Entry]] = {}
        for entry in entries:
            self._lists.setdefault(entry[3], []).append(entry)
        for each in self._lists.values():
            each.sort(key=_rank_of)
        self._total = sum(heft * len(each) for heft, each in self._lists.items())
        self._turns = 0

    def __bool__(self) -> bool:
        return any(self._lists.values())

    def win(self, first: int) -> list[_Entry]:
        """The `first` best candidates of this turn. The winner leaves the race, unless it is added again."""
        self._turns += 1
        heads = [self._now(entry) for each in self._lists.values() for entry in each[:first]]
        best = sorted(heads, key=_rank_of)[:first]
        rank, host, _, heft = best[0]
        del self._lists[heft][0]
        if heft:
            self._course.standing[host.key] = -rank[0] - self._total
            self._total -= heft
        return best

    def add(self, entry: _Entry) -> None:
        """Add a candidate again, with its rank as of now."""
        rank, host, offer, heft = entry
        started = (rank[0] + heft * self._turns, *rank[1:]), host, offer, heft
        insort(self._lists.setdefault(heft, []), started, key=_rank_of)
        self._total += heft

    def end(self) -> None:
        """Store the credit that the losers have gained."""
        for heft, each in self._lists.items():
            if heft:
                gained = heft * self._turns
                self._course.standing.update((host.key, gained - rank[0]) for rank, host, _, _ in each)

    def _now(self, entry: _Entry) -> _Entry:
        rank, host, offer, heft = entry
        return entry if not heft else ((rank[0] - heft * self._turns, *rank[1:]), host, offer, heft)


def _rank_of(entry: _Entry) -> _Rank:
    return entry[0]


def _why(rank: _Rank, after: _Rank | None, *, by_name: bool) -> str:
    """The first rule that ranks a candidate before the runner-up, in words."""
    score, then, price, unreliability, last, *_ = rank
    if after is None:
        return "the only candidate left"
    if score < after[0]:
        return f"lowest score ({score}; runner-up {after[0]})"
    if by_name:
        return f"same score ({score}) as the runner-up; first by name"
    if then < after[1]:
        return f"fewest live leases ({then}; runner-up {after[1]})"
    if price < after[2]:
        return f"cheapest ({dollars(price)}/h; runner-up {dollars(after[2])}/h)"
    if unreliability < after[3]:
        percent, other = -unreliability / 10_000, -after[3] / 10_000
        return f"same price; most reliable ({percent:g} %; runner-up {other:g} %)"
    if last < after[4]:
        return "same price and reliability; longest time since the last pick"
    return "same as the runner-up by every rule; first by name"


def _able(groups: Mapping[Shape, Sequence[Host]], total: int, cost: int) -> Part:
    """So many GPUs from any host that gives them at this cost, whatever else it offers."""
    return Part([host for each, hosts in groups.items() if each.costs[total] == cost for host in hosts], total)


def _host(key: HostKey, ranked: "list[_Ranked]", load: HostLoad, like: PeerTimes | None, aim: Aim) -> Host:
    picked_at = load.last_picked_at
    last = 0 if picked_at is None else (picked_at - _EPOCH) // timedelta(microseconds=1)
    if len(ranked) > 1:
        # A total order within the host, so that no result depends on the order of the offers. Hosts are ranked later.
        ranked.sort()
    offers = [each[-1] for each in ranked]
    sizes: dict[int, list[Offer]] = {}
    for offer in offers:
        sizes.setdefault(offer.num_gpus, []).append(offer)
    provider = offers[0].provider
    expected = like.expected(load, provider, offers[0].gpu_model) if like else 0
    return Host(key, provider, Target(key, load, last, expected), offers, sizes, shape(offers, aim))
