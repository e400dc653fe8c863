"""The cost report: it adds up the ledger by any words, over deleted history too, and shows nobody another project."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from gpuproxy.billing.costs import CostReport, Costs
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import NotFound
from gpuproxy.model.lease_events import Created, Vanished
from gpuproxy.model.leases import InstanceId, LeaseId, LeaseState, ReservationId
from gpuproxy.ports import Tx
from gpuproxy.store import leases, ledger, reservations, settlements
from tests.scenes import NOON, lease_of, reservation_of
from tests.store.test_ledger import HOUR, Books

ADMIN, P1, P2 = (Caller(project="p1", role="admin"), Caller(project="p1"), Caller(project="p2"))
MIDNIGHT = datetime(2026, 6, 13, tzinfo=UTC)


async def machine(books: Books, number: int, project: str, *, model: str, team: str) -> None:
    """A machine for $0.30 per hour that begins now."""

    def begin(tx: Tx) -> None:
        owner = reservation_of(
            id=ReservationId(f"res-{number}"), project=project, request_id="", labels=(("team", team),) if team else ()
        )
        reservations.insert(tx, owner)
        lease = lease_of(
            number, id=LeaseId(f"lease-{number}"), project=project, reservation_id=owner.id, gpu_model=model,
            num_gpus=2, state=LeaseState.REQUESTED, instance_id=None, billed="all", created_at=books.now,
            call_started_at=books.now,
        )  # fmt: skip
        leases.insert(tx, lease)
        leases.advance(tx, lease, Created(InstanceId(str(number)), books.now))

    await books.db.write(begin)


async def a_night() -> Books:
    """Two machines of p1 and one of p2 run from 23:00 to 02:00; at 03:00, the first one was charged 10 cents more."""
    books = Books(random.Random(1), now=MIDNIGHT - HOUR)
    await machine(books, 1, "p1", model="RTX 4090", team="vision")
    await machine(books, 2, "p1", model="H100", team="=speech")
    await machine(books, 3, "p2", model="H100", team="")
    books.now += 2 * HOUR
    await books.db.write(lambda tx: ledger.post_hours(tx, 10))
    books.now += HOUR
    await books.db.write(lambda tx: leases.advance(tx, leases.get(tx, LeaseId("lease-1")), Vanished()))
    books.now += HOUR
    for number in (1, 2, 3):
        lease = await books.db.read(lambda tx, number=number: leases.get(tx, LeaseId(f"lease-{number}")))
        if lease.state is LeaseState.STARTING:
            await books.db.write(lambda tx, lease=lease: leases.advance(tx, lease, Vanished()))
    await books.db.write(lambda tx: settlements.save(tx, LeaseId("lease-1"), charged=1_000_000, metered=900_000))  # type: ignore[arg-type]
    return books


async def report(books: Books, caller: Caller, *by: str, project: str = "", days: float = 3.0) -> CostReport:
    since, until = MIDNIGHT - timedelta(days=days), MIDNIGHT + timedelta(days=days)
    return await Costs(books.db).report(caller, since=since, until=until, by=by, project=project)


def amounts(found: CostReport) -> dict[tuple[str, ...], int]:
    return {tuple(row.keys.values()): row.amount for row in found.rows}


async def test_costs_are_added_up_by_any_words():
    books = await a_night()
    by_day = await report(books, P1, "day")
    assert amounts(by_day) == {("2026-06-12",): 633_333, ("2026-06-13",): 1_566_667}, (
        "the charge is spread over its life"
    )
    assert by_day.total == sum(amounts(by_day).values()) == 2_200_000
    assert [row.gpu_hours for row in by_day.rows] == [4.0, 10.0]
    assert amounts(await report(books, P1, "model")) == {("H100",): 1_200_000, ("RTX 4090",): 1_000_000}
    assert amounts(await report(books, P1, "label:team")) == {("=speech",): 1_200_000, ("vision",): 1_000_000}
    both = amounts(await report(books, ADMIN, "project", "provider", "label:team"))
    assert both[("p2", "vast.ai", "")] == 1_200_000
    assert sum(both.values()) == 3_400_000
    await books.db.close()


async def test_nobody_sees_the_costs_of_another_project():
    books = await a_night()
    assert (await report(books, P2, "project")).total == 1_200_000
    with pytest.raises(NotFound):
        await report(books, P2, "project", project="p1")
    assert (await report(books, ADMIN, "project", project="p2")).total == 1_200_000
    await books.db.close()


async def test_a_part_of_a_time_has_its_part_of_the_costs():
    books = await a_night()
    inner = await report(books, P1, "day", days=1 / 48)
    assert amounts(inner) == {("2026-06-12",): 316_667, ("2026-06-13",): 316_667}
    assert (await report(books, P1, "day", days=0.0)).rows == []
    await books.db.close()


async def test_an_open_meter_is_in_the_report_before_the_hour_is_posted():
    books = Books(random.Random(1), now=NOON)
    await machine(books, 1, "p1", model="H100", team="")
    books.now += HOUR / 2
    found = await report(books, P1, "model")
    assert (amounts(found), found.rows[0].gpu_hours) == ({("H100",): 150_000}, 1.0)
    await books.db.close()


async def test_deleted_history_stays_in_the_report():
    books = await a_night()
    before = await report(books, ADMIN, "day", "model", "label:team")

    def forget(tx: Tx) -> None:
        tx.execute("DELETE FROM holds")
        for table in ("settlements", "meters", "events", "leases", "reservations"):
            tx.execute(f"DELETE FROM {table}")  # noqa: S608

    await books.db.write(forget)
    assert await report(books, ADMIN, "day", "model", "label:team") == before
    await books.db.close()
