"""The billing check against the provider's credit, and the circuit breaker."""

import pytest

from gpuproxy.billing.check import reading_of
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import Unavailable
from tests.reconcile.test_absence import call, rent_by_hand
from tests.world import World, in_world

pytestmark = pytest.mark.long

P1 = Caller(project="p1")


def test_a_correct_ledger_raises_no_alarm():
    async def story(world: World) -> None:
        check = world.engine.billing_checks[0]
        readings = []
        for _ in range(6):
            made = await world.reserve(3)
            await world.sleep(1700)
            await world.engine.reservations.release(P1, made.reservation.id)
            readings.append(await check.step())
        assert not any(reading is None or reading.alarm for reading in readings)
        assert all(reading is not None and reading.booked > 0 for reading in readings[1:])

    in_world(story, machines=20)


def test_a_machine_that_the_database_does_not_know_raises_an_alarm():
    async def story(world: World) -> None:
        await world.reserve(1)
        await world.sleep(1900)
        rent_by_hand(world, None)
        await world.sleep(2 * 3600)
        reading = await world.db.read(lambda tx: reading_of(tx, "vast.ai", "vast-1"))
        assert reading is not None
        assert reading.alarm
        assert reading.spent > reading.booked

    in_world(story, machines=20)


def test_a_provider_without_a_credit_reading_raises_no_alarm():
    async def story(world: World) -> None:
        await world.reserve(1)
        world.arm("user", "status_500_before", times=0)
        assert await world.engine.billing_checks[0].step() is None

    in_world(story, machines=20)


def test_too_many_unknown_outcomes_stop_all_creates_until_they_are_resolved():
    async def story(world: World) -> None:
        await world.reserve(1, request_id="canary")
        world.arm("create", "reset_before", times=0)
        sent = world.calls("create")
        for number in range(12):
            try:
                await world.reserve(1, request_id=f"r{number}")
            except Unavailable as refused:
                assert refused.reason == "STORM_BREAKER"
                assert "Nothing was rented" in refused.message
        assert world.calls("create") - sent == 10
        world.control("DELETE", "faults")
        await world.sleep(900)
        assert len((await world.reserve(1, request_id="after")).kept) == 1

    in_world(story, machines=20)


def test_sixteen_unknown_outcomes_open_the_circuit_breaker_for_the_next_call():
    async def story(world: World) -> None:
        world.arm("create", "reset_before", times=0)
        await world.reserve(16, request_id="a")
        with pytest.raises(Unavailable) as refused:
            await world.reserve(1, request_id="b")
        assert refused.value.reason == "STORM_BREAKER"

    in_world(story, machines=20)


def test_foreign_spend_is_seen_after_the_machine_is_gone_too():
    async def story(world: World) -> None:
        await world.engine.billing_checks[0].step()
        contract = rent_by_hand(world, None)
        await world.sleep(1500)
        call(world, "DELETE", f"/api/v0/instances/{contract}/", {})
        reading = await world.engine.billing_checks[0].step()
        assert reading is not None
        assert reading.booked == 0
        assert reading.spent > 0

    in_world(story, machines=20)


@pytest.mark.parametrize(("how", "rate"), [("container", "disk"), ("host", "nothing")])
def test_a_machine_that_stops_running_is_metered_as_the_provider_bills_it(how: str, rate: str):
    async def story(world: World) -> None:
        made = await world.reserve(1)
        await world.sleep(300)
        await world.engine.billing_checks[0].step()
        world.control("POST", f"instances/{made.leases[0].instance_id}/kill", {"how": how})
        await world.sleep(1700)
        reading = await world.engine.billing_checks[0].step()
        assert reading is not None
        assert not reading.alarm
        assert (await world.leases())[0].observed.billed == rate
        assert reading.booked < made.leases[0].observed.price * 1700 // 3600 // 4

    in_world(story, machines=20)


def test_a_machine_that_stopped_while_the_provider_did_not_answer_raises_no_alarm():
    async def story(world: World) -> None:
        made = await world.reserve(1)
        await world.sleep(300)
        await world.engine.billing_checks[0].step()
        world.arm("list", "status_500_before", times=0)
        world.control("POST", f"instances/{made.leases[0].instance_id}/kill", {"how": "container"})
        await world.sleep(1200)
        world.control("DELETE", "faults")
        await world.sleep(120)
        reading = await world.engine.billing_checks[0].step()
        assert reading is not None
        assert reading.booked > reading.spent * 2
        assert not reading.alarm

    in_world(story, machines=20)
