"""A catalog in a process that did not run for a while: that time is not the marketplace's silence."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gpuproxy.catalog.refresh import Catalog
from gpuproxy.model.errors import Unavailable
from gpuproxy.runtime.lateness import Lateness
from tests.catalog.test_catalog import ANY, Account, Street, at_noon, catalog_of, ids
from tests.markets import offer
from tests.virtual_time import VirtualClock


class Suspended:
    """The clock of a computer that may sleep: timers stand still then, and the time that is told does not."""

    scale = 1.0

    def __init__(self, clock: VirtualClock) -> None:
        self._clock, self.slept = clock, 0.0

    def monotonic(self) -> float:
        return self._clock.monotonic() + self.slept

    def __getattr__(self, name: str) -> Any:
        return getattr(self._clock, name)


@asynccontextmanager
async def watched(clock: Any, street: Street, *, reading: bool = True) -> AsyncIterator[Catalog]:
    """A catalog of one account whose process measures its own lateness; `reading`: in the background."""
    lateness = Lateness(clock)
    catalog = catalog_of(clock, Account(street), lateness=lateness)
    tasks = [asyncio.create_task(lateness.watch())]
    tasks += [asyncio.create_task(catalog.run())] if reading else []
    try:
        yield catalog
    finally:
        for each in tasks:
            each.cancel()


@at_noon
async def test_the_first_question_waits_longer_where_the_server_itself_did_not_run(clock: VirtualClock) -> None:
    async with watched(clock, Street(clock, [offer(1)], seconds_per_page=3), reading=False) as catalog:
        asking = asyncio.create_task(ids(catalog))
        await clock.sleep(5)
        clock.stall(20)
        await clock.sleep(1)
        background = asyncio.create_task(catalog.run())
        assert await asking == ["vast-1"]
        assert clock.monotonic() == 29
        background.cancel()


@at_noon
async def test_only_time_in_which_the_server_ran_is_called_silence(clock: VirtualClock) -> None:
    async with watched(clock, Street(clock, silent=True)) as catalog:
        await clock.sleep(5)
        clock.stall(20)
        await clock.sleep(1)
        with pytest.raises(Unavailable, match=r"vast\.ai silent for 10 s"):
            await catalog.market(ANY)
        assert clock.monotonic() == pytest.approx(30, abs=0.2)


@at_noon
async def test_offers_that_aged_while_the_server_did_not_run_are_read_anew_first(clock: VirtualClock) -> None:
    async with watched(clock, Street(clock, [offer(1)], seconds_per_page=3)) as catalog:
        assert await ids(catalog) == ["vast-1"]
        clock.stall(400)
        resumed = clock.monotonic()
        assert await ids(catalog) == ["vast-1"]
        assert clock.monotonic() - resumed <= 4


@at_noon
async def test_after_a_sleep_of_the_computer_the_first_call_has_the_marketplace_read_at_once(
    clock: VirtualClock,
) -> None:
    sleeping = Suspended(clock)
    street = Street(clock, [offer(1)], seconds_per_page=3)
    async with watched(sleeping, street) as catalog:
        assert await ids(catalog) == ["vast-1"]
        await clock.sleep(2)
        sleeping.slept = 3600.0
        await clock.sleep(1)
        resumed = clock.monotonic()
        assert await asyncio.gather(ids(catalog), ids(catalog)) == [["vast-1"], ["vast-1"]]
        assert clock.monotonic() - resumed <= 4
        assert len(street.searches) == 2


@at_noon
async def test_calls_after_a_pause_wait_once_and_not_each(clock: VirtualClock) -> None:
    sleeping, street = Suspended(clock), Street(clock, [offer(1)])
    async with watched(sleeping, street) as catalog:
        assert await ids(catalog) == ["vast-1"]
        street.silent, sleeping.slept = True, 3600.0
        await clock.sleep(1)
        resumed = clock.monotonic()
        for _ in range(3):
            with pytest.raises(Unavailable):
                await catalog.market(ANY)
        assert clock.monotonic() - resumed <= 11
        assert len(street.searches) == 2, "each call began a search"


@at_noon
async def test_a_marketplace_that_was_silent_while_the_server_ran_is_not_waited_for(clock: VirtualClock) -> None:
    street = Street(clock, [offer(1)])
    async with watched(clock, street) as catalog:
        assert await ids(catalog) == ["vast-1"]
        street.silent = True
        await clock.sleep(310)
        clock.stall(400)
        resumed = clock.monotonic()
        with pytest.raises(Unavailable, match=r"vast\.ai silent for 3\d\d s"):
            await catalog.market(ANY)
        assert clock.monotonic() == resumed
