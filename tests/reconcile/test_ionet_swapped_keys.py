"""io.net does not tell whose a key is. A key of another account under the name must not make machines count as lost."""

import pytest

from gpuproxy.app.deployment import WrongDatabase
from gpuproxy.app.removed_keys import claim_accounts
from gpuproxy.model.demands import Caller
from gpuproxy.model.leases import InstanceId, LeaseState
from gpuproxy.model.offers import ProviderName
from gpuproxy.providers.ionet import DESCRIPTOR
from tests.ionet_world import IoNetWorld, in_ionet_world
from tests.servers import Server, another
from tests.world import KEYS

P1 = Caller(project="p1")


async def restart_with(world: IoNetWorld, *keys: str) -> None:
    world.prepaid_accounts = keys
    await world.restart()


async def end_behind_its_back(world: IoNetWorld, contract: str) -> None:
    """The machine is destroyed by somebody else while the server is down."""
    provider = world.engine.accounts.provider((ProviderName("io.net"), "ionet-1"))
    await provider.destroy(InstanceId(contract))
    await world.kill()
    await world.sleep(120)
    await world.start()


@pytest.mark.parametrize("keys", [KEYS[1:], KEYS[::-1]])
def test_a_booked_machine_is_not_lost_while_its_name_has_the_key_of_another_account(keys: tuple[str, ...]) -> None:
    async def story(world: IoNetWorld) -> None:
        made = await world.rent()
        await world.sleep(300)
        await restart_with(world, *keys)
        await world.sleep(1800)
        assert (await world.lease()).state is LeaseState.ACTIVE
        sheets = (await world.engine.sheets.read("io.net"))[0].accounts
        assert [each.state for each in sheets if each.name == "ionet-1"] == ["silent"]
        await restart_with(world, KEYS[0])
        await world.sleep(600)
        assert (await world.lease()).state is LeaseState.ACTIVE
        assert len(world.alive()) == 1
        await world.engine.reservations.release(P1, made.reservation.id)
        await world.sleep(300)
        assert world.alive() == {}
        assert (await world.lease()).state is LeaseState.RELEASED

    in_ionet_world(story, hours=3)


def test_a_machine_that_ended_while_the_server_was_down_is_over_with_its_booking_at_the_latest() -> None:
    """The twin: the doubt ends, because nobody can tell this machine from one of another account."""

    async def story(world: IoNetWorld) -> None:
        await world.rent()
        await world.sleep(300)
        [contract] = world.alive()
        await end_behind_its_back(world, contract)
        await world.sleep(3 * 3600)
        assert (await world.lease()).state in (LeaseState.RELEASED, LeaseState.LOST)

    in_ionet_world(story, hours=2)


def test_with_another_machine_of_the_account_in_the_listing_one_that_vanished_is_lost_soon() -> None:
    async def story(world: IoNetWorld) -> None:
        await world.rent("a")
        await world.rent("b")
        await world.sleep(300)
        await end_behind_its_back(world, min(world.alive()))
        await world.sleep(900)
        states = sorted(lease.state.value for lease in await world.leases())
        assert states == ["active", "lost"]

    in_ionet_world(story, hours=2)


@pytest.mark.parametrize("keys", [KEYS[1:], KEYS[::-1]])
def test_a_release_with_the_key_of_another_account_ends_nothing_before_the_right_key_is_back(
    keys: tuple[str, ...],
) -> None:
    """The other account does not find the machine, but that is no proof that it is gone. It is still booked."""

    async def story(world: IoNetWorld) -> None:
        made = await world.rent()
        await world.sleep(300)
        await restart_with(world, *keys)
        await world.engine.reservations.release(P1, made.reservation.id)
        await world.sleep(1800)
        assert (await world.lease()).state is LeaseState.RELEASING
        assert len(world.alive()) == 1
        await restart_with(world, KEYS[0])
        await world.sleep(300)
        assert world.alive() == {}
        assert (await world.lease()).state is LeaseState.RELEASED

    in_ionet_world(story, hours=3)


def test_a_machine_that_was_rented_with_the_wrong_key_proves_nothing_and_is_not_kept_when_the_right_key_is_back() -> (
    None
):
    async def story(world: IoNetWorld) -> None:
        await world.rent("a")
        await world.sleep(300)
        [first] = [lease.id for lease in await world.leases()]
        await restart_with(world, KEYS[1])
        await world.sleep(60)
        made = await world.rent("b")
        assert made.kept
        await world.sleep(1800)
        assert {lease.id: lease.state for lease in await world.leases()}[first] is LeaseState.ACTIVE
        await restart_with(world, *KEYS[:2])
        await world.sleep(900)
        states = {lease.id: lease.state for lease in await world.leases()}
        assert states.pop(first) is LeaseState.ACTIVE
        assert set(states.values()) <= {LeaseState.LOST, LeaseState.RELEASED}
        assert len(world.alive()) == 1

    in_ionet_world(story, hours=5)


def test_machines_that_were_rented_with_a_wrong_key_prove_nothing_after_a_restart_with_it_either() -> None:
    """No listing that was believed has shown them."""

    async def story(world: IoNetWorld) -> None:
        await world.rent("a")
        await world.sleep(300)
        [first] = [lease.id for lease in await world.leases()]
        await restart_with(world, KEYS[1])
        await world.sleep(60)
        assert (await world.rent("b")).kept
        await world.sleep(300)
        await restart_with(world, KEYS[1])
        await world.sleep(1800)
        assert {lease.id: lease.state for lease in await world.leases()}[first] is LeaseState.ACTIVE

    in_ionet_world(story, hours=5)


def test_a_server_that_takes_over_believes_a_listing_that_shows_a_machine_rented_since_its_own_start() -> None:
    """The server that had the account before was shown the machine too, so both have the key of the same account."""

    async def story(world: IoNetWorld) -> None:
        servers = [Server(world.engine, world.life), await another(world)]
        await world.sleep(60)
        [supervisor] = [each for each in servers if each.held("account:")]
        [other] = [each for each in servers if each is not supervisor]
        made = await supervisor.reserve(1, seconds=300)
        assert made.kept
        await world.sleep(300)
        supervisor.life.end()
        await world.sleep(300)
        assert other.held("account:")
        sheets = (await other.engine.sheets.read("io.net"))[0].accounts
        assert [each.state for each in sheets] == ["healthy"]
        await other.engine.reservations.release(P1, made.reservation.id)
        await world.sleep(300)
        assert world.alive() == {}
        assert (await world.lease()).state is LeaseState.RELEASED

    in_ionet_world(story, hours=24, shared=True)


@pytest.mark.parametrize("force", [False, True])
def test_keys_that_list_the_machines_of_the_other_name_are_found_at_the_start(force: bool) -> None:
    async def story(world: IoNetWorld) -> None:
        world.prepaid_accounts = KEYS[:2]
        await world.restart()
        await world.rent("a")
        funds = {"provider": "io.net", "account": KEYS[0], "call": "create", "fault": "insufficient_credit", "times": 1}
        world.control("POST", "faults", funds)
        await world.rent("b")
        await world.sleep(300)
        assert {lease.account for lease in await world.leases()} == {"ionet-1", "ionet-2"}
        providers = [world._provider(DESCRIPTOR, number, key) for number, key in enumerate(KEYS[1::-1], start=1)]
        start = claim_accounts(world.db, providers, (DESCRIPTOR,), force=force)
        if force:
            assert await start == []
            return
        with pytest.raises(WrongDatabase, match="machines that were rented with ionet-2") as refused:
            await start
        assert not any(key in str(refused.value) for key in KEYS)

    in_ionet_world(story, hours=5)


def test_a_machine_that_ended_while_the_server_was_down_is_gone_soon_where_the_listing_shows_its_end() -> None:
    async def story(world: IoNetWorld) -> None:
        await world.rent()
        await world.sleep(300)
        [contract] = world.alive()
        await end_behind_its_back(world, contract)
        await world.sleep(900)
        assert (await world.lease()).state is LeaseState.LOST
        sheets = (await world.engine.sheets.read("io.net"))[0].accounts
        assert [each.state for each in sheets] == ["healthy"]

    in_ionet_world(story, hours=24)


def test_a_release_is_finished_after_a_crash_between_the_destroy_and_its_proof() -> None:
    async def story(world: IoNetWorld) -> None:
        made = await world.rent()
        await world.sleep(300)
        await world.engine.reservations.release(P1, made.reservation.id)
        await world.sleep(1)
        assert (await world.lease()).state is LeaseState.RELEASING
        await world.kill()
        await world.sleep(60)
        await world.start()
        await world.sleep(120)
        assert (await world.lease()).state is LeaseState.RELEASED

    in_ionet_world(story, hours=24)
