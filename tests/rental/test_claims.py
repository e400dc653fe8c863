"""Work that only one process may do: the supervision of an account, and a running call. And who takes it over."""

import asyncio
from typing import Any

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.leases import LeaseState
from gpuproxy.runtime.claims import CLAIM_SECONDS
from gpuproxy.runtime.limits import Limits
from gpuproxy.store import claims
from tests.mortal import Life
from tests.world import World, in_world

P1 = Caller(project="p1")
RECOVERY_SECONDS = Limits().reconcile_seconds
SOON = CLAIM_SECONDS + RECOVERY_SECONDS + 5.0
"""Seconds after which the work of a paused process has been taken over."""


async def shared(world: World) -> None:
    """Begin again, with a database that other processes may use."""
    world.shared = True
    await world.kill()
    await world.db.write(claims.void)  # the process that is gone did not share it
    await world.start()
    await world.sleep(5)


async def paused(world: World) -> Life:
    """Pause the process and start another one."""
    life = world.life
    life.pause()
    await world.start()
    return life


def destroys(life: Life) -> int:
    """How many destroys this life has sent."""
    return sum(each.method == "DELETE" for each in life.sent)


async def owner(world: World, name: str = "account:vast.ai:vast-1") -> str:
    return await world.db.read(lambda tx: claims.owner_of(tx, name))


def test_a_server_that_starts_on_a_database_of_its_own_takes_over_at_once():
    async def story(world: World) -> None:
        before = await owner(world)
        world.arm("create", "hang_after", seconds=60)
        call = asyncio.ensure_future(world.reserve(1, request_id="a"))
        await world.sleep(5)
        await world.restart()
        assert "" != await owner(world) != before
        [row] = await world.db.read(lambda tx: tx.fetch("SELECT settled_at FROM reservations"))
        assert row["settled_at"] is not None
        assert call.cancelled()

    in_world(story)


def test_a_server_on_a_shared_database_waits_until_the_claims_are_over():
    async def story(world: World) -> None:
        await shared(world)
        before = await owner(world)
        world.arm("create", "hang_after", seconds=300)
        call = asyncio.ensure_future(world.reserve(1, request_id="a", seconds=600))
        await world.sleep(5)
        await paused(world)
        await world.sleep(CLAIM_SECONDS / 2)
        assert await owner(world) == before
        assert await unsettled(world) == 1
        await world.sleep(SOON)
        assert "" != await owner(world) != before
        assert await unsettled(world) == 0
        call.cancel()

    in_world(story)


def test_a_process_that_runs_keeps_its_claims_and_a_second_one_supervises_nothing():
    async def story(world: World) -> None:
        await shared(world)
        first, before = world.life, await owner(world)
        call = asyncio.ensure_future(world.reserve(1, request_id="a", seconds=400, wait_for="ready"))
        await world.sleep(5)
        await world.start()
        await world.sleep(5 * CLAIM_SECONDS)
        assert await owner(world) == before
        assert await unsettled(world) == 1
        listed = [each for each in world.life.sent if each.method != "POST"]
        assert len(listed) < len(first.sent)
        assert world.created() == 1
        await world.sleep(100)
        await call
        assert await unsettled(world) == 0
        await world.books_agree()

    in_world(story, boot_time=(200.0, 200.0))


def test_a_supervisor_that_was_paused_past_its_claim_destroys_nothing_when_it_resumes():
    async def story(world: World) -> None:
        await shared(world)
        made = await world.reserve(2, request_id="a")
        await world.sleep(30)
        world.arm("destroy", "destroy_ignored", times=0)
        await world.engine.reservations.release(P1, made.reservation.id)
        await world.sleep(1)
        life = await paused(world)
        await world.sleep(SOON)
        held = life.held
        sent = destroys(life)
        life.resume()
        await world.sleep(300)
        assert destroys(life) - sent <= held
        world.control("DELETE", "faults")
        await world.sleep(300)
        assert world.alive() == {}
        await world.books_agree()

    in_world(story)


def test_an_instance_id_that_a_paused_process_learns_is_recorded_although_its_call_was_taken_over():
    async def story(world: World) -> None:
        await shared(world)
        world.arm("create", "hang_after", seconds=1)
        call = asyncio.ensure_future(world.reserve(1, request_id="a", seconds=600))
        await world.sleep(0.5)
        life = await paused(world)
        await world.sleep(SOON)
        life.resume()
        await world.sleep(60)
        await asyncio.wait([call])
        assert [lease.instance_id for lease in await world.live()] == list(world.alive())
        assert world.created() == 1
        await world.books_agree()

    in_world(story)


def test_a_caller_whose_call_was_taken_over_gets_the_stored_outcome():
    async def story(world: World) -> None:
        await shared(world)
        call = asyncio.ensure_future(world.reserve(2, request_id="a", wait_for="ready", seconds=600))
        await world.sleep(1)
        life = await paused(world)
        await world.sleep(SOON)
        life.resume()
        view = await call
        assert view.reservation.settled_at is not None
        assert len(view.kept) == len(world.alive()) == 2

    in_world(story, boot_time=(60.0, 60.0))


def test_a_rate_limited_create_is_sent_again_although_another_process_supervises_the_account():
    async def story(world: World) -> None:
        await shared(world)
        supervisor = await owner(world)
        await world.start()  # callers reach this process, which does not get the claim on the account
        world.arm("create", "rate_limited", times=1, retry_after=5)
        answer = await world.reserve(1, request_id="a", seconds=120)
        assert [lease.state for lease in answer.leases] == [LeaseState.STARTING]
        assert world.calls("create") == 2
        assert await owner(world) == supervisor

    in_world(story)


@pytest.mark.parametrize("crashes", [True, False])
def test_a_call_that_fails_after_its_intents_are_stored_is_concluded_without_a_restart(
    monkeypatch: pytest.MonkeyPatch, crashes: bool
):
    """Such as an answer of the database that is lost after the commit."""

    async def story(world: World) -> None:
        write = world.db.write

        async def lost(fn: Any) -> Any:
            result = await write(fn)
            if await unsettled(world) and crashes:
                monkeypatch.setattr(world.db, "write", write)
                raise ConnectionError("the answer was lost")
            return result

        monkeypatch.setattr(world.db, "write", lost)
        try:
            await world.reserve(1, request_id="a")
        except ConnectionError:
            assert crashes
        assert await unsettled(world) == crashes
        await world.sleep(2 * RECOVERY_SECONDS)
        assert await unsettled(world) == 0
        assert len(world.alive()) == (not crashes)
        assert await world.db.read(lambda tx: tx.fetch("SELECT name FROM claims WHERE name LIKE 'reservation:%'")) == []
        await world.books_agree()

    in_world(story)


def test_a_call_that_runs_for_long_is_not_taken_over_by_its_own_process():
    async def story(world: World) -> None:
        world.arm("create", "hang_after", seconds=20 * RECOVERY_SECONDS)
        call = asyncio.ensure_future(world.reserve(1, request_id="a", seconds=10 * RECOVERY_SECONDS, wait_for="ready"))
        await world.sleep(5 * RECOVERY_SECONDS)
        view = await call
        assert "caller" not in view.reservation.message
        await world.books_agree()

    in_world(story, boot_time=(3 * RECOVERY_SECONDS, 3 * RECOVERY_SECONDS))


async def unsettled(world: World) -> int:
    return len(await world.db.read(lambda tx: tx.fetch("SELECT id FROM reservations WHERE settled_at IS NULL")))
