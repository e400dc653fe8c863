"""Servers that reach only the database or only the marketplace, and what a server knows after a takeover."""

import asyncio
from contextlib import suppress
from datetime import timedelta

import pytest

from gpuproxy.model.leases import LeaseState
from gpuproxy.ports import HttpNotSent, HttpRequest
from gpuproxy.reconcile.effects import _Asked
from gpuproxy.runtime.keyless import Keyless
from tests.rental.test_replicas import ACCOUNT, P1
from tests.servers import SOON, Server, another, with_servers
from tests.world import World


def test_a_create_of_a_server_that_is_cut_off_from_the_database_lasts_until_its_deadline() -> None:
    """It may still be in the call, so a listing before that proves nothing."""

    async def story(world: World, servers: list[Server]) -> None:
        world.arm("create", "hang_after", seconds=300)
        call = asyncio.ensure_future(servers[0].reserve(1, request_id="a", seconds=600))
        await world.sleep(5)
        [before] = await world.leases()
        servers[0].life.books_gone = True
        while (now := (await world.leases())[0]).state is LeaseState.REQUESTED:
            await world.sleep(0.5)
        assert before.creation.call_deadline is not None
        assert world.clock.now() < before.creation.call_deadline == now.creation.call_deadline
        call.cancel()
        with suppress(asyncio.CancelledError):
            await call

    with_servers(2, story)


@pytest.mark.parametrize("cut_off", [0, 1])
def test_a_server_that_does_not_reach_the_marketplace_leaves_the_account_to_one_that_does(cut_off: int) -> None:
    async def story(world: World, servers: list[Server]) -> None:
        made = await servers[0].reserve(2, request_id="a")
        owner = next(each for each in servers if each.held("account:"))
        other = next(each for each in servers if each is not owner)
        _cut_off([owner, other][cut_off])
        await world.sleep(30)
        await other.engine.reservations.release(P1, made.reservation.id)
        await world.sleep(60 + 3 * SOON)
        assert world.alive() == {}
        await world.sleep(3600)
        assert [owner, other][1 - cut_off].held("account:")

    with_servers(2, story)


def test_a_server_without_the_key_of_an_account_gives_it_to_one_that_has_the_key() -> None:
    async def story(world: World, servers: list[Server]) -> None:
        [keyed] = servers
        capabilities = keyed.engine.accounts.provider(ACCOUNT).capabilities
        world.accounts, world.removed = (), [Keyless(*ACCOUNT, capabilities)]
        keyless = await another(world)
        await world.sleep(600)
        assert keyed.held("account:")
        keyed.life.books_gone = True
        await world.sleep(120)
        assert keyless.held("account:"), "it does what it can"
        keyed.life.books_gone = False
        await world.sleep(3 * SOON)
        assert keyed.held("account:")

    with_servers(1, story)


def _cut_off(server: Server) -> None:
    """From now on no request of the server reaches a marketplace."""

    def unsent(_request: HttpRequest) -> None:
        raise HttpNotSent("no route to host")

    server.life.before_send = unsent


def test_after_a_takeover_the_billing_check_knows_of_the_listings_of_the_server_before() -> None:
    """Otherwise it would take all the time since its start for time without a listing, and never alarm."""

    async def story(world: World, servers: list[Server]) -> None:
        owner = next(each for each in servers if each.held("account:"))
        other = next(each for each in servers if each is not owner)
        await owner.reserve(1, request_id="a")
        await world.sleep(3600)
        owner.life.end()
        await world.sleep(SOON + 30)
        gap = other.engine.watches.at(ACCOUNT).gap.longest()
        assert timedelta(seconds=10) <= gap <= timedelta(seconds=120)

    with_servers(2, story)


def test_what_reads_have_shown_is_forgotten_once_another_server_has_had_the_account() -> None:
    async def story(world: World, servers: list[Server]) -> None:
        made = await servers[0].reserve(1, request_id="a")
        await world.sleep(30)
        world.arm("list", "status_503_before", times=0)
        owner = next(each for each in servers if each.held("account:"))
        watch, lease = owner.engine.watches.at(ACCOUNT), made.leases[0]
        watch._effects._asked[lease.id] = _Asked(missed_at=world.clock.now())
        taken = "UPDATE claims SET fence = fence + 2 WHERE name = 'account:vast.ai:vast-1'"
        await world.db.write(lambda tx: tx.execute(taken))
        await world.sleep(SOON)
        assert owner.held("account:")
        fresh = watch._effects._asked.get(lease.id, _Asked())
        assert fresh.missed_at is None

    with_servers(2, story)
