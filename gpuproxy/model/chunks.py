"""The number of GPUs of a host that can be rented at the same time, although its offered chunks overlap.

A marketplace offers a host of eight GPUs as one chunk of eight, two of four, four of two and so on. Chunks with a
common conflict key exclude each other, so their GPUs must not be added up. Conflict keys never span hosts.
Every count of available GPUs in the program comes from here. An offer without keys can be rented many times; it counts
as many times as one call could rent it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from gpuproxy.model.demands import MAX_GPUS
from gpuproxy.model.groups import Alike, by_group
from gpuproxy.model.offers import HostKey, Offer

Aim = Literal["singles", "few", "one"]
"""Which combination of chunks for a sum is best.

singles: the fewest chunks with several GPUs, then the fewest GPUs in those. few: the fewest hosts, then the fewest
chunks. one: like singles, with at most one chunk per host.
"""

IMPOSSIBLE = 1 << 30
_STEP = 1 << 10
_EXACT_KEYS = 12  # up to so many keys, chunks that cross instead of nesting are searched exhaustively


@dataclass(frozen=True, slots=True)
class Shape:
    """The combinations of chunks that a host allows. Hosts with equal shapes differ only in their prices.

    For n up to MAX_GPUS, `costs[n]` is the cost of the best combination with exactly n GPUs; less is better, and
    IMPOSSIBLE means that there is none. `ways[n]` has the chunks of that combination as positions in
    `canonical(offers)`. `most` is the largest number of GPUs that can be rented at once.
    """

    most: int
    costs: tuple[int, ...]
    ways: tuple[tuple[int, ...], ...]
    sizes: tuple[tuple[int, ...], ...]
    """The sizes of the chunks in `ways`."""


def rentable_gpus(offers: Iterable[Offer]) -> int:
    """The number of GPUs that can be rented at the same time."""
    return sum(shape(own, "singles").most for own in by_host(offers).values())


def most_alike(offers: Iterable[Offer], alike: Alike) -> int:
    """The number of GPUs that can be rented at the same time in the group that has most of them."""
    return max(map(rentable_gpus, by_group(offers, alike).values()), default=0)


def by_host(offers: Iterable[Offer]) -> dict[HostKey, list[Offer]]:
    """The offers of each host, in their original order."""
    hosts: dict[HostKey, list[Offer]] = {}
    for offer in offers:
        hosts.setdefault(offer.host, []).append(offer)
    return hosts


def exact_sum(supply: Sequence[tuple[Shape, int]], count: int) -> tuple[list[tuple[int, int]] | None, int]:
    """The best way to get exactly `count` GPUs, and the largest possible sum up to `count`.

    `supply` is a list of (shape, number of such hosts). The way is a list of (index into `supply`, GPUs of one such
    host); it is None if the exact sum isn't possible.
    """
    costs = [0, *[IMPOSSIBLE] * count]
    steps: list[tuple[int, list[int]]] = []
    for index, (each, hosts) in enumerate(supply):
        for _ in range(min(hosts, count)):
            before, costs = costs, _with_one_more(costs, each)
            if costs == before:
                break
            steps.append((index, before))
    best = max(total for total, cost in enumerate(costs) if cost < IMPOSSIBLE)
    return (_traced_back(supply, steps, costs) if best == count else None), best


def _with_one_more(costs: Sequence[int], each: Shape) -> list[int]:
    gives = [(total, cost) for total, cost in enumerate(each.costs[: len(costs)]) if cost < IMPOSSIBLE]
    return [
        min((costs[total - part] + cost for part, cost in gives if part <= total), default=IMPOSSIBLE)
        for total in range(len(costs))
    ]


def _traced_back(
    supply: Sequence[tuple[Shape, int]], steps: Sequence[tuple[int, list[int]]], costs: Sequence[int]
) -> list[tuple[int, int]]:
    parts = []
    left, cost = len(costs) - 1, costs[-1]
    for index, before in reversed(steps):
        each = supply[index][0].costs
        part = next(part for part in range(left + 1) if before[left - part] + each[part] == cost)
        if part:
            parts.append((index, part))
        left, cost = left - part, cost - each[part]
    return parts


def canonical(offers: Sequence[Offer]) -> list[Offer]:
    """A host's offers, largest first. Offers of equal size keep their order, for example cheapest first."""
    return sorted(offers, key=_size_descending)


def shape(offers: Sequence[Offer], aim: Aim) -> Shape:
    """The shape of one host, from its offers."""
    if len(offers) == 1:
        return _shape(((offers[0].num_gpus, int(bool(offers[0].conflict_keys))),), aim)
    return _shape(_chunks(tuple([(offer.num_gpus, offer.conflict_keys) for offer in offers])), aim)


def _size_descending(offer: Offer) -> int:
    return -offer.num_gpus


_Chunks = tuple[tuple[int, int], ...]
"""The size of each chunk, and its keys as a bit mask."""
_Table = list[tuple[int, tuple[int, ...]]]
"""Cost and way, indexed by the sum."""


@lru_cache(maxsize=8192)
def _chunks(offers: tuple[tuple[int, tuple[str, ...]], ...]) -> _Chunks:
    """The chunks of a host, largest first, from their sizes and keys. They are the same in many calls."""
    bits: dict[str, int] = {}
    chunks = []
    for size, keys in sorted(offers, key=_first_descending):
        mask = 0
        for key in keys:
            mask |= bits.setdefault(key, 1 << len(bits))
        chunks.append((size, mask))
    return tuple(chunks)


def _first_descending(offer: tuple[int, tuple[str, ...]]) -> int:
    return -offer[0]


@lru_cache(maxsize=8192)
def _shape(chunks: _Chunks, aim: Aim) -> Shape:
    known = [(index, size, mask) for index, (size, mask) in enumerate(_tractable(chunks)) if mask]
    unlimited = [(index, size) for index, (size, mask) in enumerate(chunks) if not mask]
    if aim == "one":
        table = _empty_table()
        for index, (size, _) in enumerate(chunks):
            _improve(table, size, _cost(size, aim), (index,))
        return _finished(max(size for size, _ in chunks), table, chunks, aim)
    most, table = _Search(known, aim).best
    for index, size in unlimited:
        for total in range(size, MAX_GPUS + 1):
            cost, way = table[total - size]
            _improve(table, total, cost + _cost(size, aim), (*way, index))
    return _finished(most + sum(size * MAX_GPUS for _, size in unlimited), table, chunks, aim)


def _finished(most: int, table: _Table, chunks: _Chunks, aim: Aim) -> Shape:
    host = _STEP if aim == "few" else 0
    costs = tuple(min(cost + host, IMPOSSIBLE) if total else 0 for total, (cost, _) in enumerate(table))
    ways = tuple(tuple(sorted(way)) for _, way in table)
    sizes = tuple(tuple(chunks[index][0] for index in way) for way in ways)
    return Shape(most, costs, ways, sizes)


def _cost(size: int, aim: Aim) -> int:
    if aim == "few":
        return 1
    return 0 if size == 1 else _STEP + size


def _empty_table() -> _Table:
    return [(0, ()), *[(IMPOSSIBLE, ())] * MAX_GPUS]


def _improve(table: _Table, total: int, cost: int, way: tuple[int, ...]) -> None:
    if total <= MAX_GPUS and cost < table[total][0]:
        table[total] = cost, way


class _Search:
    """A search of all sets of chunks without a common key, by recursion on the lowest free key.

    Keys are numbered so that nested chunks are runs of consecutive keys. The free keys are then always a tail, and the
    search is linear. If chunks cross, the search is exhaustive.
    """

    def __init__(self, chunks: Sequence[tuple[int, int, int]], aim: Aim) -> None:
        self._aim = aim
        self._by_lowest_key: dict[int, list[tuple[int, int, int]]] = {}
        masks = _consecutive([mask for _, _, mask in chunks])
        everything = 0
        for (index, size, _), mask in zip(chunks, masks, strict=True):
            everything |= mask
            self._by_lowest_key.setdefault(mask & -mask, []).append((index, size, mask))
        self._solved: dict[int, tuple[int, _Table]] = {0: (0, _empty_table())}
        self.best = self._solve(everything)

    def _solve(self, free: int) -> tuple[int, _Table]:
        if free in self._solved:
            return self._solved[free]
        lowest = free & -free
        most, rest = self._solve(free ^ lowest)
        table = list(rest)
        for index, size, mask in self._by_lowest_key.get(lowest, ()):
            if mask & free == mask:
                most_beside, beside = self._solve(free & ~mask)
                most = max(most, most_beside + size)
                for total in range(MAX_GPUS + 1 - size):
                    cost, way = beside[total]
                    _improve(table, total + size, cost + _cost(size, self._aim), (*way, index))
        self._solved[free] = most, table
        return most, table


def _consecutive(masks: Sequence[int]) -> list[int]:
    """The masks with renumbered keys: keys of the same large chunks become neighbours."""
    keys = range(max((mask.bit_length() for mask in masks), default=0))
    large_first = sorted(set(masks), key=lambda mask: (-mask.bit_count(), mask))
    order = sorted(keys, key=lambda key: [not mask >> key & 1 for mask in large_first])
    place = {key: 1 << index for index, key in enumerate(order)}
    return [sum(place[key] for key in keys if mask >> key & 1) for mask in masks]


def _tractable(chunks: _Chunks) -> _Chunks:
    """The chunks; if there are too many keys for an exhaustive search, without those that cross a larger chunk.

    Omitting chunks can only lower the count. An omitted chunk is replaced by one with size 0 and no keys.
    """
    keys = 0
    for _, mask in chunks:
        keys |= mask
    if keys.bit_count() <= _EXACT_KEYS:
        return chunks
    kept: list[tuple[int, int]] = []
    for size, mask in chunks:
        crosses = any(mask & other not in (0, mask, other) for _, other in kept)
        kept.append((0, 0) if crosses else (size, mask))
    return tuple(kept)
