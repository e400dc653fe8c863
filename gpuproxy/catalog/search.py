"""A search of a marketplace that is running: what it has found so far."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gpuproxy.catalog.snapshot import Entry
from gpuproxy.catalog.source import Batch
from gpuproxy.model.offers import Offer, OfferId

Encoder = Callable[[Offer], bytes]


@dataclass(slots=True)
class Search:
    """A running search."""

    number: int
    began: float
    known: Mapping[OfferId, Entry]
    found: dict[OfferId, Entry] = field(default_factory=dict)
    pages: int = 0
    grew: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, offer: Offer, encoders: Mapping[str, Encoder]) -> None:
        """Add an offer. If it has not changed, its known object and encoded forms are kept."""
        entry = self.known.get(offer.id)
        if entry is None or entry[0] != offer:
            entry = offer, {kind: encode(offer) for kind, encode in encoders.items()}
        self.found[offer.id] = entry

    def batch(self, until: float, *, whole: bool) -> Batch:
        """What has been found so far."""
        return Batch(self.number, self.began, until, dict(self.found), whole)
