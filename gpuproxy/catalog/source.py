"""What one marketplace offers, as far as its searches have told.

A search that ended is the whole truth of the moment at which it began. One that broke off is true as far as it went:
the rest is as known before, while that is not too old. Nothing here waits or asks; `catalog` does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gpuproxy.catalog.snapshot import Entry, Snapshot
from gpuproxy.model.offers import Offer, OfferId, ProviderName
from gpuproxy.ports import Provider


@dataclass(frozen=True, slots=True)
class Batch:
    """What one search found. Times here are readings of Clock.monotonic()."""

    search: int
    """The number of the search; a batch that grows replaces itself."""
    began: float
    until: float
    """When its last page came."""
    entries: Mapping[OfferId, Entry]
    whole: bool
    """The search came to its end and was for everything."""

    def stale(self, now: float, stale_after: float) -> bool:
        """Too old to be rented from; what took longer to read may be older, for so does whatever is to replace it."""
        return now - self.until > max(stale_after, self.until - self.began)


def merged(batches: Sequence[Batch]) -> Mapping[OfferId, Entry]:
    """All that is known: of an offer that is in several batches, the latest word."""
    if len(batches) == 1:
        return batches[0].entries
    entries: dict[OfferId, Entry] = {}
    for batch in batches:
        entries |= batch.entries
    return entries


@dataclass(frozen=True, slots=True)
class _Mark:
    at: float
    offer: Offer | None
    """Taken, with all that shares its keys; None: only the id is gone."""
    offer_id: OfferId


@dataclass(slots=True)
class Source:
    """One marketplace: its accounts, and the batches that make up its offers, older ones first."""

    name: ProviderName
    accounts: Sequence[Provider]
    started: float
    batches: tuple[Batch, ...] = ()
    failures: int = 0
    """Searches in a row that brought nothing."""
    pause: float = 0.0
    """What the marketplace asked us to wait, in seconds, when it last refused."""
    refused: bool = False
    """The last search for everything failed because no account's key is accepted."""
    answered: bool = False
    """It has given offers, or an error, at least once."""
    heard: float | None = None
    """When a search last brought something."""
    _turn: int = 0
    _marks: list[_Mark] = field(default_factory=list)

    def in_turn(self) -> list[Provider]:
        """The accounts, beginning with another one each time: each has a rate limit of its own."""
        self._turn = (self._turn + 1) % len(self.accounts)
        return [*self.accounts[self._turn :], *self.accounts[: self._turn]]

    @property
    def truncated(self) -> bool:
        """The marketplace may have more than is known."""
        return not any(batch.whole for batch in self.batches)

    @property
    def as_of(self) -> float:
        """When the oldest part of what is known was asked for."""
        return min(batch.began for batch in self.batches)

    def usable(self, now: float, stale_after: float) -> bool:
        """Offers are known that are not too old to be rented."""
        return not all(batch.stale(now, stale_after) for batch in self.batches)

    def silent(self, now: float, stale_after: float) -> float | None:
        """For how many seconds it has not answered; None when the last search brought something, and not long ago."""
        if not self.failures and self.usable(now, stale_after):
            return None
        return now - (self.started if self.heard is None else self.heard)

    def expired(self, now: float, stale_after: float) -> bool:
        """Something that is known is too old."""
        return any(batch.stale(now, stale_after) for batch in self.batches)

    def with_batch(self, new: Batch | None, now: float, stale_after: float, *, ended: bool) -> tuple[Batch, ...]:
        """The batches when `new` is added; `ended`: it is all that a search for everything has brought."""
        fresh = [batch for batch in self.batches if not batch.stale(now, stale_after)]
        if new is None:
            return tuple(fresh)
        if new.whole:
            return (new,)
        return (*(batch for batch in fresh if batch.search != new.search and (batch.whole or not ended)), new)

    def taken(self, offer: Offer, now: float) -> None:
        """Hide it, and all that excludes it, until a search that begins later has shown them again."""
        self._marks.append(_Mark(now, offer, offer.id))

    def gone(self, offer_id: OfferId, now: float) -> None:
        """Hide one offer, likewise."""
        self._marks.append(_Mark(now, None, offer_id))

    def hidden(self, snapshot: Snapshot) -> int:
        """The mask of what is hidden; forgets the marks that every known batch is younger than."""
        if self.batches:
            self._marks = [mark for mark in self._marks if mark.at >= self.as_of]
        mask = 0
        for mark in self._marks:
            mask |= snapshot.named(mark.offer_id) if mark.offer is None else snapshot.sharing(mark.offer)
        return mask
