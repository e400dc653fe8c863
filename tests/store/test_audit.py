"""The audit trail: each change that somebody asked for is one row, written with it. What changed nothing is none."""

from dataclasses import replace

import pytest

from gpuproxy.identity.key_rings import KeyRing, SshKeyRing
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import NotFound, StatementRefused
from gpuproxy.store import audit
from gpuproxy.store.audit import AuditEvent
from tests.warmpool.test_life import caller as pool_caller
from tests.warmpool.test_life import provisioned
from tests.world import VAST, World, in_world

ANN = Caller(project="p1", key_id="key-ann", user_id="user-ann")
CALM = {"reconcile_interval": 600.0}


async def trail(world: World) -> list[AuditEvent]:
    """All events, oldest first."""
    return list(reversed(await world.engine.money.costs.audit(None, before=0, limit=1000)))


def test_who_rented_extended_stopped_started_destroyed_and_released_is_written():
    async def story(world: World) -> None:
        made = await world.reserve(2, lease=36_000)
        found, one = made.reservation.id, str(made.leases[0].instance_id)
        await world.sleep(300)
        end = world.clock.now().replace(microsecond=0)
        await world.engine.reservations.extend(ANN, found, end.replace(day=end.day + 2))
        await world.engine.machines.stop(replace(ANN, deadline=world.clock.monotonic() + 60), VAST, one)
        await world.sleep(300)
        await world.engine.machines.start(replace(ANN, deadline=world.clock.monotonic() + 60), VAST, one)
        await world.engine.instances.destroy(ANN, VAST, one)
        for _ in range(2):
            await world.engine.instances.destroy(ANN, VAST, one)
            await world.engine.reservations.release(ANN, found)
        events = await trail(world)
        assert [(each.action, each.subject) for each in events] == [
            ("reservation_rented", found),
            ("reservation_extended", found),
            ("instance_stopped", one),
            ("instance_started", one),
            ("instance_destroyed", one),
            ("reservation_released", found),
        ]
        assert {(each.user_id, each.key_id) for each in events[1:]} == {("user-ann", "key-ann")}
        assert {each.project for each in events} == {"p1"}

    in_world(story, machines=10, settings=CALM)


def test_what_is_refused_or_rents_nothing_leaves_no_row():
    async def story(world: World) -> None:
        with pytest.raises(NotFound):
            await world.engine.reservations.release(ANN, "res-none")
        await world.reserve(1, dry_run=True)
        made = await world.reserve(1, project="p2")
        with pytest.raises(NotFound):
            await world.engine.reservations.release(ANN, made.reservation.id)
        assert [(each.action, each.project) for each in await trail(world)] == [("reservation_rented", "p2")]
        assert await world.engine.money.costs.audit("p1", before=0, limit=10) == ()

    in_world(story, machines=10, settings=CALM)


def test_changes_of_keys_strategies_and_pools_are_written():
    async def story(world: World) -> None:
        keys, ssh = KeyRing(world.db, world.random), SshKeyRing(world.db, world.random)
        made = await keys.create("p1", "ci", "user", by=ANN)
        assert await keys.revoke("p1", made.row.id, by=ANN)
        await keys.revoke("p1", made.row.id, by=ANN)
        row = await ssh.add("p1", "laptop", "ssh-ed25519 AAAA", "SHA256:1", by=ANN)
        await ssh.add("p1", "laptop", "ssh-ed25519 AAAA", "SHA256:1", by=ANN)
        assert await ssh.delete("p1", row.id, by=ANN)
        await world.engine.strategies.choose(ANN, "lowest_price", "")
        await provisioned(world)
        await world.engine.pools.cleanup(pool_caller(world), 123, keep_volume=False)
        events = await trail(world)
        assert [each.action for each in events] == [
            "key_created", "key_revoked", "ssh_key_added", "ssh_key_deleted", "strategy_set", "pool_provisioned",
            "pool_cleaned_up",
        ]  # fmt: skip
        assert made.text not in str(events)

    in_world(story, settings={"catalog_refresh_interval": 300.0})


def test_the_trail_is_append_only():
    async def story(world: World) -> None:
        await world.db.write(lambda tx: audit.record(tx, ANN, "limit_set", "1h", "$5", project="p1"))
        for sql in ("UPDATE audit SET key_id = ''", "DELETE FROM audit"):
            with pytest.raises(StatementRefused, match="append-only"):
                await world.db.write(lambda tx, sql=sql: tx.execute(sql))  # type: ignore[misc]

    in_world(story, machines=2)
