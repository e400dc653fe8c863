"""The owner of a machine hears in time that the marketplace's contract ends before the lease."""

from datetime import timedelta

import pytest

from gpuproxy.edge.messages.reservations import reservation_message
from gpuproxy.health.checkup import findings
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import FailedPrecondition
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.world import World, in_world

pytestmark = pytest.mark.long

CALLER = Caller(project="p1")
WEEK = timedelta(days=7)


async def shown(world: World, reservation_id: str) -> pb.Reservation:
    return reservation_message(await world.engine.reservations.by_id(CALLER, reservation_id))


def end_contract(world: World, contract: str, hours: float) -> None:
    """Let the host shorten the contract of a machine."""
    world.control("POST", f"instances/{contract}/contract", {"ends_in_seconds": hours * 3600})


async def kinds(world: World) -> list[str]:
    accounts = {(watch.provider.name, watch.provider.account) for watch in world.engine.watches}
    found = await world.db.read(lambda tx: findings(tx, accounts))
    return [finding.kind for finding in found if finding.kind != "self_ending"]


def test_a_contract_that_ends_before_the_lease_is_told_in_every_place() -> None:
    async def story(world: World) -> None:
        made = await world.reserve(1, wait_for="ready", seconds=600, lease_duration=WEEK, request_id="a")
        name, contract = made.reservation.id, str(made.leases[0].instance_id)
        before = await shown(world, name)
        assert list(before.instances[0].warnings) == []
        assert await kinds(world) == []
        end_contract(world, contract, hours=24)
        await world.sleep(120)
        told = await shown(world, name)
        (warning,) = told.instances[0].warnings
        assert f"End of the contract of vast.ai {contract}: " in warning
        assert warning in told.message
        assert told.instances[0].contract_ends_at.ToDatetime() < told.expires_at.ToDatetime()
        assert await kinds(world) == ["contract_ends"]
        assert await world.engine.health.summary() == "ok"
        end_contract(world, contract, hours=24 * 30)
        await world.sleep(120)
        assert list((await shown(world, name)).instances[0].warnings) == []
        assert await kinds(world) == []

    in_world(story)


def test_a_machine_whose_contract_has_ended_is_shown_as_stopped_and_only_its_disk_costs() -> None:
    async def story(world: World) -> None:
        made = await world.reserve(1, wait_for="ready", seconds=600, lease_duration=WEEK, request_id="a")
        contract = str(made.leases[0].instance_id)
        end_contract(world, contract, hours=1)
        await world.sleep(3600 + 120)
        (instance,) = (await shown(world, made.reservation.id)).instances
        assert (instance.status, instance.status_message) == ("stopped", "contract ended")
        assert float(instance.metadata["billed_per_hour"]) < instance.price_per_hour / 2
        await world.books_agree()

    in_world(story)


def test_a_machine_whose_contract_has_ended_can_not_be_started_and_the_answer_says_why() -> None:
    async def story(world: World) -> None:
        made = await world.reserve(1, wait_for="ready", seconds=600, lease_duration=WEEK, request_id="a")
        contract = str(made.leases[0].instance_id)
        end_contract(world, contract, hours=1)
        await world.sleep(3600 + 120)
        with pytest.raises(FailedPrecondition, match="contract") as refused:
            await world.engine.machines.start(CALLER, "vast.ai", contract)
        assert refused.value.reason == "CONTRACT_ENDED"
        assert world.calls("start") == 0

    in_world(story)


def test_an_extension_beyond_the_contract_is_warned_about_at_once() -> None:
    async def story(world: World) -> None:
        made = await world.reserve(1, wait_for="ready", seconds=600, lease_duration=WEEK, request_id="a")
        end_contract(world, str(made.leases[0].instance_id), hours=24 * 30)
        await world.sleep(60)
        later = world.clock.now() + timedelta(days=60)
        view = await world.engine.reservations.extend(CALLER, made.reservation.id, later)
        told = reservation_message(view)
        assert "End of the contract" in told.instances[0].warnings[0]
        assert told.instances[0].warnings[0] in told.message

    in_world(story)


def test_a_watcher_gets_a_change_when_the_contract_comes_to_end_too_soon() -> None:
    async def story(world: World) -> None:
        made = await world.reserve(1, wait_for="ready", seconds=600, lease_duration=WEEK, request_id="a")
        changes = world.engine.reservations.watch(CALLER, made.reservation.id, "")
        _, first = await anext(changes)
        assert not reservation_message(first).instances[0].warnings
        end_contract(world, str(made.leases[0].instance_id), hours=24)
        _, second = await anext(changes)
        while not (told := reservation_message(second)).instances[0].warnings:
            _, second = await anext(changes)
        assert "End of the contract" in told.instances[0].warnings[0]
        await changes.aclose()

    in_world(story)
