"""Searches of marketplaces: what a running one has found so far, and which account makes it."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec
import structlog

from gpuproxy.catalog.snapshot import Entry
from gpuproxy.catalog.source import Batch, Source
from gpuproxy.model.errors import AuthFailed, ProviderError, RateLimited
from gpuproxy.model.offers import HIGHEST_PRICE, Offer, OfferFilter, OfferId
from gpuproxy.ports import Clock, Provider

log = structlog.get_logger(__name__)

EVERYTHING = OfferFilter(max_price=HIGHEST_PRICE, verified_only=False, disk_gb=1.0)
TARGET_SECONDS = 15.0
"""The most time that a search for what a caller wants may take, with all accounts of the marketplace."""
_WHOLE = 0.9
"""The part of it that counts as the whole."""
_SLICE = 100
_BURST, _BACKGROUND_SHARE = 5, 1.6
"""The first pages of a search are read at full speed, the others this many times slower than the rate limit allows."""

_shared = msgspec.msgpack.Encoder()
"""As in `shared`."""

Encoder = Callable[[Offer], bytes]
AfterPage = Callable[[], Awaitable[bool]]
"""Returns True if no further page is needed."""


@dataclass(slots=True)
class Search:
    """A running search."""

    number: int
    began: float
    known: Mapping[OfferId, Entry]
    found: dict[OfferId, Entry] = field(default_factory=dict)
    pages: int = 0
    grew: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, offer: Offer, encoders: Mapping[str, Encoder]) -> bool:
        """Add an offer. If it has not changed, its known object and encoded forms are kept.

        False: it can't be encoded for clients or other processes, and is left out. It must not hide the other offers.
        """
        entry = self.known.get(offer.id)
        if entry is None or entry[0] != offer:
            try:
                _shared.encode(offer)
                entry = offer, {kind: encode(offer) for kind, encode in encoders.items()}
            except (ValueError, OverflowError):
                return False
        self.found[offer.id] = entry
        return True

    def batch(self, until: float, *, whole: bool) -> Batch:
        """What has been found so far."""
        return Batch(self.number, self.began, until, dict(self.found), whole)


class Searcher:
    """Makes searches, with another account if one fails."""

    def __init__(self, clock: Clock, encoders: Mapping[str, Encoder]) -> None:
        self._clock = clock
        self._encoders = encoders

    async def search_all(self, source: Source, search: Search) -> bool:
        """Search for all offers that any account sees. True if every part of this search completed."""
        refused: list[str] = []
        complete = True
        for accounts in source.in_turn_by_region():
            complete = await self._search_all_with(accounts, source, search, refused) and complete
        source.refused = len(refused) == len(source.accounts)
        return complete

    async def search_for(
        self, source: Source, wanted: OfferFilter, search: Search, enough: AfterPage, until: float
    ) -> None:
        """Search for what is wanted, until a page is `enough`, or until a reading of Clock.monotonic().

        An account that had less time than its share of TARGET_SECONDS, because the caller has less, has not failed.
        """
        for accounts in source.in_turn_by_region():
            for left, account in zip(range(len(accounts), 0, -1), accounts, strict=True):
                seconds = (until - self._clock.monotonic()) / left
                try:
                    async with self._clock.timeout(seconds):
                        await self._collect(account, wanted, search, enough)
                except (ProviderError, TimeoutError) as error:
                    if isinstance(error, ProviderError) or seconds * len(accounts) > TARGET_SECONDS * _WHOLE:
                        source.circuits[account.account].failed()
                    log.info("targeted_search_failed", provider=source.name, account=account.account, error=repr(error))
                else:
                    break

    async def _search_all_with(
        self, accounts: Sequence[Provider], source: Source, search: Search, refused: list[str]
    ) -> bool:
        """Search with one account after the other, until a search completes. True if one did.

        Accounts whose key is not accepted are added to `refused`.
        """
        for account in accounts:
            try:
                await self._collect(account, EVERYTHING, search, partial(self._leave_room, account, search))
            except ProviderError as error:
                source.circuits[account.account].failed()
                refused += [account.account] if isinstance(error, AuthFailed) else []
                source.pause = (error.retry_after or 0.0) if isinstance(error, RateLimited) else 0.0
                log.info(  # no action is needed: the offers found before stay in use
                    "search_failed",
                    provider=source.name,
                    account=account.account,
                    reason=error.reason,
                    error=str(error),
                )
            else:
                source.circuits[account.account].succeeded()
                return True
        return False

    async def _leave_room(self, account: Provider, search: Search) -> bool:
        """After a page of a search for all offers, pause if the market has many small pages.

        This leaves part of the rate limit to searches that a caller waits for. Returns False: read the next page.
        """
        search.pages += 1
        search.grew.set()
        cap = account.capabilities.search_page
        if cap is not None and search.pages > _BURST and len(search.found) <= search.pages * cap:
            await self._clock.sleep(account.capabilities.search_interval * _BACKGROUND_SHARE)
        return False

    async def _collect(self, account: Provider, wanted: OfferFilter, search: Search, after_page: AfterPage) -> None:
        """Add what `account` finds, page by page, until the end or until `after_page` returns True."""
        pages = account.search(wanted)
        try:
            async for page in pages:
                added = 0
                for start in range(0, len(page), _SLICE):
                    added += sum(search.add(offer, self._encoders) for offer in page[start : start + _SLICE])
                    await asyncio.sleep(0)
                if skipped := len(page) - added:
                    log.info(
                        "offers_not_encodable",
                        provider=account.name,
                        account=account.account,
                        skipped=skipped,
                        of=len(page),
                    )
                if await after_page():
                    return
        finally:
            if isinstance(pages, AsyncGenerator):
                await pages.aclose()
