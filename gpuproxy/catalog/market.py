"""What a query sees of the catalog: the offers known at one moment, and what is not known of the marketplaces."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import datetime

from gpuproxy.catalog.snapshot import Selection, View
from gpuproxy.model.offers import HostKey, Offer, OfferFilter, OfferId, ProviderName


@dataclass(frozen=True, slots=True)
class Market:
    """The known offers of the marketplaces that were asked for."""

    as_of: datetime
    """When the oldest part of the offers was read."""
    unreachable: tuple[tuple[ProviderName, float], ...]
    """The marketplaces that do not answer, and for how many seconds. Their last offers may still be included."""
    truncated: bool
    """There may be more offers than are known."""
    view: View
    now: datetime
    """When the catalog was asked."""

    def select(self, wanted: OfferFilter, until: datetime | None = None) -> Selection:
        """The offers that pass the filter and last until `until` (None: now), cheapest first."""
        return self.view.select(wanted, until or self.now)

    def offer(self, offer_id: OfferId) -> Offer | None:
        """The offer with this id, also if it has ended or is being rented; None if it is not known."""
        return self.view.snapshot.offer(offer_id)

    @property
    def models(self) -> Sequence[str]:
        """The printed names of all known GPU models, including those of marketplaces that were not asked for."""
        return self.view.snapshot.models

    @property
    def hosts(self) -> Container[HostKey]:
        """All hosts with offers, including those of marketplaces that were not asked for."""
        return self.view.snapshot.hosts
