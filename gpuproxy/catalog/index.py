"""Columns of all offers at one time, and the rules of a filter as bitwise ANDs over them.

`OfferFilter.rejects` defines what a filter means. Here the same rules, in the same order, are bitwise ANDs of big
integers in which bit n stands for the n-th offer.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator, Sequence
from decimal import Decimal
from math import inf
from operator import attrgetter

from gpuproxy.catalog.columns import Named, Ordered, mask_of, places_in
from gpuproxy.model.gpus import gpu_matches
from gpuproxy.model.offers import (
    DEFAULT_DISK_GB,
    LOWER_BOUNDS,
    HostKey,
    Offer,
    OfferFilter,
    OfferId,
    location_matches,
    suits_compute_cap,
    suits_cuda,
    suits_ports,
)

PARTS = 720_720  # divisible by every number of GPUs up to 16: prices per GPU stay whole numbers
SLICE = 1000
"""Offers that are indexed without letting the event loop run."""


class Index:
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
        for start in range(0, len(offers), SLICE):
            ends += map(_end, offers[start : start + SLICE])
            yield
        self.ends = yield from Ordered.of(ends)
        for at, offer in enumerate(offers):
            self.hosts.setdefault(offer.host, []).append(at)
            self.ids[offer.id] = at
            if at % SLICE == 0:
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
            if count % (SLICE // 4) == 0:
                yield
        self.odd = mask_of(odd)

    def without(self, left: int, breaks: Callable[[Offer], bool]) -> int:
        """`left` without the offers that break a rule, for rules that must check each offer."""
        return left & ~mask_of(at for at in places_in(left) if breaks(self.offers[at]))


def _by_provider(index: Index, wanted: OfferFilter, left: int) -> int:
    if not wanted.providers:
        return left
    return left & index.providers.matching(wanted.providers, frozenset.__contains__)


def _by_offer(index: Index, wanted: OfferFilter, left: int) -> int:
    if wanted.offer_id is None:
        return left
    at = index.ids.get(wanted.offer_id)
    return 0 if at is None else left & 1 << at


def _by_vram(index: Index, wanted: OfferFilter, left: int) -> int:
    return left & index.vram.at_least(wanted.min_vram)


def _by_price(index: Index, wanted: OfferFilter, left: int) -> int:
    ceilings: dict[int, int] = {}

    def too_dear(offer: Offer) -> bool:
        if offer.num_gpus not in ceilings:
            ceilings[offer.num_gpus] = wanted.ceiling(offer.num_gpus)
        return offer.price(wanted.disk_gb) > ceilings[offer.num_gpus]

    if wanted.disk_gb != DEFAULT_DISK_GB:
        return index.without(left, too_dear)
    # Offers below the limit per GPU pass. Just above it, offers may pass because the limit for all GPUs is rounded,
    # by up to half a micro-dollar for the whole offer.
    limit = int(Decimal(str(wanted.max_price)) * 1_000_000 * PARTS)
    sure = (1 << bisect_left(index.prices, limit - 2)) - 1
    close = (1 << bisect_right(index.prices, limit + PARTS // 2 + 2)) - 1
    return left & sure | index.without(left & close & ~sure, too_dear)


def _by_size(index: Index, wanted: OfferFilter, left: int) -> int:
    return left & index.sizes.equal(wanted.num_gpus) if wanted.num_gpus else left


def _by_verified(index: Index, wanted: OfferFilter, left: int) -> int:
    return left & index.verified.equal(True) if wanted.verified_only else left


def _by_model(index: Index, wanted: OfferFilter, left: int) -> int:
    return left & index.models.matching(wanted.gpu_model, gpu_matches) if wanted.gpu_model else left


def _by_location(index: Index, wanted: OfferFilter, left: int) -> int:
    return left & index.locations.matching(wanted.location, location_matches) if wanted.location else left


def _by_reliability(index: Index, wanted: OfferFilter, left: int) -> int:
    return left & index.reliability.at_least(round(wanted.min_reliability * 1_000_000))


def _by_cuda(index: Index, wanted: OfferFilter, left: int) -> int:
    return left & index.cuda.matching(wanted.asked_cuda, suits_cuda) if wanted.min_cuda else left


def _by_compute_cap(index: Index, wanted: OfferFilter, left: int) -> int:
    least = wanted.min_compute_cap
    return left & index.compute_caps.matching(least, suits_compute_cap) if least else left


def _by_disk(index: Index, wanted: OfferFilter, left: int) -> int:
    return left & index.disk.at_least(wanted.disk_gb)


def _by_host(index: Index, wanted: OfferFilter, left: int) -> int:
    hosts, only = wanted.exclude_hosts, wanted.machine_ids
    left = index.without(left, lambda offer: offer.machine_id not in only) if only else left
    return index.without(left, lambda each: each.host in hosts or each.machine_id in hosts) if hosts else left


def _by_ports(index: Index, wanted: OfferFilter, left: int) -> int:
    return left & index.ports.matching(wanted.ports, suits_ports) if wanted.ports else left


def _by_traffic(index: Index, wanted: OfferFilter, left: int) -> int:
    if wanted.max_traffic_price is None:
        return left
    return index.without(left, lambda offer: not wanted.suits_traffic(offer))


def _at_least(bound: str, fact: str) -> "Rule":
    """The rule that a fact of the offer is at least a field of the filter. Rarely set, so there are no columns."""
    of = attrgetter(fact)

    def rule(index: Index, wanted: OfferFilter, left: int) -> int:
        least = getattr(wanted, bound)
        return index.without(left, lambda offer: of(offer) < least) if least else left

    return rule


Rule = Callable[[Index, OfferFilter, int], int]
RULES: tuple[tuple[str, Rule], ...] = (
    ("provider", _by_provider),
    ("offer", _by_offer),
    ("min_vram", _by_vram),
    ("max_price", _by_price),
    ("num_gpus", _by_size),
    ("verified_only", _by_verified),
    ("gpu_model", _by_model),
    ("location", _by_location),
    ("min_reliability", _by_reliability),
    ("min_cuda", _by_cuda),
    ("compute_cap", _by_compute_cap),
    ("disk_gb", _by_disk),
    ("exclude_hosts", _by_host),
    ("ports", _by_ports),
    *((bound, _at_least(bound, fact)) for bound, fact in LOWER_BOUNDS.items()),
    ("max_traffic_price", _by_traffic),
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
