"""Each event is told once, in the transaction of its fact, and for nothing else."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.limits import Policy, SpendingLimit, window
from gpuproxy.model.money import Micro
from gpuproxy.model.pools import Degraded, PoolEvent, PoolState
from gpuproxy.model.webhooks import TOLD, EventType, of_incident, of_new_incident, of_pool
from gpuproxy.store import spend_limits
from tests.warmpool.scenes import NOW, incident, scene
from tests.warmpool.test_life import caller, provisioned, status
from tests.webhooks.receiving import Receiver, deliveries, told
from tests.world import World

P1 = Caller(project="p1")
E = EventType


def test_a_rental_and_its_release_tell_only_its_end():
    async def story(world: World, receiver: Receiver) -> None:
        view = await world.reserve(2)
        await world.sleep(300)
        assert receiver.types() == []
        await world.engine.reservations.release(P1, view.reservation.id)
        await world.sleep(300)
        assert receiver.types() == [E.ENDED]
        assert receiver.one(E.ENDED) == {
            "reservation_id": view.reservation.id, "state": "released", "reason": "RELEASED",
        }  # fmt: skip
        assert receiver.handled[0]["project"] == "p1"

    told(story)


def test_an_end_that_comes_is_told_before_it_and_at_it():
    async def story(world: World, receiver: Receiver) -> None:
        view = await world.reserve(1, lease=1200)
        await world.sleep(1200 - 60)
        assert receiver.types() == [E.ENDING_SOON]
        soon = receiver.one(E.ENDING_SOON)
        assert (soon["reservation_id"], soon["then"]) == (view.reservation.id, "destroyed")
        assert soon["expires_at"] == view.leases[0].expires_at.isoformat()  # type: ignore[union-attr]
        await world.sleep(240)
        assert receiver.types() == [E.ENDING_SOON, E.ENDED]
        assert receiver.one(E.ENDED)["reason"] == "EXPIRED"

    told(story)


def test_a_create_without_an_answer_is_told_as_unknown():
    async def story(world: World, receiver: Receiver) -> None:
        world.arm("create", "hang_after", seconds=60)
        await world.reserve(1, request_id="r1", keep_late=True)
        await world.sleep(5)
        assert receiver.types() == [E.UNKNOWN]
        await world.sleep(600)
        assert receiver.types() == [E.UNKNOWN]  # it was found, and runs

    told(story)


def test_a_create_that_never_happened_ends_its_reservation():
    async def story(world: World, receiver: Receiver) -> None:
        world.arm("create", "reset_before")
        await world.reserve(1, request_id="r1", keep_late=True)
        await world.sleep(900)
        assert receiver.types() == [E.UNKNOWN, E.ENDED]
        assert receiver.one(E.ENDED)["state"] == "failed"

    told(story)


def test_a_create_that_is_refused_is_not_unknown():
    async def story(world: World, receiver: Receiver) -> None:
        world.arm("create", "offer_gone")
        await world.reserve(1)
        await world.sleep(300)
        assert receiver.types() == []

    told(story)


@pytest.mark.parametrize(
    ("how", "kinds"), [("container", [E.DIED]), ("host", [E.DIED]), ("removed", [E.LOST, E.ENDED])]
)
def test_a_machine_that_dies_or_is_taken_away_is_told(how: str, kinds: list[E]):
    async def story(world: World, receiver: Receiver) -> None:
        view = await world.reserve(1)
        await world.sleep(300)
        (lease,) = (await world.view(view.reservation.id)).leases
        if how == "removed":
            world.sandbox.market.destroy(world.sandbox.market.instances[int(lease.instance_id or 0)])
        else:
            world.control("POST", f"instances/{lease.instance_id}/kill", {"how": how})
        await world.sleep(120)
        assert receiver.types() == kinds
        assert receiver.one(kinds[0])["contract_id"] == lease.instance_id

    told(story)


def test_a_machine_that_is_never_ready_is_told():
    async def story(world: World, receiver: Receiver) -> None:
        world.arm("create", "never_ready")
        await world.reserve(1, request_id="r1")
        await world.sleep(1200)
        assert receiver.types() == [E.NOT_READY, E.ENDED]
        assert receiver.one(E.NOT_READY)["reason"] == "NOT_READY"

    told(story)


async def set_limit(world: World, factor: float) -> None:
    price = sum(lease.observed.price for lease in await world.live())
    limit = SpendingLimit(
        scope="project", subject="p1", window=window("24h"), amount=Micro(round(price * factor)), policy="warn"
    )
    await world.db.write(lambda tx: spend_limits.put(tx, limit))


def test_a_limit_is_told_when_it_is_near_and_when_it_is_reached_once_each():
    async def story(world: World, receiver: Receiver) -> None:
        await world.reserve(1, lease=10 * 3600)
        await set_limit(world, 20)
        await world.sleep(300)
        assert receiver.types() == []
        await set_limit(world, 11)
        await world.sleep(600)
        assert receiver.types() == [E.LIMIT_NEAR]
        near = receiver.one(E.LIMIT_NEAR)
        assert (near["window"], near["scope"], near["subject"]) == ("24h", "project", "p1")
        assert 0.8 <= (near["spent_usd"] + near["held_usd"]) / near["limit_usd"] < 1
        await set_limit(world, 5)
        await world.sleep(600)
        assert receiver.types() == [E.LIMIT_NEAR, E.LIMIT_REACHED]
        assert {event["project"] for event in receiver.handled} == {"p1"}

    told(story)


@pytest.mark.parametrize(
    ("policy", "then"), [("stop_newest", "stopped"), ("release_newest", "released"), ("no_new", "")]
)
def test_a_machine_that_a_policy_ends_is_told_with_its_limit(policy: Policy, then: str):
    async def story(world: World, receiver: Receiver) -> None:
        lease = (await world.reserve(1)).leases[0]
        await world.sleep(60)
        limit = SpendingLimit(
            scope="global", subject="", window=window("24h"), amount=Micro(lease.observed.price // 2), policy=policy
        )
        await world.db.write(lambda tx: spend_limits.put(tx, limit))
        await world.sleep(3600)
        ended = [event for event in receiver.handled if "then" in event["data"]]
        assert len(ended) == bool(then)
        for event in ended:
            data = event["data"]
            assert (event["type"], event["project"]) == (E.LIMIT_REACHED, "p1")
            assert (data["contract_id"], data["then"], data["policy"]) == (lease.instance_id, then, policy)
            assert data["limit_usd"] == limit.amount / 1e6

    told(story, settings={"hold_horizon": 600.0})


def test_a_limit_of_the_settings_is_not_told_again_by_a_restart():
    async def story(world: World, receiver: Receiver) -> None:
        await world.reserve(1, lease=10 * 3600)
        (lease,) = await world.live()
        world.settings = world.settings.model_copy(
            update={"guardrails_max_1440min_rate": lease.observed.price * 11 / 1e6, "limit_policy": "warn"}
        )
        await world.restart()
        await world.sleep(600)
        assert receiver.types() == [E.LIMIT_NEAR]
        await world.restart()
        await world.sleep(600)
        assert receiver.types() == [E.LIMIT_NEAR]

    told(story)


def test_an_account_without_credit_is_told_as_paused_once_for_each_pause():
    async def story(world: World, receiver: Receiver) -> None:
        world.arm("create", "insufficient_credit", times=2)
        for _ in range(2):
            with pytest.raises(Exception, match="credit"):
                await world.reserve(1)
        await world.sleep(5)
        assert receiver.types() == [E.ACCOUNT_PAUSED]
        paused = receiver.one(E.ACCOUNT_PAUSED)
        assert paused == {"provider": "vast.ai", "account": "vast-1", "reason": "PROVIDER_FUNDS"}
        assert receiver.handled[0]["project"] == ""

    told(story)


def test_an_account_that_is_silent_for_a_minute_is_told_once_for_each_silence():
    async def story(world: World, receiver: Receiver) -> None:
        world.arm("list", "refuse_connection", times=0)
        await world.sleep(600)
        assert receiver.types() == [E.ACCOUNT_SILENT]
        await world.restart()
        await world.sleep(600)
        assert receiver.types() == [E.ACCOUNT_SILENT]  # it is the same silence
        world.control("DELETE", "faults")
        await world.sleep(120)
        world.arm("list", "refuse_connection", times=0)
        await world.sleep(600)
        assert receiver.types() == [E.ACCOUNT_SILENT] * 2

    told(story)


def test_a_single_listing_that_fails_is_no_silence():
    async def story(world: World, receiver: Receiver) -> None:
        world.arm("list", "refuse_connection", times=1)
        await world.sleep(600)
        assert receiver.types() == []

    told(story)


@pytest.mark.long
def test_a_failover_is_told_from_the_loss_of_the_primary_to_the_new_standby():
    async def story(world: World, receiver: Receiver) -> None:
        await world.sleep(5)
        view = await provisioned(world)
        await world.sleep(60)
        assert receiver.types() == []
        assert view.primary is not None
        world.control("POST", f"instances/{view.primary.instance_id}/kill", {"how": "container"})
        await world.sleep(900)
        assert (await status(world)).pool.state is PoolState.ACTIVE
        assert receiver.types() == [E.PRIMARY_LOST, E.FAILOVER_STARTED, E.RECOVERED, E.DEGRADED, E.RECOVERED]
        lost, _, promoted, degraded, active = (event["data"] for event in receiver.handled)
        assert (lost["machine_id"], lost["kind"], promoted["outcome"]) == (123, "failure", "promoted")
        assert (degraded["degraded_reason"], active["outcome"]) == ("no_standby", "active")

    told(story)


@pytest.mark.long
def test_a_tested_failover_loses_no_primary():
    async def story(world: World, receiver: Receiver) -> None:
        await world.sleep(5)
        await provisioned(world)
        await world.engine.pools.test(caller(world), 123, allow_destroy=False)
        await world.sleep(60)
        assert receiver.types() == [E.FAILOVER_STARTED, E.RECOVERED]
        assert receiver.handled[0]["data"]["kind"] == "test"

    told(story)


@pytest.mark.long
def test_a_standby_that_is_taken_away_is_told():
    async def story(world: World, receiver: Receiver) -> None:
        await world.sleep(5)
        view = await provisioned(world)
        assert view.standby is not None
        assert view.standby.instance_id is not None
        machine = world.sandbox.market.instances[int(view.standby.instance_id)].machine_id
        world.control("POST", f"machines/{machine}/occupy", {"gpus": 16})
        await world.sleep(300)
        assert receiver.types() == [E.STANDBY_LOST, E.DEGRADED]
        assert receiver.one(E.STANDBY_LOST)["degraded_reason"] == "no_free_gpu"

    told(story)


# -- facts that a story reaches only by luck


@pytest.mark.parametrize(
    ("before", "after", "event", "kinds"),
    [
        ("", "contract_ends", PoolEvent.STANDBY_LOST, (E.EXPIRING, E.DEGRADED)),
        ("", "no_free_gpu", PoolEvent.STANDBY_LOST, (E.STANDBY_LOST, E.DEGRADED)),
        ("", "unchecked", PoolEvent.STANDBY_LOST, (E.DEGRADED,)),
        ("", "no_standby", PoolEvent.PROMOTED, (E.DEGRADED,)),
        ("unchecked", "contract_ends", None, (E.EXPIRING, E.DEGRADED)),
        ("no_standby", "unchecked", None, ()),
        ("unchecked", "no_standby", None, (E.STANDBY_LOST, E.DEGRADED)),
        ("no_free_gpu", "no_standby", None, (E.DEGRADED,)),
        ("no_standby", "no_standby", None, ()),
        ("no_standby", "", None, ()),
    ],
)
def test_a_pool_is_told_as_degraded_when_it_begins_and_when_the_reason_changes(
    before: str, after: str, event: PoolEvent | None, kinds: tuple[E, ...]
):
    pool = scene().pool
    old = replace(pool, state=PoolState.DEGRADED if before else PoolState.ACTIVE, degraded=Degraded(before))
    new = replace(pool, state=PoolState.DEGRADED, degraded=Degraded(after))
    assert of_pool(old, new, event) == kinds


def test_other_changes_of_a_pool_are_not_told():
    pool = scene().pool
    assert of_pool(pool, replace(pool, progress="x"), None) == ()
    assert of_pool(pool, replace(pool, state=PoolState.DISABLED), PoolEvent.DISABLE) == ()


@pytest.mark.parametrize(
    ("kind", "changes", "wanted", "told_as"),
    [
        ("drill", {"ended_at": NOW, "outcome": "failed"}, True, E.DRILL_FAILED),
        ("drill", {"kind": "failure"}, True, E.DRILL_FAILED),
        ("drill", {"ended_at": NOW, "outcome": "recovered"}, True, E.DRILL_FAILED),
        ("drill", {"ended_at": NOW, "outcome": "failed"}, False, None),
        ("drill", {"ended_at": NOW, "outcome": "promoted"}, True, E.RECOVERED),
        ("drill", {"rung": 1}, True, None),
        ("test", {"ended_at": NOW, "outcome": "failed"}, True, None),
        ("failure", {"ended_at": NOW, "outcome": "recovered"}, True, E.RECOVERED),
    ],
)
def test_a_drill_that_does_not_promote_has_failed(kind: Any, changes: dict[str, Any], wanted: bool, told_as: E | None):
    old = incident(kind=kind, ended_at=None)
    assert of_incident(old, replace(old, **changes), wanted=wanted) == told_as


def test_only_a_failure_loses_a_primary():
    kinds: tuple[Any, ...] = ("failure", "manual", "test", "drill")
    lost = [kind for kind in kinds if E.PRIMARY_LOST in of_new_incident(incident(kind=kind))]
    assert lost == ["failure"]


@pytest.mark.long
def test_a_drill_that_fails_is_told():
    async def story(world: World, receiver: Receiver) -> None:
        await world.sleep(5)
        await provisioned(world, drill_every=timedelta(minutes=10))
        world.arm("start", "start_refused", times=0)
        await world.sleep(900)
        assert receiver.types("pool.drill") == [E.DRILL_FAILED]
        assert receiver.one(E.DRILL_FAILED)["machine_id"] == 123

    told(story, boot_time=(3.0, 5.0))


def test_every_event_is_documented():
    from pathlib import Path

    page = (Path(__file__).resolve().parents[2] / "docs" / "webhooks.md").read_text(encoding="utf-8")
    assert [kind for kind in sorted(TOLD) if f"`{kind}`" not in page] == []


def test_no_event_has_a_secret_of_the_caller():
    async def story(world: World, receiver: Receiver) -> None:
        from gpuproxy.model.demands import LaunchSpec

        spec = LaunchSpec(secret_env=(("TOKEN", "cnry-secret-7f3a"),))
        view = await world.reserve(1, spec=spec)
        await world.engine.reservations.release(P1, view.reservation.id)
        await world.sleep(300)
        assert "cnry-secret" not in str(receiver.handled)
        assert "sandbox-key" not in str([each.data for each in await deliveries(world)])
        assert receiver.types() == [E.ENDED]

    told(story)
