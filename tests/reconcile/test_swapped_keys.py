"""If two accounts' keys are swapped, the listings show none of our machines, and that proves nothing."""

import pytest

from gpuproxy.health.checkup import findings
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import FailedPrecondition
from gpuproxy.model.leases import LeaseState
from tests.world import KEYS, World, in_world

pytestmark = pytest.mark.long


@pytest.mark.parametrize("keys", [KEYS[1:], KEYS[::-1]])
def test_machines_are_not_lost_when_their_account_name_has_the_key_of_another_account(keys: tuple[str, ...]):
    async def story(world: World) -> None:
        made = await world.reserve(2, request_id="a")
        await world.sleep(200)
        await _restart_with(world, keys)
        await world.sleep(1800)
        assert [lease.state for lease in await world.leases()] == [LeaseState.ACTIVE] * 2
        await world.books_agree()
        accounts = world.engine.health._accounts
        [finding] = await world.db.read(lambda tx: findings(tx, accounts))
        assert finding.kind == "paused"
        assert "belongs to account 100001" in finding.text
        await _restart_with(world, KEYS)
        await world.engine.reservations.release(Caller(project="p1"), made.reservation.id)
        await world.sleep(120)
        assert world.alive() == {}
        await world.books_agree()

    in_world(story)


def test_nothing_is_created_with_the_key_of_another_account_while_a_lease_is_live():
    async def story(world: World) -> None:
        await world.reserve(1, request_id="a")
        await _restart_with(world, KEYS[1:])
        await world.sleep(60)
        with pytest.raises(FailedPrecondition, match="paused"):
            await world.reserve(1)

    in_world(story)


def test_an_account_name_without_live_machines_may_get_the_key_of_another_account():
    async def story(world: World) -> None:
        made = await world.reserve(1, request_id="a")
        await world.engine.reservations.release(Caller(project="p1"), made.reservation.id)
        await world.sleep(120)
        await _restart_with(world, KEYS[1:])
        await world.sleep(60)
        await world.reserve(1)
        await world.sleep(60)
        await world.books_agree()

    in_world(story)


def test_the_account_of_a_key_must_be_known_before_a_listing_proves_anything():
    async def story(world: World) -> None:
        await world.reserve(1, request_id="a")
        await world.sleep(200)
        world.arm("user", "status_500_before", times=5)
        await _restart_with(world, KEYS[1:])
        await world.sleep(600)
        assert [lease.state for lease in await world.leases()] == [LeaseState.ACTIVE]

    in_world(story)


async def _restart_with(world: World, keys: tuple[str, ...]) -> None:
    await world.kill()
    world.accounts = keys
    await world.start()
