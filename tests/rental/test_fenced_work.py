"""Each kind of claimed work: a process with an old fencing number writes nothing and ends no machine.

The process believes in its claims, because nothing has told it yet: it stood still while they were over. Only the check
in the transaction can stop it. Without the loss, the same step writes, so that each case could fail.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import ClaimLost
from gpuproxy.model.webhooks import EventType
from gpuproxy.ports import Tx
from gpuproxy.runtime.claims import CLAIM_SECONDS
from gpuproxy.store import outbox
from tests import databases, postgres
from tests.servers import SOON, Server, with_servers
from tests.webhooks.receiving import Receiver, target
from tests.world import VAST, World, in_world

_ACCOUNT = (VAST, "vast-1")
_TAKEN = {
    "nobody": "",
    "another process": "UPDATE claims SET owner = 'another', fence = fence + 1, until = 9000000000000000",
    "the same process, after another one": "UPDATE claims SET fence = fence + 2, until = 9000000000000000",
}
"""Who has the claims meanwhile, and the statement that makes it so."""


async def _ended(world: World) -> None:
    await world.db.write(lambda tx: tx.execute("UPDATE leases SET expires_at = 1"))


async def _pass(world: World) -> None:
    await _ended(world)
    await world.engine.watches.at(_ACCOUNT).step()


async def _due(world: World) -> None:
    await _ended(world)
    await world.engine.watches.at(_ACCOUNT).due()


async def _webhook(world: World) -> None:
    [sender] = world.engine.webhooks.senders
    await sender.step()


STEPS: dict[str, Callable[[World], Awaitable[object]]] = {
    "reconciling an account": _pass,
    "the ends of leases": _due,
    "the billing check": lambda world: world.engine.billing_checks[0].step(),
    "the true-up": lambda world: world.engine.true_ups[0].step(),
    "the ledger": lambda world: world.engine.money.posting.step(),
    "the holds of limits": lambda world: world.engine.money.horizons.step(),
    "the history": lambda world: world.engine.history.step(),
    "the offers": lambda world: world.engine.catalog.step(VAST),
    "a webhook": _webhook,
}


def written(world: World) -> dict[str, list[Any]]:
    """All rows, without those that are written by whoever calls a marketplace, and without the expiry of leases."""
    found = {}
    for table in set(postgres._TABLES) - {"claims", "changes", "writers"}:
        rows = databases.named(world.db, f"SELECT * FROM {table}")  # type: ignore[arg-type]  # noqa: S608
        kept = [row for row in rows if not str(row.get("name", "")).startswith("pace:")]
        found[table] = sorted(str({name: row[name] for name in row if name != "expires_at"}) for row in kept)
    return found


async def _prepared(world: World) -> None:
    """A server that stands still for two hours with a machine and an event to send, and then believes in its claims.

    Another machine has ended before, and its charges are not known yet.
    """
    world.webhooks, world.webhook_http = (target(),), Receiver(world.clock)
    await world.restart()
    await world.sleep(SOON)
    ended = await world.reserve(1, request_id="ended")
    await world.reserve(1, request_id="running")
    await world.sleep(60)
    await world.engine.reservations.release(Caller(project="p1"), ended.reservation.id)
    await world.sleep(60)
    await world.engine.stop()
    await world.db.write(lambda tx: outbox.tell(tx, EventType.LOST, "p1", {}))
    await world.sleep(7200)
    for work in world.engine.sharing.works:
        assert await world.db.write(work.claim.take), work.claim.name


@pytest.mark.parametrize("taken", _TAKEN)
@pytest.mark.parametrize("work", STEPS)
def test_a_write_with_an_old_fencing_number_changes_nothing(work: str, taken: str) -> None:
    async def story(world: World) -> None:
        await _prepared(world)
        if _TAKEN[taken]:
            await world.db.write(lambda tx: tx.execute(_TAKEN[taken]))
        before = written(world)
        with suppress(ClaimLost):
            await STEPS[work](world)
        after = written(world)
        changed = {table for table in before if before[table] != after[table]}
        assert bool(changed) == (taken == "nobody"), changed
        assert len(world.alive()) == 1

    in_world(story, shared=True)


@pytest.mark.parametrize("taken", _TAKEN)
def test_a_call_with_an_old_fencing_number_rents_no_further_machine(taken: str) -> None:
    """It has renewed its claim just before that is lost, so only the check before the create can tell it."""

    async def story(world: World, servers: list[Server]) -> None:
        call = asyncio.ensure_future(servers[0].reserve(2, request_id="a"))
        await world.sleep(CLAIM_SECONDS / 3 + 0.2)
        assert world.created() == 1

        def lose(tx: Tx) -> None:
            if _TAKEN[taken]:
                tx.execute(f"{_TAKEN[taken]} WHERE name LIKE 'reservation:%'")

        await world.db.write(lose)
        await world.sleep(20)
        assert world.created() == (2 if taken == "nobody" else 1)
        call.cancel()
        with suppress(asyncio.CancelledError, ClaimLost):
            await call

    with_servers(1, story, paced=True)
