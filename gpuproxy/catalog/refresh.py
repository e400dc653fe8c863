"""The market as it is known here: every marketplace is read in the background, and questions are answered at once.

A marketplace that is slow or dead is named with its age and neither delays nor empties an answer; its last offers
serve until they are too old. Where a search can't reach the end, a demand is searched for by itself. What has just
been taken disappears at once, and comes back only with a search that began afterwards.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Container, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import count

import structlog

from gpuproxy.catalog.snapshot import Entry, Selection, Snapshot, View, build, built
from gpuproxy.catalog.source import Batch, Source, merged
from gpuproxy.model.chunks import rentable_gpus
from gpuproxy.model.demands import MAX_GPUS
from gpuproxy.model.errors import AuthFailed, ProviderError, RateLimited, Unavailable
from gpuproxy.model.offers import HIGHEST_PRICE, HostKey, Offer, OfferFilter, OfferId, ProviderName
from gpuproxy.outcomes.answers import keys_refused, no_account
from gpuproxy.ports import Clock, Provider
from gpuproxy.runtime.lateness import Lateness
from gpuproxy.runtime.loops import guarded

__all__ = ["Catalog", "Market", "Selection"]

log = structlog.get_logger(__name__)

EVERYTHING = OfferFilter(max_price=HIGHEST_PRICE, verified_only=False, disk_gb=1.0)
_SLICE = 100
_PROGRESS_SECONDS, _GATHER_SECONDS = 5.0, 0.5
_LONGEST_READ_SECONDS = 1800.0
_BURST, _BACKGROUND_SHARE = 5, 1.6
"""So many pages are read at once, the others so many times as slowly as the marketplace allows."""
_TARGET_SECONDS = 15.0
_FIRST_RETRY_SECONDS = 2.0
_OTHERS_SECONDS = 1.0

Encoder = Callable[[Offer], bytes]


@dataclass(frozen=True, slots=True)
class Market:
    """What the marketplaces that were asked for are known to offer."""

    as_of: datetime
    """When the oldest part of it was read."""
    unreachable: tuple[tuple[ProviderName, float], ...]
    """Who did not answer last, and for how many seconds; their last offers may still be among those here."""
    truncated: bool
    """There may be more than is known."""
    _view: View

    def select(self, wanted: OfferFilter) -> Selection:
        """The offers that pass, cheapest first."""
        return self._view.select(wanted)

    @property
    def hosts(self) -> Container[HostKey]:
        """All hosts that are on offer, those of other marketplaces than were asked for included."""
        return self._view.snapshot.hosts


class Catalog:
    """One for the process. Times are in the clock's seconds."""

    def __init__(
        self,
        providers: Sequence[Provider],
        clock: Clock,
        encoders: Mapping[str, Encoder],
        *,
        refresh_seconds: float = 30.0,
        stale_after_seconds: float = 300.0,
        first_wait_seconds: float = 10.0,
        lateness: Lateness | None = None,
    ) -> None:
        """`encoders` make the ready forms of an offer, by kind; the first answer waits up to `first_wait_seconds`."""
        self._clock = clock
        self._lateness = lateness or Lateness(clock)
        self._encoders = encoders
        self._refresh_seconds = refresh_seconds
        self._stale_after = stale_after_seconds
        self._first_wait = first_wait_seconds
        self._started = clock.monotonic()
        names = dict.fromkeys(provider.name for provider in providers)
        self._sources = {
            name: Source(name, [each for each in providers if each.name == name], self._started) for name in names
        }
        self._searching = {name: asyncio.Lock() for name in names}
        self._searches = dict.fromkeys(names, 0)
        self._targeting = {name: asyncio.Lock() for name in names}
        self._targeted: dict[tuple[ProviderName, OfferFilter], float] = {}
        self._numbers = count(1)
        self._publishing = asyncio.Lock()
        self._news = asyncio.Condition()
        self._snapshot = built([], encoders)
        self._hidden = 0
        self._shown = View(self._snapshot, 0)

    async def run(self) -> None:
        """Keep reading, every marketplace at its own pace, until cancelled."""
        async with asyncio.TaskGroup() as loops:
            for source in self._sources.values():
                loops.create_task(self._read_forever(source))

    async def step(self, name: ProviderName) -> None:
        """Read one marketplace; who asks while that is under way waits for it instead of reading again."""
        before = self._searches[name]
        async with self._searching[name]:
            if self._searches[name] == before:
                await self._refresh(self._sources[name])
                self._searches[name] += 1

    async def first_snapshot(self) -> None:
        """Return when any offers are known."""
        async with self._news:
            await self._news.wait_for(lambda: self._usable(self._sources.values()))

    async def market(self, wanted: OfferFilter) -> Market:
        """The marketplaces that `wanted` names; raises Unavailable when none of them has offers that can be used.

        Raises FailedPrecondition, NO_ACCOUNT, when there is an account at none of them.
        """
        asked = self._asked(wanted)
        if not asked:
            raise no_account(wanted.providers)
        await self._first_answers(asked)
        now, time = self._clock.monotonic(), self._clock.now()
        silent, usable = self.silent(wanted), self._usable(asked)
        if not usable and all(source.refused for source in asked):
            raise keys_refused([source.name for source in asked])
        if not usable:
            told = ", ".join(f"{name} silent for {seconds:.0f} s" for name, seconds in silent) or "no account for it"
            names = ",".join(name for name, _ in silent)
            raise Unavailable(f"No market can be read: {told}. Nothing happened.", metadata={"unreachable": names})
        as_of = time - timedelta(seconds=now - min(source.as_of for source in usable))
        # To the millisecond, so that it reads the same each time: an answer that is the same need not be made again.
        as_of = as_of.replace(microsecond=as_of.microsecond // 1000 * 1000)
        return Market(as_of, silent, any(source.truncated for source in usable), self._view())

    def silent(self, wanted: OfferFilter) -> tuple[tuple[ProviderName, float], ...]:
        """Which of the marketplaces that `wanted` names did not answer last, and for how many seconds."""
        now = self._clock.monotonic()
        silence = ((source.name, source.silent(now, self._stale_after)) for source in self._asked(wanted))
        heeded = ((name, seconds) for name, seconds in silence if seconds is not None)
        return tuple((name, seconds - self._lateness.within(seconds)) for name, seconds in heeded)

    async def targeted(self, wanted: OfferFilter, deadline: float) -> None:
        """Search for `wanted` itself where not all is known and what is known may not do for it.

        It takes until `deadline` (a reading of Clock.monotonic()) at most; a search that fails changes nothing.
        """
        asked = self._asked(wanted)
        await self._first_answers(asked)
        if self._view().select(wanted).available_gpus >= MAX_GPUS:
            return
        seconds = min(deadline - self._clock.monotonic(), _TARGET_SECONDS)
        if seconds > 0:
            async with asyncio.TaskGroup() as searches:
                for source in self._usable(asked):
                    if source.truncated and source.accounts[0].capabilities.search_page is not None:
                        searches.create_task(self._search_for(source, wanted, seconds))

    def taken(self, offer: Offer) -> None:
        """It is being rented: it and all that shares its conflict keys can't be had any more."""
        self._sources[offer.provider].taken(offer, self._clock.monotonic())
        self._hidden |= self._snapshot.sharing(offer)

    def gone(self, offer_id: OfferId) -> None:
        """The marketplace says that there is no such offer any more."""
        offer = self._snapshot.offer(offer_id)
        if offer is not None:
            self._sources[offer.provider].gone(offer_id, self._clock.monotonic())
            self._hidden |= self._snapshot.named(offer_id)

    def _asked(self, wanted: OfferFilter) -> list[Source]:
        return [source for source in self._sources.values() if not wanted.providers or source.name in wanted.providers]

    def _usable(self, sources: Iterable[Source]) -> list[Source]:
        now = self._clock.monotonic()
        return [source for source in sources if source.usable(now, self._stale_after)]

    def _view(self) -> View:
        """The snapshot without what was taken and what is too old."""
        usable = self._usable(self._sources.values())
        stale = [source.name for source in self._sources.values() if source.batches and source not in usable]
        hidden = self._hidden | (self._snapshot.of_providers(stale) if stale else 0)
        if self._shown.snapshot is not self._snapshot or self._shown.hidden != hidden:
            self._shown = View(self._snapshot, hidden)
        return self._shown

    async def _first_answers(self, asked: Sequence[Source]) -> None:
        """After the start there is nothing to show yet: wait for somebody's offers, and a moment for the others'."""

        def all_answered() -> bool:
            return all(source.answered for source in asked)

        def enough() -> bool:
            return all_answered() or bool(self._usable(asked))

        if not all_answered():
            await self._wait_for(all_answered, self._started + min(_OTHERS_SECONDS, self._first_wait))
            await self._wait_for(enough, self._started + self._first_wait)

    async def _wait_for(self, so_far: Callable[[], bool], until: float) -> None:
        """Wait until a time after the start; as much longer as this process did not run since the start."""
        while not so_far():
            now = self._clock.monotonic()
            seconds = until - now + self._lateness.within(now - self._started)
            if seconds <= 0:
                return
            with suppress(TimeoutError):
                async with self._clock.timeout(seconds), self._news:
                    await self._news.wait_for(so_far)

    async def _read_forever(self, source: Source) -> None:
        while True:
            await guarded(partial(self.step, source.name), self._clock, f"catalog {source.name}")
            await self._clock.sleep(self._pause_after(source))

    def _pause_after(self, source: Source) -> float:
        if not source.failures:
            return self._refresh_seconds
        retry = _FIRST_RETRY_SECONDS * 2.0 ** min(source.failures - 1, 10)
        return max(source.pause, min(self._refresh_seconds, retry))

    async def _refresh(self, source: Source) -> None:
        """One search for everything."""
        search = _Search(next(self._numbers), self._clock.monotonic(), known=merged(source.batches))
        whole = False
        showing = asyncio.create_task(self._show_progress(source, search))
        try:
            async with self._clock.timeout(max(self._stale_after, _LONGEST_READ_SECONDS)):
                whole = await self._search_all(source, search)
        except TimeoutError:
            log.warning("search_timed_out", provider=source.name, offers=len(search.found))
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)
        if whole or search.found:
            await self._publish(source, search.batch(self._clock.monotonic(), whole=whole), ended=True)
            return
        source.failures += 1
        if source.expired(self._clock.monotonic(), self._stale_after):
            await self._publish(source, None, ended=True)
        await self._tell(source)

    async def _show_progress(self, source: Source, search: "_Search") -> None:
        """Show now and then what a long search has found so far; at once while less is known."""
        if not source.truncated:
            await self._clock.sleep(_PROGRESS_SECONDS)
        while True:
            await search.grew.wait()
            await self._clock.sleep(_GATHER_SECONDS)  # the pages of a burst are shown together
            search.grew.clear()
            await self._publish(source, search.batch(self._clock.monotonic(), whole=False), ended=False)
            await self._clock.sleep(_PROGRESS_SECONDS)

    async def _search_all(self, source: Source, search: "_Search") -> bool:
        """With one account after the other, until one comes to the end."""
        refused = 0
        for account in source.in_turn():
            try:
                await self._collect(account, EVERYTHING, search, partial(self._leave_room, account, search))
            except ProviderError as error:
                refused += isinstance(error, AuthFailed)
                source.pause = (error.retry_after or 0.0) if isinstance(error, RateLimited) else 0.0
                log.info(  # nobody has to act: what was found before serves on, with its age
                    "search_failed",
                    provider=source.name,
                    account=account.account,
                    reason=error.reason,
                    error=str(error),
                )
            else:
                source.refused = False
                return True
        source.refused = refused == len(source.accounts)
        return False

    async def _leave_room(self, account: Provider, search: "_Search") -> bool:
        """After a page of a search for everything: a market of many small pages is read more slowly than is allowed.

        Searches that somebody waits for must find room at the marketplace's limit. False: there may be more pages.
        """
        search.pages += 1
        search.grew.set()
        cap = account.capabilities.search_page
        if cap is not None and search.pages > _BURST and len(search.found) <= search.pages * cap:
            await self._clock.sleep(account.capabilities.search_interval * _BACKGROUND_SHARE)
        return False

    async def _search_for(self, source: Source, wanted: OfferFilter, seconds: float) -> None:
        """One search for what is wanted; who wants the same at the same time shares it."""
        search = _Search(next(self._numbers), self._clock.monotonic(), known=merged(source.batches))

        async def enough() -> bool:
            return rentable_gpus(offer for offer, _ in search.found.values() if not wanted.rejects(offer)) >= MAX_GPUS

        try:
            async with self._clock.timeout(seconds), self._targeting[source.name]:
                if self._has_been_searched(source, wanted, search.began):
                    return
                search.began = self._clock.monotonic()
                await self._collect(source.in_turn()[0], wanted, search, enough)
        except (ProviderError, TimeoutError) as error:
            log.info("targeted_search_failed", provider=source.name, error=repr(error))
        if search.found:
            await self._publish(source, search.batch(self._clock.monotonic(), whole=False), ended=False)

    def _has_been_searched(self, source: Source, wanted: OfferFilter, now: float) -> bool:
        """True when it was within a refresh interval; notes that it is now."""
        recent = {what: at for what, at in self._targeted.items() if now - at < self._refresh_seconds}
        self._targeted = {(source.name, wanted): now} | recent
        return (source.name, wanted) in recent

    async def _collect(
        self, account: Provider, wanted: OfferFilter, search: "_Search", after_page: Callable[[], Awaitable[bool]]
    ) -> None:
        """Add what `account` finds, page by page, until the end or until `after_page` has enough."""
        pages = account.search(wanted)
        try:
            async for page in pages:
                for start in range(0, len(page), _SLICE):
                    for offer in page[start : start + _SLICE]:
                        search.add(offer, self._encoders)
                    await asyncio.sleep(0)
                if await after_page():
                    return
        finally:
            if isinstance(pages, AsyncGenerator):
                await pages.aclose()

    async def _publish(self, source: Source, batch: Batch | None, *, ended: bool) -> None:
        """Make a new snapshot with `batch` in it, and show it."""
        async with self._publishing:
            batches = source.with_batch(batch, self._clock.monotonic(), self._stale_after, ended=ended)
            entries: list[Entry] = []
            for each in self._sources.values():
                entries += merged(batches if each is source else each.batches).values()
            snapshot = await _in_slices(build(entries, self._encoders))
            source.batches = batches
            self._snapshot = snapshot
            self._hidden = 0
            for each in self._sources.values():
                self._hidden |= each.hidden(snapshot)
        if batch is not None:
            source.heard, source.failures, source.pause = self._clock.monotonic(), 0, 0.0
            await self._tell(source)

    async def _tell(self, source: Source) -> None:
        source.answered = True
        async with self._news:
            self._news.notify_all()


@dataclass(slots=True)
class _Search:
    """A search under way."""

    number: int
    began: float
    known: Mapping[OfferId, Entry]
    found: dict[OfferId, Entry] = field(default_factory=dict)
    pages: int = 0
    grew: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, offer: Offer, encoders: Mapping[str, Encoder]) -> None:
        """An offer that has not changed keeps its object and its encoded forms."""
        entry = self.known.get(offer.id)
        if entry is None or entry[0] != offer:
            entry = offer, {kind: encode(offer) for kind, encode in encoders.items()}
        self.found[offer.id] = entry

    def batch(self, until: float, *, whole: bool) -> Batch:
        """What has been found so far."""
        return Batch(self.number, self.began, until, dict(self.found), whole)


async def _in_slices(steps: Generator[None, None, Snapshot]) -> Snapshot:
    """The result of `steps`, with the loop's other work in between."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        await asyncio.sleep(0)
