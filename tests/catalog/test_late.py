"""A catalog in a process that did not run for a while: that time is not the marketplace's silence."""

import asyncio

import pytest

from gpuproxy.model.errors import Unavailable
from gpuproxy.runtime.lateness import Lateness
from tests.catalog.test_catalog import ANY, Account, Street, at_noon, catalog_of, ids
from tests.markets import offer
from tests.virtual_time import VirtualClock


@at_noon
async def test_the_first_question_waits_longer_where_the_server_itself_did_not_run(clock: VirtualClock) -> None:
    lateness = Lateness(clock)
    watch = asyncio.create_task(lateness.watch())
    catalog = catalog_of(clock, Account(Street(clock, [offer(1)], seconds_per_page=3)), lateness=lateness)
    asking = asyncio.create_task(ids(catalog))
    await clock.sleep(5)
    clock.stall(20)
    await clock.sleep(1)
    background = asyncio.create_task(catalog.run())
    assert await asking == ["vast-1"]
    assert clock.monotonic() == 29
    background.cancel()
    watch.cancel()


@at_noon
async def test_only_time_in_which_the_server_ran_is_called_silence(clock: VirtualClock) -> None:
    lateness = Lateness(clock)
    watch = asyncio.create_task(lateness.watch())
    catalog = catalog_of(clock, Account(Street(clock, silent=True)), lateness=lateness)
    background = asyncio.create_task(catalog.run())
    await clock.sleep(5)
    clock.stall(20)
    await clock.sleep(1)
    with pytest.raises(Unavailable, match=r"vast\.ai silent for 10 s"):
        await catalog.market(ANY)
    assert clock.monotonic() == pytest.approx(30, abs=0.2)
    background.cancel()
    watch.cancel()


@at_noon
async def test_offers_that_aged_while_the_server_did_not_run_are_read_anew_first(clock: VirtualClock) -> None:
    lateness = Lateness(clock)
    watch = asyncio.create_task(lateness.watch())
    catalog = catalog_of(clock, Account(Street(clock, [offer(1)], seconds_per_page=3)), lateness=lateness)
    background = asyncio.create_task(catalog.run())
    assert await ids(catalog) == ["vast-1"]
    clock.stall(400)
    resumed = clock.monotonic()
    assert await ids(catalog) == ["vast-1"]
    assert clock.monotonic() - resumed <= 4
    background.cancel()
    watch.cancel()


@at_noon
async def test_a_marketplace_that_was_silent_while_the_server_ran_is_not_waited_for(clock: VirtualClock) -> None:
    lateness = Lateness(clock)
    watch = asyncio.create_task(lateness.watch())
    street = Street(clock, [offer(1)])
    catalog = catalog_of(clock, Account(street), lateness=lateness)
    background = asyncio.create_task(catalog.run())
    assert await ids(catalog) == ["vast-1"]
    street.silent = True
    await clock.sleep(310)
    clock.stall(400)
    resumed = clock.monotonic()
    with pytest.raises(Unavailable, match=r"vast\.ai silent for 3\d\d s"):
        await catalog.market(ANY)
    assert clock.monotonic() == resumed
    background.cancel()
    watch.cancel()
