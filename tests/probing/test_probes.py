"""Probes of an account of vast.ai: what they measure, what they may cost, and that they leave nothing behind."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from gpuproxy.model.leases import LeaseState
from gpuproxy.model.money import Micro
from gpuproxy.model.probes import QUANTITIES, Measurement, Probe
from gpuproxy.model.reasons import Reason
from gpuproxy.store import probes
from tests.world import VAST, World, in_world, plain_label

ADMIN = Caller(project="p1", role="admin")
T = TypeVar("T")
MUCH = Micro(5_000_000)


def told(story: Callable[[World], Awaitable[T]], **options: Any) -> T:
    """Run a story in a small market whose catalog is read once."""
    return in_world(story, **{"machines": 20, **options})


async def probe(world: World, until: Callable[[Probe], bool] = lambda each: each.state == "finished") -> Probe:
    """Start a probe, and return it when `until` is true of it."""
    await world.sleep(60)
    await world.engine.prober.start(ADMIN, "vast.ai", "", MUCH)
    return await followed(world, until)


async def followed(world: World, until: Callable[[Probe], bool]) -> Probe:
    """The running probe, once `until` is true of it."""
    for _ in range(3000):
        now = await world.engine.prober.last("vast.ai", "")
        if until(now):
            return now
        await world.sleep(1)
    raise AssertionError(f"the probe did not get there: {now}")


def finished(each: Probe) -> bool:
    return each.state == "finished"


def by_name(each: Probe) -> dict[str, Measurement]:
    return {found.name: found for found in each.measurements}


def words(each: Probe) -> dict[str, str]:
    """What is no time, by name: the value, or why there is none."""
    return {found.name: found.value or found.outcome for found in each.measurements if not found.unit}


async def ended(world: World) -> None:
    """Return when no lease is live and nothing exists, after 20 minutes at the latest."""
    for _ in range(60):
        await world.sleep(20)
        if not world.alive() and not await world.live():
            return


async def nothing_is_left(world: World) -> None:
    """No machine and no volume exists at the market or in the books, and the books agree with the market."""
    assert world.alive() == {}
    assert [each["id"] for each in world.market["volumes"] if each["deleted_at"] is None] == []
    assert await world.live() == []
    await world.books_agree()


def test_a_probe_measures_everything_of_a_good_marketplace_and_leaves_nothing() -> None:
    async def story(world: World) -> None:
        plan = await world.engine.prober.plan(ADMIN, "vast.ai", "", MUCH)
        done = await probe(world)
        found = by_name(done)
        assert list(found) == list(QUANTITIES)
        assert {name for name, each in found.items() if each.outcome != "measured"} == {"container_key"}
        seconds = {name: float(each.value) for name, each in found.items() if each.unit == "s"}
        assert seconds["create_answer"] == 2
        assert 20 <= seconds["create_to_listed"] <= 24  # it is looked for every two seconds
        assert 18 <= seconds["listing_lag"] <= seconds["label_lag"] <= 22
        assert seconds["create_to_ready"] >= 20
        assert 0 <= seconds["stop_latency"] <= 4
        assert 0 <= seconds["destroy_to_gone"] <= 8
        assert words(done) == {
            "container_key": "not_measured", "volume_sharing": "yes", "create_stopped": "yes",
            "stop_frees_gpus": "yes", "chunk_binding": "yes",
        }  # fmt: skip
        assert 0 < done.spent < done.most == plan.most <= done.budget
        assert world.created() == 3
        await nothing_is_left(world)

    told(story, paced=True, list_lag=20.0, create_latency=2.0)


def test_a_marketplace_that_refuses_to_share_a_volume_and_binds_to_no_chunk_is_measured_as_such() -> None:
    async def story(world: World) -> None:
        done = await probe(world)
        found = by_name(done)
        assert words(done) | {"container_key": ""} == {
            "container_key": "", "volume_sharing": "no", "create_stopped": "yes", "stop_frees_gpus": "yes",
            "chunk_binding": "no",
        }  # fmt: skip
        assert "the volume is attached to another instance" in found["volume_sharing"].why
        assert world.created() == 3  # the second machine was rented without the volume
        await nothing_is_left(world)

    told(story, volume_sharing="refuse", standby_binding="any")


@pytest.mark.parametrize(("code", "word"), [("0", "yes"), ("1", "no"), ("127", "not_measured")])
def test_what_the_machine_prints_says_whether_its_key_may_read_it(code: str, word: str) -> None:
    """The sandbox runs no script of a machine in this test, so the test prints what the script would print."""

    async def story(world: World) -> None:
        await probe(world, lambda each: "log" in each.doing)
        (number,) = world.alive()
        printed = world.sandbox.market.printed.setdefault(int(number), deque())
        printed.append(f"gpuproxy-probe: own_read={code}")
        assert words(await followed(world, finished))["container_key"] == word
        await nothing_is_left(world)

    told(story)


def test_a_budget_below_the_most_that_it_can_cost_rents_nothing_and_one_that_is_enough_does() -> None:
    async def story(world: World) -> None:
        await world.sleep(60)
        prober = world.engine.prober
        most = (await prober.plan(ADMIN, "vast.ai", "", MUCH)).most
        for budget in (most - 1, 1):
            with pytest.raises(FailedPrecondition) as refused:
                await prober.start(ADMIN, "vast.ai", "", Micro(budget))
            assert refused.value.reason is Reason.BUDGET_EXCEEDED
            assert refused.value.metadata["needed"] == f"{most / 1e6:.6f}"
        with pytest.raises(InvalidArgument, match="max_spend"):
            await prober.start(ADMIN, "vast.ai", "", Micro(0))
        with pytest.raises(NotFound):
            await prober.last("vast.ai", "")
        assert (world.created(), await world.reservations()) == (0, 0)
        await prober.start(ADMIN, "vast.ai", "", most)
        done = await followed(world, finished)
        assert done.spent <= done.budget == most
        assert world.created() == 3

    told(story)


def test_a_dearer_offer_after_the_plan_is_not_rented_beyond_the_budget() -> None:
    """The price of the stopped machine's GPUs rises while it is stopped: the third machine is beyond the budget."""

    async def story(world: World) -> None:
        await world.sleep(60)
        most = (await world.engine.prober.plan(ADMIN, "vast.ai", "", MUCH)).most
        await world.engine.prober.start(ADMIN, "vast.ai", "", most)
        await followed(world, lambda each: "log" in each.doing)
        rented = next(iter(world.alive().values()))
        offers = world.sandbox.market.machines[int(rented["machine_id"])].chunks
        for chunk in offers:
            world.control("POST", f"offers/{chunk.offer_id}", {"price_per_hour": 9.0})
        done = await followed(world, finished)
        assert "of the budget is left" in by_name(done)["chunk_binding"].why
        assert done.spent <= most
        await nothing_is_left(world)

    told(story)


@pytest.mark.parametrize("fault", ["reset_before", "reset_after"])
def test_a_machine_whose_create_was_not_answered_is_found_or_the_probe_gives_up(fault: str) -> None:
    async def story(world: World) -> None:
        world.arm("create", fault)
        done = await probe(world)
        found = by_name(done)
        assert found["listing_lag"].outcome == "not_measured"
        if fault == "reset_after":
            assert found["create_to_listed"].outcome == "measured"
            assert found["chunk_binding"].outcome == "measured"
        else:
            assert "no listing showed the machine" in found["create_to_listed"].why
            assert {each.outcome for each in found.values()} == {"not_measured"}
            assert "ended early" in done.doing
        await ended(world)
        await nothing_is_left(world)

    told(story)


def test_a_refused_first_create_ends_the_probe_and_costs_nothing() -> None:
    async def story(world: World) -> None:
        world.arm("create", "insufficient_credit")
        done = await probe(world)
        assert "ended early" in done.doing
        assert world.created() == 0
        assert by_name(done)["create_answer"].outcome == "not_measured"
        await nothing_is_left(world)

    told(story)


_PARTS, _APART = 8, 80
"""Each part has every 80th point, from its own first one."""


@pytest.mark.seeds(1, _PARTS)
def test_a_crash_at_any_point_leaves_no_machine(seed: int) -> None:
    points = crashed_at(None)
    assert points > 3 * _APART
    for point in range(1 + seed * _APART // _PARTS, points + 1, _APART):
        try:
            crashed_at(point)
        except AssertionError as error:
            pytest.fail(f"died at point {point} of {points}: {error}")


def crashed_at(point: int | None) -> int:
    """Probe, with a crash at a point. Returns the number of points of a whole probe."""

    async def story(world: World) -> int:
        await world.sleep(60)
        began = world.life.points
        if point is not None:
            world.life.die_after(point)
        starting = asyncio.ensure_future(world.engine.prober.start(ADMIN, "vast.ai", "", MUCH))
        await asyncio.wait([starting])
        while not world.life.dead and not finished(await world.engine.prober.last("vast.ai", "")):
            await world.sleep(1)
        points = world.life.points - began
        if point is not None:
            await world.kill()
            stored = await world.db.read(lambda tx: probes.find(tx, (VAST, "vast-1")))
            await world.start()
            if stored is not None:
                after = await world.engine.prober.last("vast.ai", "")
                assert after.state == ("finished" if finished(stored.last) else "interrupted")
                assert after.measurements == stored.last.measurements
                assert by_name(after).keys() >= {each.name for each in stored.facts}
            await ended(world)
        await nothing_is_left(world)
        return points

    return told(story, list_lag=4.0)


def test_releasing_the_reservation_ends_the_probe_early() -> None:
    async def story(world: World) -> None:
        running = await probe(world, lambda each: "log" in each.doing)
        await world.engine.reservations.release(ADMIN, running.reservation_id)
        done = await followed(world, finished)
        assert "ended early: the probe was stopped" in done.doing
        assert by_name(done)["create_to_ready"].outcome == "measured"
        assert "the probe was stopped" in by_name(done)["chunk_binding"].why
        assert world.created() == 1
        await nothing_is_left(world)

    told(story)


def test_an_account_is_probed_once_at_a_time_and_a_draining_server_begins_none() -> None:
    async def story(world: World) -> None:
        await probe(world, lambda each: "ready" in each.doing)
        with pytest.raises(FailedPrecondition) as refused:
            await world.engine.prober.start(ADMIN, "vast.ai", "vast-1", MUCH)
        assert refused.value.reason is Reason.PROBE_RUNNING
        with pytest.raises(InvalidArgument, match="There are: vast-1"):
            await world.engine.prober.start(ADMIN, "vast.ai", "vast-7", MUCH)
        with pytest.raises(FailedPrecondition) as none:
            await world.engine.prober.start(ADMIN, "io.net", "", MUCH)
        assert none.value.reason is Reason.NO_ACCOUNT
        await world.engine.prober.drain(0)
        with pytest.raises(Unavailable):
            await world.engine.prober.start(ADMIN, "vast.ai", "", MUCH)
        await followed(world, finished)
        await nothing_is_left(world)

    told(story)


def test_a_machine_that_never_gets_ready_ends_with_the_time_of_the_probe() -> None:
    async def story(world: World) -> None:
        world.arm("create", "never_ready", times=1)
        done = await probe(world)
        found = by_name(done)
        assert found["create_to_ready"].outcome == "not_measured"
        assert "did not get ready" in found["stop_latency"].why
        assert found["volume_sharing"].value == "yes"
        assert done.ended_at is not None
        assert (done.ended_at - done.began_at).total_seconds() < 3600
        await nothing_is_left(world)

    told(story)


def test_what_a_later_probe_can_not_measure_stays_known_from_the_earlier_one() -> None:
    async def story(world: World) -> None:
        first = await probe(world)
        world.arm("create", "insufficient_credit")
        await world.sleep(300)
        await world.engine.prober.start(ADMIN, "vast.ai", "", MUCH)
        second = await followed(world, lambda each: finished(each) and each.began_at > first.began_at)
        assert by_name(second)["volume_sharing"].outcome == "not_measured"
        [sheet] = await world.engine.sheets.read("vast.ai")
        facts = {each.name: each for each in sheet.accounts[0].measured}
        assert facts["volume_sharing"] == by_name(first)["volume_sharing"]
        assert "container_key" not in facts

    told(story)


def test_the_first_machine_is_the_lease_whose_label_the_market_has() -> None:
    async def story(world: World) -> None:
        await probe(world, lambda each: "ready" in each.doing)
        rows = [lease for lease in await world.live() if lease.kind == "machine"]
        assert [lease.state for lease in rows] == [LeaseState.STARTING]
        assert {plain_label(each["label"]) for each in world.alive().values()} == {lease.label for lease in rows}
        assert all(lease.expires_at is not None for lease in await world.live())

    told(story)
