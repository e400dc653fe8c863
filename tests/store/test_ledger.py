"""The ledger balances after every unit of work, its rows never change, and what was spent adds up over time."""

import os
import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlite_utils import Database as SqliteUtils

from gpuproxy.model.bookings import BookingState
from gpuproxy.model.errors import StatementRefused
from gpuproxy.model.lease_events import (
    Created,
    Event,
    Found,
    Gone,
    Ready,
    Reappeared,
    Refused,
    Release,
    ReplyLost,
    Vanished,
)
from gpuproxy.model.leases import InstanceId, Lease, LeaseId, LeaseState, ReservationId
from gpuproxy.model.money import Micro
from gpuproxy.model.reasons import Reason
from gpuproxy.ports import Tx
from gpuproxy.store import bookings, leases, ledger, ledger_check, reservations, settlements
from gpuproxy.store.migrations import migrations
from gpuproxy.store.rows import micros
from gpuproxy.store.sqlite.database import SqliteTx
from gpuproxy.store.sqlite.driver import sqlite3
from tests import databases
from tests.flat_leases import changed
from tests.past import fill
from tests.scenes import NOON, lease_of, reservation_of
from tests.sums import check_ledger

STORIES = int(os.environ.get("STORIES", "1"))
"""The stories of each seed; `make ledger` sets more."""
STEPS = 2000
"""Units of work of a story. The machines that are left to run make longer ones slow."""
OWNERS = (("p1", "k1"), ("p1", "k2"), ("p2", "k3"), ("p2", ""))
HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Costs:
    """A fact: the marketplace shows another price or status."""

    facts: dict[str, Any]

    def change(self, lease: Lease) -> Lease:
        return changed(lease, **self.facts)


@dataclass
class Books:
    """A database in memory, its time, and random machines in it."""

    dice: random.Random
    now: datetime = NOON + timedelta(minutes=17)
    ids: list[LeaseId] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.db = databases.opened(lambda: self.now)

    def step(self, tx: Tx) -> None:
        """Something that happens to a machine, or none."""
        choice = self.dice.random()
        if choice < 0.15 or not self.ids:
            self.create(tx)
        elif choice < 0.2:
            ledger.post_hours(tx, self.dice.choice((1, 3, 100)))
        elif choice < 0.3:
            self.true_up(tx, leases.get(tx, self.dice.choice(self.ids)))
        else:
            self.change(tx, leases.get(tx, self.dice.choice(self.ids[-20:])))

    def create(self, tx: Tx) -> None:
        """A machine or a volume, by the hour or paid in advance, of which the answer may be lost."""
        (project, key_id), number = self.dice.choice(OWNERS), len(self.ids) + 1
        owner = reservation_of(id=ReservationId(f"res-{number}"), project=project, request_id="", key_id=key_id)
        reservations.insert(tx, owner)
        volume, prepaid = self.dice.random() < 0.2, self.dice.random() < 0.3
        lease = lease_of(
            number, id=LeaseId(f"lease-{number}"), reservation_id=owner.id, project=project,
            account=self.dice.choice(("vast-1", "vast-2")), state=LeaseState.REQUESTED,
            instance_id=None, started_at=None, created_at=self.now, call_started_at=self.now,
            kind="volume" if volume else "machine", num_gpus=0 if volume else self.dice.randint(1, 8),
            price=Micro(self.dice.randrange(3_000_000)), refund_after=3600.0,
            booked_hours=self.dice.randint(1, 5) if prepaid and not volume else 0,
        )  # fmt: skip
        leases.insert(tx, lease)
        self.ids.append(lease.id)
        events: list[Event] = [Created(InstanceId(str(number)), self.now), Refused(Reason.NO_CAPACITY, "")]
        leases.advance(tx, lease, self.dice.choice([events[0], events[0], events[0], events[1], ReplyLost("")]))

    def true_up(self, tx: Tx, lease: Lease) -> None:
        if lease.instance_id is not None and lease.ended_at is not None:
            recorded = leases.recorded(tx, lease.id)
            charged = recorded + self.dice.choice((0, 1, -1, self.dice.randint(-recorded, 500_000)))
            settlements.save(tx, lease.id, charged=Micro(charged), metered=recorded)

    def change(self, tx: Tx, lease: Lease) -> None:
        at, dice = self.now, self.dice
        if lease.instance_id is None:
            leases.advance(tx, lease, Reappeared(at, InstanceId(lease.id), listed=True)) if _over(lease) else None
        elif _over(lease):
            leases.advance(tx, lease, Reappeared(at)) if dice.random() < 0.1 else None
        elif lease.state is LeaseState.RELEASING:
            leases.advance(tx, lease, Gone())
        elif lease.is_prepaid and dice.random() < 0.4:
            self.extend(tx, lease)
        elif (roll := dice.random()) < 0.6:
            billed = dice.choice(("nothing", "disk", "all", "all"))
            leases.note(tx, lease, Costs({"billed": billed, "price": Micro(dice.randrange(3_000_000))}))  # type: ignore[arg-type]
        elif roll < 0.7 and lease.state is LeaseState.STARTING:
            leases.advance(tx, lease, Ready(at, "ssh"))
        else:
            ended = leases.advance(tx, lease, Vanished() if roll > 0.95 else Release(Reason.RELEASED, at))
            if lease.is_prepaid and ended.state is LeaseState.RELEASING:
                leases.advance(tx, ended, Gone())

    def extend(self, tx: Tx, lease: Lease) -> None:
        """Another answer of an open extension, or a new one."""
        if (opened := bookings.open_of(tx, lease.id)) is None:
            bookings.begin_extension(tx, lease, self.dice.randint(1, 3), self.now)
        else:
            outcome = self.dice.choice((BookingState.CONFIRMED, BookingState.REFUSED, BookingState.UNKNOWN))
            bookings.settle(tx, opened, outcome)

    def windows_add_up(self, tx: Tx) -> None:
        """Three times in order; also those of a project and of a key."""
        span = micros(self.now) - micros(NOON) + 1
        at = sorted(NOON + timedelta(microseconds=self.dice.randrange(span)) for _ in range(3))
        project, key_id = self.dice.choice(((None, None), ("p1", None), ("p2", None), (None, "k1"), ("p1", "k2")))
        spent = [
            ledger.spent(tx, project=project, key_id=key_id, since=since, until=until)
            for since, until in ((at[0], at[1]), (at[1], at[2]), (at[0], at[2]))
        ]
        assert spent[0] + spent[1] == spent[2]


def _over(lease: Lease) -> bool:
    return lease.state in (LeaseState.RELEASED, LeaseState.FAILED, LeaseState.LOST)


@pytest.mark.seeds(2, 50)
async def test_debits_are_credits_after_every_unit_and_windows_add_up(seed: int):
    """100,000 random units with --all-seeds, and a million with `make ledger`."""
    for number in range(STORIES):
        await _story(random.Random(seed * 1000 + number))


async def _story(dice: random.Random) -> None:
    books = Books(dice)

    def unit(tx: Tx) -> None:
        books.step(tx)
        assert ledger_check.quick(tx) == ()

    for number in range(STEPS):
        books.now += timedelta(seconds=dice.choice((0, 1, dice.randrange(600), dice.randrange(20_000))))
        await books.db.write(unit)
        if number % 50 == 0:
            await books.db.read(books.windows_add_up)
    books.now += timedelta(seconds=1)  # a window ends before its last moment, in which something may have been paid
    await books.db.read(check_ledger)
    await books.db.read(lambda tx: _is_all(tx, books.now))
    await books.db.close()


def _is_all(tx: Tx, now: datetime) -> None:
    """What was spent at any time is what the leases cost; the projects have all but the surplus."""
    everything = [LeaseId(row["id"]) for row in tx.fetch("SELECT id FROM leases")]
    window = {"since": NOON - HOUR, "until": now + HOUR}
    spent = ledger.spent(tx, project=None, key_id=None, **window)
    assert spent == sum(leases.cost(tx, lease_id) for lease_id in everything)
    [surplus] = tx.fetch("SELECT coalesce(sum(balance), 0) AS n FROM ledger_balances WHERE account LIKE 'surplus:%'")
    running = sum(
        ledger.metered(row, micros(now)) - ledger.metered(row, row["posted_until"] or row["opened_at"])
        for row in tx.fetch("SELECT * FROM meters WHERE closed_at IS NULL AND kind = 'surplus'")
    )
    own = sum(ledger.spent(tx, project=project, key_id=None, **window) for project in ("p1", "p2"))
    assert own == spent - surplus["n"] - running


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE ledger SET amount = amount + 1",
        "UPDATE ledger SET project = 'p2' WHERE seq = 1",
        "DELETE FROM ledger",
        pytest.param("INSERT OR REPLACE INTO ledger SELECT * FROM ledger WHERE seq = 1", marks=databases.sqlite_only),
    ],
)
async def test_a_row_is_never_changed_or_deleted(sql: str):
    books = await one_machine(hours=1.5)
    before = await books.db.read(lambda tx: tx.fetch("SELECT * FROM ledger"))
    assert len(before) == 4
    with pytest.raises(StatementRefused, match="append-only"):
        await books.db.write(lambda tx: tx.execute(sql))
    assert await books.db.read(lambda tx: tx.fetch("SELECT * FROM ledger")) == before
    await books.db.close()


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        ("UPDATE ledger_balances SET balance = balance + 1 WHERE account = 'cost:p1'", "debits and credits differ"),
        ("UPDATE spent SET metered = metered + 1", "meters, bookings and adjustments add up to"),
        ("UPDATE ledger_balances SET balance = balance - sign(balance)", "balance of cost:p1"),
    ],
)
async def test_a_wrong_sum_is_reported(sql: str, problem: str):
    books = await one_machine(hours=1.5)
    assert await books.db.read(ledger_check.full) == ()
    await books.db.write(lambda tx: tx.execute(sql))
    assert any(problem in each for each in await books.db.read(ledger_check.full))
    await books.db.close()


async def test_a_posting_that_straddles_a_window_counts_pro_rata_and_a_booking_at_its_payment():
    books = await one_machine(hours=0.0)
    books.now += HOUR * 3
    began = NOON + timedelta(minutes=17)

    def spent(tx: Tx, since: datetime, until: datetime, key_id: str | None = None) -> int:
        return ledger.spent(tx, project="p1", key_id=key_id, since=since, until=until)

    for posted in (False, True):
        if posted:
            assert await books.db.write(lambda tx: ledger.post_hours(tx, 10)) == 1
        assert await books.db.read(lambda tx: spent(tx, began, books.now)) == 900_000
        assert await books.db.read(lambda tx: spent(tx, began + HOUR, began + HOUR * 1.5, "k1")) == 150_000
        assert await books.db.read(lambda tx: spent(tx, began, books.now, "k2")) == 0
        assert await books.db.read(lambda tx: spent(tx, books.now, books.now + HOUR)) == 0, "nothing is foreseen"
    await books.db.close()


@pytest.mark.parametrize("reason", [Reason.SURPLUS, Reason.ORPHAN, Reason.REAPPEARED])
async def test_a_machine_that_nobody_wanted_costs_no_project(reason: Reason):
    books = Books(random.Random(1))

    def begin(tx: Tx) -> None:
        owner = reservation_of(id=ReservationId("res-1"), request_id="", key_id="k1")
        reservations.insert(tx, owner)
        lease = lease_of(1, reservation_id=owner.id, state=LeaseState.REQUESTED, instance_id=None)
        leases.insert(tx, lease)
        lease = leases.advance(tx, lease, Release(reason, books.now))
        leases.advance(tx, lease, Found(InstanceId("1"), books.now, billed="all"))

    await books.db.write(begin)
    books.now += HOUR
    window = {"since": NOON, "until": books.now}
    for key_id in (None, "k1"):
        assert (
            await books.db.read(lambda tx, key_id=key_id: ledger.spent(tx, project="p1", key_id=key_id, **window)) == 0
        )
    assert await books.db.read(lambda tx: ledger.spent(tx, project=None, key_id=None, **window)) == 300_000
    await books.db.write(lambda tx: leases.advance(tx, leases.get(tx, LeaseId("lease-aaaaaaaa-01")), Gone()))
    [row] = await books.db.read(lambda tx: tx.fetch("SELECT * FROM ledger WHERE account LIKE 'surplus:%' AND seq = 1"))
    assert (row["kind"], row["project"]) == ("surplus", "p1")
    assert await books.db.read(ledger_check.full) == ()
    await books.db.close()


async def one_machine(hours: float) -> Books:
    """A machine of p1 for $0.30 per hour with the key k1, which ended after so many hours; 0: it runs."""
    books = Books(random.Random(1))

    def begin(tx: Tx) -> Lease:
        owner = reservation_of(id=ReservationId("res-1"), request_id="", key_id="k1")
        reservations.insert(tx, owner)
        lease = lease_of(1, reservation_id=owner.id, state=LeaseState.REQUESTED, instance_id=None, billed="all")
        leases.insert(tx, lease)
        return leases.advance(tx, lease, Created(InstanceId("1"), books.now))

    lease = await books.db.write(begin)
    books.now += hours * HOUR
    if hours:
        await books.db.write(lambda tx: leases.advance(tx, lease, Vanished()))
    return books


def test_the_migration_posts_what_exists():
    old = SqliteUtils(sqlite3.connect(":memory:", isolation_level=None), execute_plugins=False)
    migrations.apply(old, stop_before="m0014_the_ledger")
    fill(old.conn, 200, NOON - timedelta(days=30), NOON)
    old.execute("UPDATE events SET event = 'reappeared' WHERE lease_id = 'lease-00000007-01' AND event = 'ready'")
    old.execute(
        "INSERT INTO meters (lease_id, project, opened_at, rate) VALUES ('lease-00000009-01', 'p2', ?, 400000)",
        (micros(NOON - 5 * HOUR),),
    )
    migrations.apply(old)
    tx = SqliteTx(old, NOON, location=None)
    assert len(tx.fetch("SELECT DISTINCT transfer FROM ledger")) == 200 * 3
    check_ledger(tx)
    [surplus] = tx.fetch("SELECT balance FROM ledger_balances WHERE account = 'surplus:vast.ai:vast-1'")
    assert surplus["balance"] > 0
    assert ledger.post_hours(tx, 10) == 1
    check_ledger(tx)
