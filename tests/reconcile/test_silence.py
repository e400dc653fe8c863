"""A marketplace that stays silent is a warning, once; one listing that fails is not."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.world import World, in_world

WORDS = frozenset({"listing_failed", "provider_silent", "provider_answered"})


def heard(story: Callable[[World], Awaitable[None]], **options: Any) -> list[tuple[str, str]]:
    with capture_logs() as lines:
        in_world(story, **options)
    return [(line["log_level"], line["event"]) for line in lines if line["event"] in WORDS]


async def silent_for(world: World, seconds: float) -> None:
    world.arm("list", "html_502", times=0)
    await world.sleep(seconds)
    world.control("DELETE", "faults")
    await world.sleep(60)


def test_an_account_that_is_silent_for_a_minute_is_warned_of_once_and_told_of_when_it_answers() -> None:
    async def story(world: World) -> None:
        await silent_for(world, 600)

    assert heard(story) == [("info", "listing_failed"), ("warning", "provider_silent"), ("info", "provider_answered")]


def test_each_silence_has_a_warning_of_its_own() -> None:
    async def story(world: World) -> None:
        await silent_for(world, 300)
        await silent_for(world, 300)

    assert heard(story).count(("warning", "provider_silent")) == 2


def test_a_single_failed_listing_causes_no_warning() -> None:
    async def story(world: World) -> None:
        await world.sleep(10)
        world.arm("list", "html_502", times=1)
        await world.sleep(120)

    assert heard(story) == [("info", "listing_failed"), ("info", "provider_answered")]


@pytest.mark.parametrize("fault", ["html_502", "auth_error"])
def test_the_warning_says_who_why_and_for_how_long(fault: str) -> None:
    async def story(world: World) -> None:
        world.arm("list", fault, times=0)
        await world.sleep(300)

    with capture_logs() as lines:
        in_world(story)
    (warning,) = [line for line in lines if line["log_level"] == "warning"]
    assert (warning["provider"], warning["account"]) == ("vast.ai", "vast-1")
    assert 60 <= warning["seconds"] <= 100
    assert warning["reason"]
    assert warning["error"]


def test_the_answer_says_how_long_the_silence_was() -> None:
    async def story(world: World) -> None:
        await silent_for(world, 600)

    with capture_logs() as lines:
        in_world(story)
    (answered,) = [line for line in lines if line["event"] == "provider_answered"]
    assert 570 <= answered["seconds"] <= 640


def test_an_account_that_answers_is_not_warned_of_for_another_that_does_not() -> None:
    async def story(world: World) -> None:
        body = {"provider": "vast.ai", "account": "sandbox-key", "call": "list", "fault": "html_502", "times": 0}
        world.control("POST", "faults", body)
        await world.sleep(300)

    with capture_logs() as lines:
        in_world(story, accounts=2)
    assert [line["account"] for line in lines if line["event"] == "provider_silent"] == ["vast-1"]


async def watched(world: World) -> "asyncio.Task[None]":
    """Listings fail from now on, and the loop's lateness is measured."""
    watch = asyncio.create_task(world.lateness.watch())
    await world.sleep(10)
    world.arm("list", "html_502", times=0)
    return watch


def test_time_in_which_the_server_itself_did_not_run_does_not_count_as_silence() -> None:
    async def story(world: World) -> None:
        watch = await watched(world)
        await world.sleep(40)
        world.clock.stall(600)
        await world.sleep(40)
        world.control("DELETE", "faults")
        await world.sleep(60)
        watch.cancel()

    assert heard(story) == [("info", "listing_failed"), ("info", "provider_answered")]


def test_a_marketplace_that_is_silent_is_named_although_the_server_is_late_now_and_then() -> None:
    async def story(world: World) -> None:
        watch = await watched(world)
        for _ in range(20):
            await world.sleep(10)
            world.clock.stall(5)
        watch.cancel()

    assert heard(story) == [("info", "listing_failed"), ("warning", "provider_silent")]


def test_where_nobody_measures_lateness_the_time_that_passed_is_silence() -> None:
    async def story(world: World) -> None:
        watch = await watched(world)
        watch.cancel()
        await world.sleep(40)
        world.clock.stall(600)
        await world.sleep(40)

    assert ("warning", "provider_silent") in heard(story)
