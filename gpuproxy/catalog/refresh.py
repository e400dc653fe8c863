"""The catalog: every marketplace is read in the background, and queries are answered from memory at once.

A marketplace that is slow or does not answer never delays or empties an answer. The answer names it with the time since
it last answered, and uses its last offers until they are too old. Where a search can't return all offers, a demand is
also searched for directly. An offer that was just taken disappears at once. Only a search that began later can bring it
back.
"""

import asyncio
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from itertools import count

import structlog

from gpuproxy.catalog.market import Market
from gpuproxy.catalog.search import TARGET_SECONDS, Encoder, Search, Searcher
from gpuproxy.catalog.shared import SharedCatalog
from gpuproxy.catalog.snapshot import Entry, Selection, Snapshot, View, build, built
from gpuproxy.catalog.source import Batch, Source, merged, source_of
from gpuproxy.model.chunks import most_alike, rentable_gpus
from gpuproxy.model.demands import MAX_GPUS
from gpuproxy.model.errors import ClaimLost, Unavailable
from gpuproxy.model.groups import Alike
from gpuproxy.model.offers import Offer, OfferFilter, OfferId, ProviderName
from gpuproxy.outcomes.answers import keys_refused, no_account
from gpuproxy.ports import Clock, Provider
from gpuproxy.runtime.lateness import Lateness
from gpuproxy.runtime.loops import guarded
from gpuproxy.runtime.regions import Regions

__all__ = ["Catalog", "Market", "Selection"]

log = structlog.get_logger(__name__)

_PROGRESS_SECONDS, _GATHER_SECONDS = 5.0, 0.5
_LONGEST_READ_SECONDS = 1800.0
_FIRST_RETRY_SECONDS = 2.0
_OTHERS_SECONDS = 1.0
_FOLLOWED_SECONDS = 5.0
"""Between two looks at what another process reads. News are announced, but a hint may be lost."""
_ANY = Alike()


class Catalog:
    """The catalog of the process. Times are in the clock's seconds."""

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
        regions: Regions | None = None,
        seed: str = "",
        shared: SharedCatalog | None = None,
    ) -> None:
        """`encoders` encode an offer, by kind of encoding. The first answer waits up to `first_wait_seconds`.

        `seed`: of the jitter of waits after failed searches. `shared`: where several processes share what one reads.
        """
        self._shared = shared
        self._clock = clock
        self._lateness = lateness or Lateness(clock)
        self._encoders = encoders
        self._refresh_seconds = refresh_seconds
        self._stale_after = stale_after_seconds
        self._first_wait = first_wait_seconds
        self._started = clock.monotonic()
        names = dict.fromkeys(provider.name for provider in providers)
        self._sources = {
            name: source_of(name, [each for each in providers if each.name == name], clock, regions or Regions(), seed)
            for name in names
        }
        self._searcher = Searcher(clock, encoders)
        self._searching = {name: asyncio.Lock() for name in names}
        self._searches = dict.fromkeys(names, 0)
        self._targeting = {name: asyncio.Lock() for name in names}
        self._targeted: dict[tuple[ProviderName, OfferFilter], float] = {}
        self._numbers = count(1)
        self._followed: dict[ProviderName, int] = {}
        """The version of what another process has told that is in use here."""
        self._read_now = {name: asyncio.Event() for name in names}
        self._aged_at: float | None = None
        """When a call first found that all offers had become too old while this process did not run."""
        self._publishing = asyncio.Lock()
        self._news = asyncio.Condition()
        self._snapshot = built([], encoders)
        self._hidden = 0
        self._shown = View(self._snapshot, 0)
        self._standing: tuple[Market, float] | None = None
        """The last answer about all marketplaces, and until when it holds if nothing changes; None: it has changed."""

    async def run(self) -> None:
        """Read every marketplace at its own interval, until cancelled."""
        async with asyncio.TaskGroup() as loops:
            for source in self._sources.values():
                loops.create_task(self._read_forever(source))

    async def step(self, name: ProviderName) -> None:
        """Read one marketplace. A call during a read waits for that read instead of starting another."""
        before = self._searches[name]
        async with self._searching[name]:
            if self._searches[name] == before:
                await self._refresh(self._sources[name])
                self._searches[name] += 1

    async def first_snapshot(self) -> None:
        """Return when at least one marketplace has usable offers."""
        async with self._news:
            await self._news.wait_for(lambda: self._usable(self._sources.values()))

    async def market(self, wanted: OfferFilter) -> Market:
        """The offers of the marketplaces that `wanted` names.

        Raises Unavailable when none of them has usable offers, and FailedPrecondition (NO_ACCOUNT) when no account is
        configured for any of them.
        """
        if self._standing is not None and not wanted.providers:
            known, until = self._standing
            if self._clock.monotonic() <= until:
                return Market(known.as_of, (), known.truncated, known.view, self._clock.now())
        asked = self._asked(wanted)
        if not asked:
            raise no_account(wanted.providers)
        if [source for source in asked if not source.answered]:
            await self._first_answers(asked)
        elif not self._usable(asked):
            await self._answers_after_a_pause(asked)
        now, time = self._clock.monotonic(), self._clock.now()
        every = self._usable(self._sources.values(), now)
        usable = every if len(asked) == len(self._sources) else [source for source in asked if source in every]
        silent = self._silent(asked, now)
        if not usable and all(source.refused for source in asked):
            raise keys_refused([source.name for source in asked])
        if not usable:
            why = ", ".join(f"{name} silent for {seconds:.0f} s" for name, seconds in silent) or "no account for it"
            names = ",".join(name for name, _ in silent)
            raise Unavailable(f"No market can be read: {why}. Nothing happened.", metadata={"unreachable": names})
        as_of = time - timedelta(seconds=now - min([source.as_of for source in usable]))
        # Rounded to the millisecond, so that it is the same each time and an encoded answer can be reused.
        as_of = as_of.replace(microsecond=as_of.microsecond // 1000 * 1000)
        truncated = bool([source for source in usable if source.truncated])
        market = Market(as_of, silent, truncated, self._view(every), time)
        if len(usable) == len(self._sources) and not silent:
            self._standing = market, min([source.usable_until for source in usable])
        return market

    def silent(self, wanted: OfferFilter) -> tuple[tuple[ProviderName, float], ...]:
        """The marketplaces among those that `wanted` names that do not answer, and for how many seconds."""
        return self._silent(self._asked(wanted), self._clock.monotonic())

    async def targeted(
        self, wanted: OfferFilter, deadline: float, *, until: datetime | None = None, alike: Alike = _ANY
    ) -> None:
        """Search for `wanted` directly at marketplaces with incomplete offers, if the known offers may not be enough.

        Only offers that last until `until` (None: now) count; with `alike`, those of the best group.
        Returns at `deadline` (a reading of Clock.monotonic()) at the latest. A search that fails changes nothing.
        """
        asked = self._asked(wanted)
        await self._first_answers(asked)
        until = until or self._clock.now()

        def at_once(offers: Iterable[Offer]) -> int:
            lasting = [offer for offer in offers if not wanted.rejects(offer, until)]
            return most_alike(lasting, alike) if alike else rentable_gpus(lasting)

        known = self._view().select(wanted, until)
        if (at_once(known.offers) if alike else known.available_gpus) >= MAX_GPUS:
            return
        seconds = min(deadline - self._clock.monotonic(), TARGET_SECONDS)
        if seconds > 0:
            async with asyncio.TaskGroup() as searches:
                for source in self._usable(asked):
                    if source.truncated and source.accounts[0].capabilities.search_page is not None:
                        searches.create_task(self._search_for(source, wanted, seconds, at_once))

    def taken(self, offer: Offer) -> None:
        """Hide an offer that is being rented, and all offers that share its conflict keys."""
        self._standing = None
        self._sources[offer.provider].taken(offer, self._clock.monotonic())
        self._hidden |= self._snapshot.sharing(offer)

    def gone(self, offer_id: OfferId) -> None:
        """Hide an offer that the marketplace no longer has."""
        offer = self._snapshot.offer(offer_id)
        if offer is not None:
            self._standing = None
            self._sources[offer.provider].gone(offer_id, self._clock.monotonic())
            self._hidden |= self._snapshot.named(offer_id)

    def _silent(self, asked: Iterable[Source], now: float) -> tuple[tuple[ProviderName, float], ...]:
        silence = [(source.name, seconds) for source in asked if (seconds := source.silent(now)) is not None]
        return tuple([(name, seconds - self._lateness.within(seconds)) for name, seconds in silence])

    def _asked(self, wanted: OfferFilter) -> list[Source]:
        sources = list(self._sources.values())
        return [source for source in sources if source.name in wanted.providers] if wanted.providers else sources

    def _usable(self, sources: Iterable[Source], now: float | None = None) -> list[Source]:
        """Those with offers that are not too old at `now`; the default is this moment."""
        now = self._clock.monotonic() if now is None else now
        return [source for source in sources if source.usable(now)]

    def _view(self, usable: Sequence[Source] | None = None) -> View:
        """The snapshot without taken and too old offers. `usable`: the sources whose offers are not too old."""
        usable = self._usable(self._sources.values()) if usable is None else usable
        stale: list[ProviderName] = []
        if len(usable) < len(self._sources):
            stale = [source.name for source in self._sources.values() if source.batches and source not in usable]
        hidden = self._hidden | (self._snapshot.of_providers(stale) if stale else 0)
        if self._shown.snapshot is not self._snapshot or self._shown.hidden != hidden:
            self._shown = View(self._snapshot, hidden)
        return self._shown

    async def _first_answers(self, asked: Sequence[Source]) -> None:
        """After the start, wait for the first offers of any marketplace, and up to a second for all others."""

        def all_answered() -> bool:
            return all(source.answered for source in asked)

        def enough() -> bool:
            return all_answered() or bool(self._usable(asked))

        if not all_answered():
            await self._wait_for(all_answered, self._started, min(_OTHERS_SECONDS, self._first_wait))
            await self._wait_for(enough, self._started, self._first_wait)

    async def _answers_after_a_pause(self, asked: Sequence[Source]) -> None:
        """If offers are too old only because this process did not run, wait for new ones, once after each pause."""
        now = self._clock.monotonic()
        heard = {source.name for source in asked if source.heard is not None}
        aged = [name for name, seconds in self._silent(asked, now) if name in heard and seconds <= self._stale_after]
        if aged and self._aged_at is None:
            self._aged_at = now
            for name in aged:
                self._read_now[name].set()
        if aged and self._aged_at is not None:
            await self._wait_for(lambda: bool(self._usable(asked)), self._aged_at, self._first_wait)

    async def _wait_for(self, so_far: Callable[[], bool], since: float, at_most: float) -> None:
        """Wait for so many seconds after `since`; as much longer as this process did not run in that time."""
        while not so_far():
            now = self._clock.monotonic()
            seconds = since + at_most - now + self._lateness.within(now - since)
            if seconds <= 0:
                return
            with suppress(TimeoutError):
                async with self._clock.timeout(seconds), self._news:
                    await self._news.wait_for(so_far)

    async def _read_forever(self, source: Source) -> None:
        while True:
            if self._shared is not None and not self._shared.reads(source.name):
                await guarded(partial(self._follow, source, self._shared), self._clock, f"catalog {source.name}")
                await self._shared.changed(source.name, _FOLLOWED_SECONDS)
                continue
            self._read_now[source.name].clear()
            await guarded(partial(self.step, source.name), self._clock, f"catalog {source.name}")
            with suppress(TimeoutError):
                async with self._clock.timeout(self._pause_after(source)):
                    await self._read_now[source.name].wait()

    async def _follow(self, source: Source, told: SharedCatalog) -> None:
        """Use what another process has read of a marketplace since the last look."""
        shown = await told.shown(source.name, self._followed.get(source.name, 0))
        if shown is None:
            return
        self._followed[source.name] = shown.version
        if shown.batch is not None:
            await self._publish(source, shown.batch, ended=shown.ended)
        source.failures, source.refused = shown.failures, shown.refused
        if shown.failures:
            self._standing = None
            await self._tell(source)

    async def _share(self, source: Source, batch: Batch | None, *, ended: bool) -> None:
        """Tell the other processes what this one has read."""
        if self._shared is not None:
            failures, refused = source.failures, source.refused
            try:
                await self._shared.tell(source.name, batch, failures=failures, refused=refused, ended=ended)
            except (ClaimLost, Unavailable) as error:
                log.info("catalog_not_shared", provider=source.name, error=str(error))

    def _pause_after(self, source: Source) -> float:
        if not source.failures:
            return self._refresh_seconds
        retry = _FIRST_RETRY_SECONDS * 2.0 ** min(source.failures - 1, 10)
        return max(source.pause, min(self._refresh_seconds, retry))

    async def _refresh(self, source: Source) -> None:
        """Make one search for all offers."""
        search = Search(next(self._numbers), self._clock.monotonic(), known=merged(source.batches))
        whole = False
        showing = asyncio.create_task(self._show_progress(source, search))
        try:
            async with self._clock.timeout(max(self._stale_after, _LONGEST_READ_SECONDS)):
                whole = await self._searcher.search_all(source, search)
        except TimeoutError:
            log.warning("search_timed_out", provider=source.name, offers=len(search.found))
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)
        if whole or search.found:
            batch = search.batch(self._clock.monotonic(), whole=whole)
            await self._publish(source, batch, ended=True)
            await self._share(source, batch, ended=True)
            return
        source.failures += 1
        await self._share(source, None, ended=True)
        self._standing = None
        if source.expired(self._clock.monotonic(), self._stale_after):
            await self._publish(source, None, ended=True)
        await self._tell(source)

    async def _show_progress(self, source: Source, search: Search) -> None:
        """Publish what a long search has found so far every few seconds; at once if known offers are incomplete."""
        if not source.truncated:
            await self._clock.sleep(_PROGRESS_SECONDS)
        while True:
            await search.grew.wait()
            await self._clock.sleep(_GATHER_SECONDS)  # the pages of a burst are published together
            search.grew.clear()
            batch = search.batch(self._clock.monotonic(), whole=False)
            await self._publish(source, batch, ended=False)
            await self._share(source, batch, ended=False)
            await self._clock.sleep(_PROGRESS_SECONDS)

    async def _search_for(
        self, source: Source, wanted: OfferFilter, seconds: float, at_once: Callable[[Iterable[Offer]], int]
    ) -> None:
        """Make one search for what is wanted. Callers that want the same at the same time share it.

        `at_once` returns how many of the wanted GPUs could be rented at once out of some offers.
        """
        search = Search(next(self._numbers), self._clock.monotonic(), known=merged(source.batches))
        until = self._clock.monotonic() + seconds

        async def enough() -> bool:
            return at_once(offer for offer, _ in search.found.values()) >= MAX_GPUS

        try:
            async with self._clock.timeout(seconds), self._targeting[source.name]:
                if self._has_been_searched(source, wanted, search.began):
                    return
                search.began = self._clock.monotonic()
                await self._searcher.search_for(source, wanted, search, enough, until)
        except TimeoutError as error:
            log.info("targeted_search_failed", provider=source.name, error=repr(error))
        if search.found:
            await self._publish(source, search.batch(self._clock.monotonic(), whole=False), ended=False)

    def _has_been_searched(self, source: Source, wanted: OfferFilter, now: float) -> bool:
        """True if this was searched within a refresh interval. Records that it is searched now."""
        recent = {what: at for what, at in self._targeted.items() if now - at < self._refresh_seconds}
        self._targeted = {(source.name, wanted): now} | recent
        return (source.name, wanted) in recent

    async def _publish(self, source: Source, batch: Batch | None, *, ended: bool) -> None:
        """Build a new snapshot that includes `batch`, and use it from now on."""
        async with self._publishing:
            batches = source.with_batch(batch, self._clock.monotonic(), self._stale_after, ended=ended)
            entries: list[Entry] = []
            for each in self._sources.values():
                entries += merged(batches if each is source else each.batches).values()
            snapshot = await _in_slices(build(entries, self._encoders))
            source.keep(batches, self._stale_after)
            self._snapshot, self._standing = snapshot, None
            self._hidden = 0
            for each in self._sources.values():
                self._hidden |= each.hidden(snapshot)
        if batch is not None:
            source.heard, source.failures, source.pause = self._clock.monotonic(), 0, 0.0
            self._aged_at = None
            await self._tell(source)

    async def _tell(self, source: Source) -> None:
        source.answered = True
        async with self._news:
            self._news.notify_all()


async def _in_slices(steps: Generator[None, None, Snapshot]) -> Snapshot:
    """The result of `steps`. Other tasks run between the steps."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        await asyncio.sleep(0)
