"""All offers at one time, cheapest first, and an index that applies a filter without checking each offer.

`OfferFilter.rejects` defines what a filter means. Here the same rules, in the same order, are bitwise ANDs of big
integers in which bit n stands for the n-th offer. A snapshot never changes. Building one yields every few milliseconds,
so that 20,000 offers do not block the event loop.
"""

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Container, Generator, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from itertools import chain
from math import inf
from operator import attrgetter

from gpuproxy.catalog.columns import Named, Ordered, mask_of, places_in
from gpuproxy.model.chunks import rentable_gpus
from gpuproxy.model.gpus import gpu_matches
from gpuproxy.model.offers import (
    DEFAULT_DISK_GB,
    ENDS_TOO_SOON,
    LOWER_BOUNDS,
    HostKey,
    Offer,
    OfferFilter,
    OfferId,
    ProviderName,
    location_matches,
    suits_compute_cap,
    suits_cuda,
    suits_ports,
)

Entry = tuple[Offer, Mapping[str, bytes]]
"""An offer and its encoded forms by kind."""

_SLICE = 1000
_PARTS = 720_720  # divisible by every number of GPUs up to 16: prices per GPU stay whole numbers
_ANSWERS = 16


class Snapshot:
    """Created by `build`. `offers` are in the order of their price per GPU with the default disk."""

    def __init__(self, index: "_Index", encoded: Mapping[str, Sequence[bytes]]) -> None:
        self.offers = index.offers
        self.hosts: Container[HostKey] = index.hosts.keys()
        self._index = index
        self._encoded = encoded

    def select(self, wanted: OfferFilter, hidden: int = 0, until: datetime | None = None) -> "Selection":
        """The offers that pass `wanted` and last until `until`, without those of the mask `hidden`."""
        left = self._index.everything & ~hidden
        rejected = {}
        for name, rule in _RULES:
            kept = rule(self._index, wanted, left)
            if kept != left:
                rejected[name] = (left ^ kept).bit_count()
                left = kept
        if until is not None and (kept := left & self._index.ends.at_least(until.timestamp())) != left:
            rejected[ENDS_TOO_SOON] = (left ^ kept).bit_count()
            left = kept
        return Selection(self._index, self._encoded, wanted.disk_gb, left, rejected)

    def sharing(self, offer: Offer) -> int:
        """A mask of the offers that exclude `offer`, itself included. 0 if it can be rented many times."""
        keys = set(offer.conflict_keys)
        near = self._index.hosts.get(offer.host, ())
        return mask_of(at for at in near if not keys.isdisjoint(self.offers[at].conflict_keys))

    def offer(self, offer_id: OfferId) -> Offer | None:
        """The offer with this id; None when it is not here."""
        at = self._index.ids.get(offer_id)
        return None if at is None else self.offers[at]

    def named(self, offer_id: OfferId) -> int:
        """A mask of one offer; 0 when it is not here."""
        at = self._index.ids.get(offer_id)
        return 0 if at is None else 1 << at

    def ended_before(self, moment: datetime) -> int:
        """How many offers end before `moment`. Of equal counts, `select` gives equal answers."""
        return self._index.ends.below(moment.timestamp())

    @cached_property
    def models(self) -> tuple[str, ...]:
        """The printed names of all GPU models, sorted."""
        return tuple(sorted(self._index.models.values()))

    def of_providers(self, providers: Iterable[ProviderName]) -> int:
        """A mask of all offers of these providers."""
        return self._index.providers.matching(frozenset(providers), frozenset.__contains__)


class Selection:
    """The offers that passed a filter, cheapest first. Derived values are computed on first use and kept."""

    def __init__(
        self,
        index: "_Index",
        encoded: Mapping[str, Sequence[bytes]],
        disk_gb: float,
        mask: int,
        rejected: Mapping[str, int],
    ) -> None:
        self.total = mask.bit_count()
        self.rejected = rejected
        """How many offers each rule rejected. An offer is counted at the first rule that it breaks."""
        self._index = index
        self._encodings = encoded
        self._disk_gb = disk_gb
        self._mask = mask
        self._joined: dict[str, tuple[bytes, bytes]] = {}

    @cached_property
    def offers(self) -> tuple[Offer, ...]:
        """The offers, in the order of their price per GPU with the disk asked for."""
        return tuple(map(self._index.offers.__getitem__, self._places))

    def encoded(self, kind: str) -> list[bytes]:
        """The encoded form of each offer, in the order of `offers`."""
        return list(map(self._encodings[kind].__getitem__, self._places))

    def joined(self, kind: str, tail: bytes = b"", *, head: bytes = b"", between: bytes = b"") -> bytes:
        """`head`, the encoded forms and `tail` as one byte string, which is kept until another `tail` is asked for."""
        kept = self._joined.get(kind)
        if kept is None or kept[0] != tail:
            parts = [between.join(self.encoded(kind))] if between else self.encoded(kind)
            kept = self._joined[kind] = tail, b"".join((head, *parts, tail))
        return kept[1]

    @cached_property
    def available_gpus(self) -> int:
        """How many GPUs could be rented at once."""
        gpus = self._index.gpus
        plain = len(set(chain.from_iterable(map(gpus.__getitem__, self._places))))
        odd = self._mask & self._index.odd
        return plain + rentable_gpus(map(self._index.offers.__getitem__, places_in(odd))) if odd else plain

    @cached_property
    def _places(self) -> list[int]:
        places = places_in(self._mask)
        if self._disk_gb == DEFAULT_DISK_GB:
            return places
        offers, disk_gb = self._index.offers, self._disk_gb
        return sorted(places, key=lambda at: (_price_key(offers[at], disk_gb), at))


class View:
    """A snapshot without offers that were taken since. Keeps its last answers, because many callers ask the same."""

    def __init__(self, snapshot: Snapshot, hidden: int) -> None:
        self.snapshot = snapshot
        self.hidden = hidden
        self._answers: OrderedDict[tuple[OfferFilter, int], Selection] = OrderedDict()

    def select(self, wanted: OfferFilter, until: datetime | None = None) -> Selection:
        """As Snapshot.select."""
        key = wanted, 0 if until is None else self.snapshot.ended_before(until)
        answer = self._answers.pop(key, None)
        if answer is None:
            answer = self.snapshot.select(wanted, self.hidden, until)
        self._answers[key] = answer
        if len(self._answers) > _ANSWERS:
            self._answers.popitem(last=False)
        return answer


def place(offer: Offer, disk_gb: float) -> tuple[int, int, str, int, str]:
    """The sort key of an offer among the `offers` of a selection with this disk. It is the same in every snapshot."""
    return _price_key(offer, disk_gb), *_rank(offer)


def build(entries: Sequence[Entry], kinds: Iterable[str]) -> Generator[None, None, Snapshot]:
    """Build a snapshot in parts of a few milliseconds, so that the event loop runs in between. Ids must be distinct."""
    ranked: list[tuple[tuple[int, str, int, str], Entry]] = []
    for start in range(0, len(entries), _SLICE):
        ranked += sorted(((_rank(entry[0]), entry) for entry in entries[start : start + _SLICE]), key=_first)
        yield
    ranked.sort(key=_first)  # a merge of the sorted slices
    yield
    encoded = {}
    for kind in kinds:
        encoded[kind] = [entry[1][kind] for _, entry in ranked]
        yield
    index = _Index(tuple(entry[0] for _, entry in ranked), [rank[0] for rank, _ in ranked])
    yield from index.fill()
    return Snapshot(index, encoded)


def built(entries: Sequence[Entry], kinds: Iterable[str] = ()) -> Snapshot:
    """A snapshot, without yielding."""
    steps = build(entries, kinds)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


class _Index:
    """Columns of the offers, as masks."""

    def __init__(self, offers: tuple[Offer, ...], prices: list[int]) -> None:
        self.offers = offers
        self.prices = prices
        self.everything = (1 << len(offers)) - 1
        self.hosts: dict[HostKey, list[int]] = {}
        self.ids: dict[OfferId, int] = {}
        self.gpus: list[tuple[int, ...]] = [()] * len(offers)
        """Numbers for the GPUs of each plain offer. The count of distinct numbers is the count of GPUs at once."""
        self.odd = 0
        """Offers of hosts where counting GPUs is not enough: chunks that cross, or whose keys are not GPUs."""

    def fill(self) -> Generator[None, None, None]:
        """Compute the columns for all filters."""
        offers = self.offers
        self.providers = yield from Named.of([offer.provider for offer in offers])
        self.sizes = yield from Named.of([offer.num_gpus for offer in offers])
        self.verified = yield from Named.of([offer.verified for offer in offers])
        self.models = yield from Named.of([offer.gpu_model for offer in offers])
        self.locations = yield from Named.of([offer.location for offer in offers])
        self.vram = yield from Ordered.of([offer.vram_gb for offer in offers])
        self.reliability = yield from Ordered.of([offer.reliability_ppm for offer in offers])
        self.cuda = yield from Named.of([offer.cuda_max for offer in offers])
        self.compute_caps = yield from Named.of([offer.compute_cap for offer in offers])
        self.ports = yield from Named.of([offer.direct_ports for offer in offers])
        self.disk = yield from Ordered.of([offer.max_disk_gb for offer in offers])
        ends: list[float] = []
        for start in range(0, len(offers), _SLICE):
            ends += map(_end, offers[start : start + _SLICE])
            yield
        self.ends = yield from Ordered.of(ends)
        for at, offer in enumerate(offers):
            self.hosts.setdefault(offer.host, []).append(at)
            self.ids[offer.id] = at
            if at % _SLICE == 0:
                yield
        yield from self._number_gpus()

    def _number_gpus(self) -> Generator[None, None, None]:
        odd: list[int] = []
        used = 0
        for count, places in enumerate(self.hosts.values()):
            numbers: dict[str, int] = {}
            if _counts_by_gpu([self.offers[at] for at in places]):
                for at in places:
                    keys = self.offers[at].conflict_keys
                    self.gpus[at] = tuple(numbers.setdefault(key, used + len(numbers)) for key in keys)
                used += len(numbers)
            else:
                odd += places
            if count % (_SLICE // 4) == 0:
                yield
        self.odd = mask_of(odd)

    def by_provider(self, wanted: OfferFilter, left: int) -> int:
        if not wanted.providers:
            return left
        return left & self.providers.matching(wanted.providers, frozenset.__contains__)

    def by_offer(self, wanted: OfferFilter, left: int) -> int:
        if wanted.offer_id is None:
            return left
        at = self.ids.get(wanted.offer_id)
        return 0 if at is None else left & 1 << at

    def by_vram(self, wanted: OfferFilter, left: int) -> int:
        return left & self.vram.at_least(wanted.min_vram)

    def by_price(self, wanted: OfferFilter, left: int) -> int:
        ceilings: dict[int, int] = {}

        def too_dear(offer: Offer) -> bool:
            if offer.num_gpus not in ceilings:
                ceilings[offer.num_gpus] = wanted.ceiling(offer.num_gpus)
            return offer.price(wanted.disk_gb) > ceilings[offer.num_gpus]

        if wanted.disk_gb != DEFAULT_DISK_GB:
            return self.without(left, too_dear)
        # Offers below the limit per GPU pass. Just above it, offers may pass because the limit for all GPUs is rounded,
        # by up to half a micro-dollar for the whole offer.
        limit = int(Decimal(str(wanted.max_price)) * 1_000_000 * _PARTS)
        sure = (1 << bisect_left(self.prices, limit - 2)) - 1
        close = (1 << bisect_right(self.prices, limit + _PARTS // 2 + 2)) - 1
        return left & sure | self.without(left & close & ~sure, too_dear)

    def by_size(self, wanted: OfferFilter, left: int) -> int:
        return left & self.sizes.equal(wanted.num_gpus) if wanted.num_gpus else left

    def by_verified(self, wanted: OfferFilter, left: int) -> int:
        return left & self.verified.equal(True) if wanted.verified_only else left

    def by_model(self, wanted: OfferFilter, left: int) -> int:
        return left & self.models.matching(wanted.gpu_model, gpu_matches) if wanted.gpu_model else left

    def by_location(self, wanted: OfferFilter, left: int) -> int:
        return left & self.locations.matching(wanted.location, location_matches) if wanted.location else left

    def by_reliability(self, wanted: OfferFilter, left: int) -> int:
        return left & self.reliability.at_least(round(wanted.min_reliability * 1_000_000))

    def by_cuda(self, wanted: OfferFilter, left: int) -> int:
        return left & self.cuda.matching(wanted.asked_cuda, suits_cuda) if wanted.min_cuda else left

    def by_compute_cap(self, wanted: OfferFilter, left: int) -> int:
        least = wanted.min_compute_cap
        return left & self.compute_caps.matching(least, suits_compute_cap) if least else left

    def by_disk(self, wanted: OfferFilter, left: int) -> int:
        return left & self.disk.at_least(wanted.disk_gb)

    def by_host(self, wanted: OfferFilter, left: int) -> int:
        hosts, only = wanted.exclude_hosts, wanted.machine_ids
        left = self.without(left, lambda offer: offer.machine_id not in only) if only else left
        return self.without(left, lambda each: each.host in hosts or each.machine_id in hosts) if hosts else left

    def by_ports(self, wanted: OfferFilter, left: int) -> int:
        return left & self.ports.matching(wanted.ports, suits_ports) if wanted.ports else left

    def by_traffic(self, wanted: OfferFilter, left: int) -> int:
        if wanted.max_traffic_price is None:
            return left
        return self.without(left, lambda offer: not wanted.suits_traffic(offer))

    def without(self, left: int, breaks: Callable[[Offer], bool]) -> int:
        """`left` without the offers that break a rule, for rules that must check each offer."""
        return left & ~mask_of(at for at in places_in(left) if breaks(self.offers[at]))


def _at_least(bound: str, fact: str) -> "_Rule":
    """The rule that a fact of the offer is at least a field of the filter. Rarely set, so there are no columns."""
    of = attrgetter(fact)

    def rule(index: _Index, wanted: OfferFilter, left: int) -> int:
        least = getattr(wanted, bound)
        return index.without(left, lambda offer: of(offer) < least) if least else left

    return rule


_Rule = Callable[[_Index, OfferFilter, int], int]
_RULES: tuple[tuple[str, _Rule], ...] = (
    ("provider", _Index.by_provider),
    ("offer", _Index.by_offer),
    ("min_vram", _Index.by_vram),
    ("max_price", _Index.by_price),
    ("num_gpus", _Index.by_size),
    ("verified_only", _Index.by_verified),
    ("gpu_model", _Index.by_model),
    ("location", _Index.by_location),
    ("min_reliability", _Index.by_reliability),
    ("min_cuda", _Index.by_cuda),
    ("compute_cap", _Index.by_compute_cap),
    ("disk_gb", _Index.by_disk),
    ("exclude_hosts", _Index.by_host),
    ("ports", _Index.by_ports),
    *((bound, _at_least(bound, fact)) for bound, fact in LOWER_BOUNDS.items()),
    ("max_traffic_price", _Index.by_traffic),
)
"""The rules of OfferFilter.rejects in the same order, so that both count the same offers under the same names.

The last rule, the end of the offer, is in `Snapshot.select`: the time isn't part of the filter.
"""


def _counts_by_gpu(chunks: Sequence[Offer]) -> bool:
    """True if the chunks nest and their keys are GPUs. Then the count of distinct keys is the count of GPUs at once."""
    if len(chunks) == 1:
        return len(set(chunks[0].conflict_keys)) == chunks[0].num_gpus
    within: dict[str, int] = {}
    for number, chunk in enumerate(sorted(chunks, key=lambda chunk: -chunk.num_gpus)):
        keys = set(chunk.conflict_keys)
        if len(keys) != chunk.num_gpus or len({within.get(key) for key in keys}) != 1:
            return False
        within.update(dict.fromkeys(keys, number))
    return True


def _end(offer: Offer) -> float:
    return inf if offer.expires_at is None else offer.expires_at.timestamp()


def _rank(offer: Offer) -> tuple[int, str, int, str]:
    native = offer.native_id()
    number = int(native) if native.isdecimal() else 0
    return _price_key(offer, DEFAULT_DISK_GB), offer.provider, number, offer.id


def _price_key(offer: Offer, disk_gb: float) -> int:
    """The price per GPU in parts of a micro-dollar, rounded down."""
    return offer.price(disk_gb) * _PARTS // offer.num_gpus


def _first(pair: tuple[tuple[int, str, int, str], Entry]) -> tuple[int, str, int, str]:
    return pair[0]
