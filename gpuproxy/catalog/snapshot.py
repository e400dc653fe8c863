"""All offers at one time, cheapest first, and what passes a filter, without checking each offer (see `index`).

A snapshot never changes. Building one yields every few milliseconds, so that 20,000 offers do not block the event loop.
"""

from collections import OrderedDict
from collections.abc import Container, Generator, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from itertools import chain

from gpuproxy.catalog.columns import mask_of, places_in
from gpuproxy.catalog.index import PARTS, RULES, SLICE, Index
from gpuproxy.model.chunks import rentable_gpus
from gpuproxy.model.offers import (
    DEFAULT_DISK_GB,
    ENDS_TOO_SOON,
    HostKey,
    Offer,
    OfferFilter,
    OfferId,
    ProviderName,
)

Entry = tuple[Offer, Mapping[str, bytes]]
"""An offer and its encoded forms by kind."""

_ANSWERS = 16


class Snapshot:
    """Created by `build`. `offers` are in the order of their price per GPU with the default disk."""

    def __init__(self, index: Index, encoded: Mapping[str, Sequence[bytes]]) -> None:
        self.offers = index.offers
        self.hosts: Container[HostKey] = index.hosts.keys()
        self._index = index
        self._encoded = encoded

    def select(self, wanted: OfferFilter, hidden: int = 0, until: datetime | None = None) -> "Selection":
        """The offers that pass `wanted` and last until `until`, without those of the mask `hidden`."""
        left = self._index.everything & ~hidden
        rejected = {}
        for name, rule in RULES:
            kept = rule(self._index, wanted, left)
            if kept != left:
                rejected[name] = left ^ kept
                left = kept
        if until is not None and (kept := left & self._index.ends.at_least(until.timestamp())) != left:
            rejected[ENDS_TOO_SOON] = left ^ kept
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
        index: Index,
        encoded: Mapping[str, Sequence[bytes]],
        disk_gb: float,
        mask: int,
        rejected: Mapping[str, int],
    ) -> None:
        """`mask`: of the offers that passed. `rejected`: by rule, a mask of the offers that it rejected."""
        self.total = mask.bit_count()
        self.rejected = {rule: those.bit_count() for rule, those in rejected.items()}
        """How many offers each rule rejected. An offer is counted at the first rule that it breaks."""
        self._index = index
        self._encodings = encoded
        self._disk_gb = disk_gb
        self._mask = mask
        self._rejected = rejected
        self._joined: dict[str, tuple[bytes, bytes]] = {}

    @cached_property
    def offers(self) -> tuple[Offer, ...]:
        """The offers, in the order of their price per GPU with the disk asked for."""
        return tuple(map(self._index.offers.__getitem__, self._places))

    def left_out(self, rule: str, most: int) -> tuple[Offer, ...]:
        """The offers that a rule rejected, the cheapest `most` of them."""
        places = places_in(self._rejected.get(rule, 0))[:most]
        return tuple(map(self._index.offers.__getitem__, places))

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

    @property
    def hidden_offers(self) -> tuple[Offer, ...]:
        """The offers that were taken since, and those of marketplaces that do not answer, cheapest first."""
        return tuple(map(self.snapshot.offers.__getitem__, places_in(self.hidden)))


def place(offer: Offer, disk_gb: float) -> tuple[int, int, str, int, str]:
    """The sort key of an offer among the `offers` of a selection with this disk. It is the same in every snapshot."""
    return _price_key(offer, disk_gb), *_rank(offer)


def build(entries: Sequence[Entry], kinds: Iterable[str]) -> Generator[None, None, Snapshot]:
    """Build a snapshot in parts of a few milliseconds, so that the event loop runs in between. Ids must be distinct."""
    ranked: list[tuple[tuple[int, str, int, str], Entry]] = []
    for start in range(0, len(entries), SLICE):
        ranked += sorted(((_rank(entry[0]), entry) for entry in entries[start : start + SLICE]), key=_first)
        yield
    ranked.sort(key=_first)  # a merge of the sorted slices
    yield
    encoded = {}
    for kind in kinds:
        encoded[kind] = [entry[1][kind] for _, entry in ranked]
        yield
    index = Index(tuple(entry[0] for _, entry in ranked), [rank[0] for rank, _ in ranked])
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


def _rank(offer: Offer) -> tuple[int, str, int, str]:
    native = offer.native_id()
    number = int(native) if native.isdecimal() else 0
    return _price_key(offer, DEFAULT_DISK_GB), offer.provider, number, offer.id


def _price_key(offer: Offer, disk_gb: float) -> int:
    """The price per GPU in parts of a micro-dollar, rounded down."""
    return offer.price(disk_gb) * PARTS // offer.num_gpus


def _first(pair: tuple[tuple[int, str, int, str], Entry]) -> tuple[int, str, int, str]:
    return pair[0]
