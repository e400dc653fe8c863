"""Probes of an account of io.net: machines that are paid in advance, can't be stopped, and have no volumes."""

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import FailedPrecondition
from gpuproxy.model.money import Micro
from gpuproxy.model.probes import QUANTITIES, Measurement, Probe
from gpuproxy.model.reasons import Reason
from tests.ionet_world import IoNetWorld, in_ionet_world

ADMIN = Caller(project="p1", role="admin")
MUCH = Micro(50_000_000)
MEASURED = {"create_answer", "create_to_listed", "listing_lag", "label_lag", "create_to_ready", "destroy_to_gone"}


async def finished(world: IoNetWorld, seconds: float = 4000) -> Probe:
    for _ in range(round(seconds / 2)):
        now = await world.engine.prober.last("io.net", "")
        if now.state == "finished":
            return now
        await world.sleep(2)
    raise AssertionError(f"the probe did not end: {now}")


def by_name(each: Probe) -> dict[str, Measurement]:
    return {found.name: found for found in each.measurements}


@pytest.mark.parametrize("hours", [1, 2])
def test_what_io_net_can_not_do_is_not_applicable_and_the_rest_is_measured(hours: int) -> None:
    async def story(world: IoNetWorld) -> None:
        await world.sleep(60)
        plan = await world.engine.prober.plan(ADMIN, "io.net", "", MUCH)
        [part] = plan.parts
        assert part.price * hours <= part.most == plan.most <= part.price * hours + hours
        await world.engine.prober.start(ADMIN, "io.net", "", MUCH)
        done = await finished(world)
        found = by_name(done)
        assert list(found) == list(QUANTITIES)
        assert {name for name, each in found.items() if each.outcome == "measured"} == MEASURED
        assert {each.outcome for name, each in found.items() if name not in MEASURED} == {"not_applicable"}
        assert all(found[name].why for name in found.keys() - MEASURED)
        assert 20 <= float(found["create_to_listed"].value) <= 24
        lease = await world.lease()
        assert lease.prepaid.booked_hours == hours
        assert 0 < done.spent <= plan.most
        assert world.extended() == 0
        assert world.alive() == {}
        await world.sums_are_right()

    in_ionet_world(story, hours=hours, ionet_lag=20.0, ionet_deploy_body="id")


def test_a_budget_below_the_booked_hours_books_nothing() -> None:
    async def story(world: IoNetWorld) -> None:
        await world.sleep(60)
        most = (await world.engine.prober.plan(ADMIN, "io.net", "", MUCH)).most
        with pytest.raises(FailedPrecondition) as refused:
            await world.engine.prober.start(ADMIN, "io.net", "", Micro(most - 1))
        assert refused.value.reason is Reason.BUDGET_EXCEEDED
        assert world.created() == 0
        await world.engine.prober.start(ADMIN, "io.net", "", most)
        assert (await finished(world)).spent <= most
        assert world.created() == 1

    in_ionet_world(story, hours=2)


def test_a_booking_whose_answer_has_no_id_is_found_by_its_name_or_given_up() -> None:
    """io.net's usual answer to a deploy is empty, so the machine is found by its name."""

    async def story(world: IoNetWorld) -> None:
        await world.sleep(60)
        await world.engine.prober.start(ADMIN, "io.net", "", MUCH)
        found = by_name(await finished(world))
        assert found["create_to_listed"].outcome == "measured"
        world.arm_ionet("create", "reset_before")
        await world.sleep(600)
        await world.engine.prober.start(ADMIN, "io.net", "", MUCH)
        lost = await finished(world)
        assert "no listing showed the machine" in by_name(lost)["create_to_listed"].why
        assert "1 of its leases are not proven gone yet" in lost.doing
        await world.sleep(3 * 3600)  # longer than it could have booked: then its unknown outcome ends
        assert await world.live() == []
        assert world.alive() == {}

    in_ionet_world(story)


def test_a_crash_in_the_middle_leaves_no_booking_running() -> None:
    async def story(world: IoNetWorld) -> None:
        await world.sleep(60)
        for wait in (0.1, 5.0, 40.0):
            await world.engine.prober.start(ADMIN, "io.net", "", MUCH)
            await world.sleep(wait)
            await world.restart()
            assert (await world.engine.prober.last("io.net", "")).state == "interrupted"
            await world.sleep(900)
            assert world.alive() == {}
            assert await world.live() == []
        await world.sums_are_right()

    in_ionet_world(story, ionet_deploy_body="id")
