"""Messages about machines and reservations describe their present state."""

import pytest

from gpuproxy.edge.messages.reservations import reservation_message
from gpuproxy.model.demands import Caller
from gpuproxy.model.leases import LeaseState
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.world import VAST, World, in_world

pytestmark = pytest.mark.long

CALLER = Caller(project="p1")


async def shown(world: World, reservation_id: str) -> pb.Reservation:
    return reservation_message(await world.engine.reservations.by_id(CALLER, reservation_id))


async def ready(world: World, **wanted: object) -> tuple[str, str]:
    """A reservation with one active machine, and the contract id of that machine."""
    made = await world.reserve(1, wait_for="ready", seconds=600, **wanted)
    assert made.leases[0].state is LeaseState.ACTIVE
    return made.reservation.id, str(made.leases[0].instance_id)


@pytest.mark.parametrize(("how", "word"), [("container", "exited"), ("host", "offline")])
def test_a_broken_machine_is_not_active_and_is_not_released(how: str, word: str) -> None:
    async def story(world: World) -> None:
        name, contract = await ready(world, on_not_ready="replace")
        world.control("POST", f"instances/{contract}/kill", {"how": how})
        await world.sleep(3600)
        told = await shown(world, name)
        assert (told.state, told.ready_count, told.reserved_count) == ("starting", 0, 1)
        assert [(one.contract_id, one.status) for one in told.instances] == [(contract, "starting")]
        assert told.instances[0].status_message.startswith(word)
        assert set(world.alive()) == {contract}
        await world.books_agree()

    in_world(story)


def test_a_machine_whose_host_comes_back_is_active_again() -> None:
    async def story(world: World) -> None:
        name, contract = await ready(world)
        first = (await shown(world, name)).instances[0].ready_at
        market = world.sandbox.market
        machine = market.machines[market.instances[int(contract)].machine_id]
        market.set_online(machine, online=False)
        await world.sleep(300)
        assert (await shown(world, name)).instances[0].status == "starting"
        market.set_online(machine, online=True)
        await world.sleep(300)
        told = await shown(world, name)
        assert (told.state, told.instances[0].status, told.instances[0].ready_at) == ("active", "active", first)

    in_world(story)


def test_a_machine_that_is_started_again_is_starting_while_it_boots() -> None:
    async def story(world: World) -> None:
        _, contract = await ready(world)
        await world.engine.machines.stop(CALLER, VAST, contract)
        await world.sleep(120)
        await world.engine.machines.start(CALLER, VAST, contract)
        seen = []
        for _ in range(60):
            state = (await world.engine.instances.by_contract(CALLER, VAST, contract)).lease.state
            seen += [state] if state not in seen else []
            await world.sleep(5)
        assert seen[-2:] == [LeaseState.STARTING, LeaseState.ACTIVE]

    in_world(story)


def test_a_machine_that_never_got_ready_keeps_the_marketplaces_message() -> None:
    async def story(world: World) -> None:
        world.arm("create", "never_ready", times=50)
        made = await world.reserve(1, request_id="r1")
        await world.sleep(1800)
        told = await shown(world, made.reservation.id)
        (outcome,) = told.outcomes
        assert outcome.reason == "NOT_READY"
        assert outcome.status_message.startswith("it did not get ready: ")
        assert outcome.status_message != "it did not get ready: "
        assert (told.state, told.reason) == ("released", "NOT_READY")

    in_world(story)


def test_an_expired_reservation_says_so() -> None:
    async def story(world: World) -> None:
        made = await world.reserve(2, lease=600)
        assert (await shown(world, made.reservation.id)).message.startswith("Reserved 2 of 2 GPUs")
        await world.sleep(900)
        told = await shown(world, made.reservation.id)
        assert (told.state, told.reason) == ("released", "EXPIRED")
        rented = "2 of 2 GPUs were rented and then released (EXPIRED 2)"
        assert told.message == f"{rented}; nothing is billed any more."

    in_world(story)


def test_a_released_reservation_says_so_and_that_it_may_still_be_billed() -> None:
    async def story(world: World) -> None:
        made = await world.reserve(2)
        await world.engine.reservations.release(CALLER, made.reservation.id)
        told = await shown(world, made.reservation.id)
        assert (told.state, told.reason) == ("releasing", "RELEASED")
        assert told.message.endswith("(RELEASED 2); 2 of 2 machines may still be billed.")
        await world.sleep(300)
        assert (await shown(world, made.reservation.id)).message.endswith("; nothing is billed any more.")

    in_world(story)


def test_an_unknown_outcome_says_that_it_is_one() -> None:
    async def story(world: World) -> None:
        world.arm("create", "reset_before", times=1)
        made = await world.reserve(1, seconds=60, request_id="r1")
        (outcome,) = reservation_message(made).outcomes
        assert (outcome.state, outcome.reason) == ("unknown", "OUTCOME_UNKNOWN")

    in_world(story)
