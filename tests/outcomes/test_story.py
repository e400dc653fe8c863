"""The money log: one line for each machine that is rented, ready, released, lost, or refused."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import FailedPrecondition, OfferGone
from gpuproxy.model.lease_events import Vanished
from gpuproxy.model.money import usd
from gpuproxy.model.reservations import ReservationView
from gpuproxy.outcomes import record
from gpuproxy.ports import Tx
from gpuproxy.store import leases, money_log
from tests.world import VAST, World, demand, in_world

pytestmark = pytest.mark.long

CALLER = Caller(project="p1", key_id="key-1")
Line = Mapping[str, Any]


def told(story_of: Callable[[World], Awaitable[Any]], **options: Any) -> tuple[Any, list[Line]]:
    """The result of a story, and the log lines about leases that it caused, in order."""
    with capture_logs() as lines:
        result = in_world(story_of, **options)
    return result, [line for line in lines if line["event"] in money_log.EVENTS and "key" in line]


def events(lines: list[Line]) -> list[str]:
    return [line["event"] for line in lines]


def named(lines: list[Line], event: str) -> list[Line]:
    return [line for line in lines if line["event"] == event]


async def reserve(world: World, count: int, **wanted: Any) -> ReservationView:
    """Reserve as a caller with a key."""
    caller = Caller(project="p1", key_id="key-1", deadline=world.clock.monotonic() + 120)
    return await world.engine.reserver.reserve(caller, demand(count, **wanted))


def test_the_life_of_a_machine_is_four_lines_and_one_for_the_request_to_release_it() -> None:
    async def life(world: World) -> ReservationView:
        made = await reserve(world, 1)
        await world.sleep(3600)
        await world.engine.reservations.release(Caller(project="p1", key_id="key-2", user_id="u1"), made.reservation.id)
        await world.sleep(200)
        return await world.view(made.reservation.id)

    view, lines = told(life)
    (lease,), (cost,) = view.leases, view.costs
    common = {
        "reservation": view.reservation.id,
        "contract": lease.instance_id,
        "price": usd(lease.observed.price),
        "project": "p1",
        "key": "key-1",
        "provider": VAST,
        "account": "vast-1",
        "lease": lease.id,
        "num_gpus": 1,
        "reason": "",
        "log_level": "info",
    }
    released = common | {"reason": "RELEASED"}
    asked = {key: common[key] for key in ("reservation", "project", "log_level")}
    assert lines == [
        {"event": "instance_rented", "how": "created"} | common,
        {"event": "instance_ready"} | common,
        {"event": "release_requested", "key": "key-2", "user": "u1", "contract": ""} | asked,
        {"event": "release_started"} | released,
        {"event": "instance_released", "cost": usd(cost)} | released,
    ]
    assert cost > 0


def test_who_destroyed_a_machine_is_logged_once_however_often_they_ask() -> None:
    async def life(world: World) -> str:
        contract = str((await reserve(world, 1)).leases[0].instance_id)
        other = Caller(project="system", role="admin", key_id="key-admin")
        for _ in range(3):
            await world.engine.instances.destroy(other, VAST, contract)
        await world.sleep(200)
        return contract

    contract, lines = told(life)
    (asked,) = named(lines, "release_requested")
    assert (asked["contract"], asked["project"], asked["key"]) == (contract, "p1", "key-admin")
    assert [line["reason"] for line in named(lines, "instance_released")] == ["DESTROYED"]


def test_releasing_a_finished_reservation_logs_no_request() -> None:
    async def life(world: World) -> None:
        made = await reserve(world, 1)
        for _ in range(3):
            await world.engine.reservations.release(CALLER, made.reservation.id)
            await world.sleep(100)

    _, lines = told(life)
    assert events(lines).count("release_requested") == 1
    assert events(lines).count("instance_released") == 1


def test_a_lease_that_reaches_its_end_expired_and_nobody_asked_for_it() -> None:
    async def life(world: World) -> None:
        await reserve(world, 2, lease=1800)
        await world.sleep(2200)

    _, lines = told(life)
    assert events(lines).count("lease_expired") == events(lines).count("instance_released") == 2
    assert {"release_started", "release_requested"}.isdisjoint(events(lines))
    assert {line["reason"] for line in named(lines, "lease_expired")} == {"EXPIRED"}
    assert all(line["cost"] > 0 for line in named(lines, "instance_released"))


def test_a_refused_create_is_one_line_with_the_marketplaces_words() -> None:
    async def life(world: World) -> ReservationView:
        world.arm("create", "offer_gone")
        return await reserve(world, 1)

    view, lines = told(life)
    (refused,) = named(lines, "create_refused")
    assert (refused["contract"], refused["reason"], refused["key"]) == ("", view.leases[0].reason, "key-1")
    assert refused["error"] == view.leases[0].observed.status_message != ""
    assert events(lines).count("instance_rented") == 1


def test_a_refusal_that_ends_the_call_is_logged_as_well() -> None:
    async def life(world: World) -> None:
        world.arm("create", "insufficient_credit", times=0)
        with pytest.raises(FailedPrecondition):
            await reserve(world, 1)

    _, lines = told(life)
    assert [(line["event"], line["reason"]) for line in lines] == [("create_refused", "PROVIDER_FUNDS")]


def test_a_create_whose_answer_is_lost_is_unknown_and_rented_when_it_is_found() -> None:
    async def life(world: World) -> None:
        world.arm("create", "reset_after")
        await reserve(world, 1, request_id="a", keep_late=True)
        await world.sleep(300)

    _, lines = told(life)
    assert events(lines)[:2] == ["create_unknown", "instance_rented"]
    assert named(lines, "instance_rented")[0]["how"] == "found"


def test_a_create_that_is_proven_absent_is_disproved_not_refused() -> None:
    async def life(world: World) -> None:
        world.arm("create", "reset_before")
        await reserve(world, 1, request_id="a", keep_late=True)
        await world.sleep(3 * 3600)

    _, lines = told(life)
    assert events(lines).count("create_disproved") == 1
    assert named(lines, "create_disproved")[0]["reason"] == "NEVER_CREATED"
    assert "create_refused" not in events(lines)


def test_a_dead_machine_is_logged_with_its_present_cost() -> None:
    async def life(world: World) -> str:
        contract = str((await reserve(world, 1)).leases[0].instance_id)
        await world.sleep(300)
        world.control("POST", f"instances/{contract}/kill", {"how": "host"})
        await world.sleep(120)
        return contract

    contract, lines = told(life)
    (died,) = named(lines, "instance_died")
    assert (died["contract"], died["billed"], died["billed_per_hour"]) == (contract, "nothing", 0.0)
    assert events(lines) == ["instance_rented", "instance_ready", "instance_died"]


def test_a_removed_machine_is_logged_as_lost_with_its_cost() -> None:
    async def life(world: World) -> None:
        contract = int(str((await reserve(world, 1)).leases[0].instance_id))
        await world.sleep(300)
        world.sandbox.market.destroy(world.sandbox.market.instances[contract])
        await world.sleep(120)

    _, lines = told(life)
    assert events(lines) == ["instance_rented", "instance_ready", "instance_lost"]
    assert lines[-1]["cost"] > 0


def test_work_that_is_rolled_back_leaves_no_line() -> None:
    async def life(world: World) -> None:
        lease = (await reserve(world, 1)).leases[0]

        def rolled_back(tx: Tx) -> None:
            leases.advance(tx, leases.get(tx, lease.id), Vanished())
            raise KeyError(lease.id)

        with pytest.raises(KeyError):
            await world.db.write(rolled_back)

    _, lines = told(life)
    assert events(lines) == ["instance_rented"]


def test_a_machine_reserved_without_a_key_is_logged_with_an_empty_key() -> None:
    async def life(world: World) -> None:
        await world.reserve(1)

    _, lines = told(life)
    assert [line["key"] for line in lines] == [""]


def test_a_refusal_that_is_read_late_is_logged_as_a_refusal() -> None:
    """The outcome was recorded as unknown before the marketplace's answer was read."""

    async def life(world: World) -> None:
        world.arm("create", "reset_before")
        lease = (await reserve(world, 1, request_id="a", keep_late=True)).leases[0]
        await world.db.write(lambda tx: record.refused(tx, lease.id, OfferGone("no such ask")))

    _, lines = told(life)
    assert events(lines) == ["create_unknown", "create_refused"]
    assert (lines[1]["reason"], lines[1]["error"]) == ("OFFER_GONE", "no such ask")
