"""The known offers of one marketplace.

A search that completed gives all offers as of its beginning. A search that broke off gives part of them; the others are
kept from earlier searches until they are too old. Nothing here waits or sends requests; `refresh` does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from gpuproxy.catalog.snapshot import Entry, Snapshot
from gpuproxy.model.offers import Offer, OfferId, ProviderName
from gpuproxy.ports import Clock, Provider
from gpuproxy.runtime.circuits import Circuit
from gpuproxy.runtime.regions import Regions


@dataclass(frozen=True, slots=True)
class Batch:
    """What one search found. Times here are readings of Clock.monotonic()."""

    search: int
    """The number of the search. A later batch of the same search replaces this one."""
    began: float
    until: float
    """When its last page was received."""
    entries: Mapping[OfferId, Entry]
    whole: bool
    """The search was for all offers and completed."""

    def stale(self, now: float, stale_after: float) -> bool:
        """Whether its offers are too old to be rented. A batch that took long to read stays valid for as long again."""
        return now > self.usable_until(stale_after)

    def usable_until(self, stale_after: float) -> float:
        """When its offers become too old to be rented."""
        return self.until + max(stale_after, self.until - self.began)


def merged(batches: Sequence[Batch]) -> Mapping[OfferId, Entry]:
    """All known offers. Of an offer in several batches, the latest version."""
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
    """The offer that was taken, with all that share its keys; None if only the id is gone."""
    offer_id: OfferId


@dataclass(slots=True)
class Source:
    """One marketplace: its accounts, and the batches of its offers, oldest first."""

    name: ProviderName
    accounts: Sequence[Provider]
    started: float
    circuits: Mapping[str, Circuit]
    """The circuit of each account's searches."""
    regions: Regions = field(default_factory=Regions)
    batches: tuple[Batch, ...] = ()
    """Changed by `keep` only."""
    as_of: float = inf
    """When the search for the oldest known offers began."""
    truncated: bool = True
    """Whether the marketplace may have more offers than are known."""
    usable_until: float = -inf
    """Until when there are known offers that are not too old to be rented."""
    failures: int = 0
    """Consecutive searches without a result."""
    pause: float = 0.0
    """The pause in seconds that the marketplace asked for with its last rate limit."""
    refused: bool = False
    """The last search for all offers failed because no account's key is accepted."""
    answered: bool = False
    """It has returned offers or an error at least once."""
    heard: float | None = None
    """When a search last had a result."""
    _turn: int = 0
    _marks: list[_Mark] = field(default_factory=list)

    def in_turn(self) -> list[Provider]:
        """The accounts, beginning with the next one each time, because each has its own rate limit.

        Those whose searches have just failed come last.
        """
        self._turn = (self._turn + 1) % len(self.accounts)
        turned = [*self.accounts[self._turn :], *self.accounts[: self._turn]]
        return sorted(turned, key=lambda each: self.circuits[each.account].rank() != 0)

    def in_turn_by_region(self) -> list[list[Provider]]:
        """Lists of accounts in turn. The offers of the marketplace are what one account of each list sees together.

        There is one list, or one for each region where the keys of the marketplace are regional.
        """
        lists: dict[str, list[Provider]] = {}
        for account in self.in_turn():
            lists.setdefault(self.regions.seen_by(self.name, account.account), []).append(account)
        return list(lists.values())

    def keep(self, batches: tuple[Batch, ...], stale_after: float) -> None:
        """Replace the batches. What every call asks of them is computed here, once."""
        self.batches = batches
        self.as_of = min((batch.began for batch in batches), default=inf)
        self.truncated = not any(batch.whole for batch in batches)
        self.usable_until = max((batch.usable_until(stale_after) for batch in batches), default=-inf)

    def usable(self, now: float) -> bool:
        """Whether there are known offers that are not too old to be rented."""
        return now <= self.usable_until

    def silent(self, now: float) -> float | None:
        """For how many seconds it has not answered; None if its last search had a result that is not too old."""
        if not self.failures and now <= self.usable_until:
            return None
        return now - (self.started if self.heard is None else self.heard)

    def expired(self, now: float, stale_after: float) -> bool:
        """Whether any of the known offers are too old."""
        return any(batch.stale(now, stale_after) for batch in self.batches)

    def with_batch(self, new: Batch | None, now: float, stale_after: float, *, ended: bool) -> tuple[Batch, ...]:
        """The batches with `new` added. `ended`: `new` is the final result of a search for all offers."""
        fresh = [batch for batch in self.batches if not batch.stale(now, stale_after)]
        if new is None:
            return tuple(fresh)
        if new.whole:
            return (new,)
        return (*(batch for batch in fresh if batch.search != new.search and (batch.whole or not ended)), new)

    def taken(self, offer: Offer, now: float) -> None:
        """Hide the offer and all offers that exclude it, until a search that begins later shows them again."""
        self._marks.append(_Mark(now, offer, offer.id))

    def gone(self, offer_id: OfferId, now: float) -> None:
        """Hide one offer until a search that begins later shows it again."""
        self._marks.append(_Mark(now, None, offer_id))

    def hidden(self, snapshot: Snapshot) -> int:
        """The mask of hidden offers. Forgets marks that are older than every known batch."""
        if self.batches:
            self._marks = [mark for mark in self._marks if mark.at >= self.as_of]
        mask = 0
        for mark in self._marks:
            mask |= snapshot.named(mark.offer_id) if mark.offer is None else snapshot.sharing(mark.offer)
        return mask


def source_of(name: ProviderName, accounts: Sequence[Provider], clock: Clock, regions: Regions, seed: str) -> Source:
    """A marketplace of which nothing is known yet. `seed`: of the jitter of waits after failed searches."""
    circuits = {each.account: Circuit(clock, f"{seed}/searches/{name}/{each.account}") for each in accounts}
    return Source(name, accounts, clock.monotonic(), circuits, regions)
