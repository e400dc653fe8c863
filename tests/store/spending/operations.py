"""Random operations on leases and their holds, and the rule that holds at every commit: spent + held <= limit.

The story does to the database what the engine does: it admits, sends, learns outcomes, lets time pass, extends, stops,
starts, and releases. What was spent is added up a second time, from what the story did, not from the database. A
machine without an end is released when its hold can't be extended, and a machine with an end when that has come, or it
is stopped then and released later. Debits equal credits in the ledger.
"""

import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TypeVar

from sqlite_utils import Database as SqliteUtils

from gpuproxy.model import lease_ends
from gpuproxy.model.bookings import HOUR
from gpuproxy.model.errors import InvalidRequest
from gpuproxy.model.lease_events import Absent, Created, Found, Gone, NotAttempted, Parked, Release, ReplyLost, Woken
from gpuproxy.model.lease_facts import CallStarted, Extended, Shown, StopDue
from gpuproxy.model.leases import (
    LIVE,
    RENTED,
    TERMINAL,
    InstanceId,
    Lease,
    LeaseId,
    LeaseState,
    SshAddress,
)
from gpuproxy.model.limits import BudgetExceeded, Usage, held, raised
from gpuproxy.model.meter import meter_rate
from gpuproxy.model.money import Micro
from gpuproxy.model.reasons import Reason
from gpuproxy.outcomes import extensions, spending
from gpuproxy.store import bookings, leases, ledger, ledger_check, limits, reservations, spend_limits
from gpuproxy.store.migrations import migrations
from gpuproxy.store.rows import micros, moment
from gpuproxy.store.sqlite.driver import sqlite3
from tests.store.in_memory import MemoryTx
from tests.store.spending.paid import KEYS, PROJECTS, Broken, Paid, drawn_limits
from tests.store.spending.rows import made_lease, made_reservation

T = TypeVar("T")
S = LeaseState
HORIZON, MARGIN = timedelta(hours=1), timedelta(minutes=15)
MOST_LIVE = 12


_ENDS = (
    "SELECT l.id, l.state, l.expires_at, l.booked_hours, l.booked_until, h.until, h.kept_until FROM spend_holds h "
    "CROSS JOIN leases l ON l.id = h.lease_id WHERE l.instance_id IS NOT NULL"
)


class Story:
    """One database and its operations, by a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = datetime(2026, 1, 20, 7, 30, tzinfo=moment(0).tzinfo) + timedelta(hours=seed % 500)
        self.connection = sqlite3.connect(":memory:", isolation_level=None, cached_statements=1000)
        self.connection.execute("PRAGMA foreign_keys=ON")
        migrations.apply(SqliteUtils(self.connection, execute_plugins=False))
        self.posted_at = self.now
        self.paid: dict[LeaseId, Paid] = {}
        self.made = self.checks = 0
        self.done: Counter[str] = Counter()
        self.fullest = 0.0
        """The largest part of a limit that was used at once."""
        for limit in drawn_limits(self.random):
            self.unit(lambda tx, limit=limit: spend_limits.put(tx, limit))  # type: ignore[misc]
        self.limits = self.unit(spend_limits.listed)

    def close(self) -> None:
        self.connection.close()

    def unit(self, work: Callable[[MemoryTx], T]) -> T:
        """One transaction."""
        tx = MemoryTx(self.connection, self.now)
        self.connection.execute("BEGIN")
        try:
            result = work(tx)
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")
        return result

    def step(self) -> None:
        """One random operation, and the rule after it."""
        live = self.live()
        name = self.random.choices(
            ("rent", "outcome", "tick", "longer", "stop", "start", "price", "release", "long_tick"),
            (30 if len(live) < MOST_LIVE else 1, 25, 25, 6, 4, 4, 5, 8, 2),
        )[0]
        with suppress(BudgetExceeded):
            getattr(self, name)(live)
            self.done[name] += 1
        self.check()

    def live(self) -> list[Lease]:
        return self.unit(lambda tx: sorted(leases.live_of_project(tx, None), key=lambda each: each.created_at))

    # -- operations

    def rent(self, _live: list[Lease]) -> None:
        self.made += 1
        project, key_id = self.random.choice(PROJECTS), self.random.choice(KEYS)
        lasts = self.random.choice((None, None, timedelta(minutes=20), timedelta(hours=5), timedelta(days=40)))
        prepaid = self.random.random() < 0.25
        kept = 0 if lasts is None or prepaid else self.random.choice((0, 21_600))
        wanted = made_reservation(self.made, project, key_id, self.now, lasts)
        lease = made_lease(wanted, self.made, self.random.randint(50_000, 3_000_000), prepaid=prepaid, kept=kept)

        def write(tx: MemoryTx) -> None:
            reservations.insert(tx, wanted)
            leases.insert(tx, lease)
            spending.admit_creates(tx, [lease], HORIZON)

        self.unit(write)
        self.paid[lease.id] = Paid(project, key_id)

    def outcome(self, live: list[Lease]) -> None:
        """What becomes of a create, or of an extension."""
        unresolved = [each for each in live if each.instance_id is None and each.state in LIVE]
        if unresolved:
            self.unit(lambda tx: self._resolve(tx, self.random.choice(unresolved)))

    def _resolve(self, tx: MemoryTx, lease: Lease) -> None:
        if lease.creation.call_started_at is None:
            if self.random.random() < 0.1:
                self._changed(tx, leases.advance(tx, lease, NotAttempted(Reason.NOT_ATTEMPTED)))
            else:
                leases.note(tx, lease, CallStarted(tx.now(), tx.now() + timedelta(seconds=30)))
            return
        chosen = self.random.random()
        if chosen < 0.5:
            paid = lease.observed.price * lease.prepaid.booked_hours if lease.is_prepaid else None
            contract = InstanceId(f"i-{lease.id}")
            event = Created(contract, tx.now(), None if paid is None else Micro(paid))
            if lease.state is not S.REQUESTED:
                event = Found(contract, tx.now(), None if paid is None else Micro(paid))
            self._changed(tx, self._shown(tx, leases.advance(tx, lease, event)))
        elif lease.state is S.REQUESTED:
            leases.advance(tx, lease, ReplyLost("lost", tx.now()))
        elif chosen > 0.85:
            self._changed(tx, leases.advance(tx, lease, Absent(tx.now(), Reason.NEVER_CREATED)))

    def _shown(self, tx: MemoryTx, lease: Lease, price: int | None = None) -> Lease:
        shown = Shown(
            at=tx.now(), price=None if price is None else Micro(price), disk_price=None, billed="all",
            status_message=None, ssh=SshAddress("", 0), ports=(), contract_ends_at=None, too_soon=False,
        )  # fmt: skip
        return leases.note(tx, lease, shown)

    def tick(self, _live: list[Lease]) -> None:
        self._pass(timedelta(seconds=self.random.choice((1, 40, 300, 1800))))

    def long_tick(self, _live: list[Lease]) -> None:
        """Up to the next month, or a day."""
        if self.random.random() < 0.3:
            after = (self.now.replace(day=1) + timedelta(days=32)).replace(day=1, hour=0, minute=0, second=0)
            self._pass(after.replace(microsecond=0) - self.now)
        else:
            self._pass(timedelta(hours=self.random.randint(3, 30)))

    def _pass(self, duration: timedelta) -> None:
        """Let time pass, and do what is due: extend holds and bookings, and end machines in time."""
        until = self.now + duration
        while (due := self._next_due()) is not None and due[0] <= until:
            self._turn_to(max(self.now, due[0]))
            self._due(due[1])
            self.done["due"] += 1
            self.check()
        self._turn_to(until)

    def _turn_to(self, at: datetime) -> None:
        """The time is now `at`. Full hours are posted when they are over, as the server does."""
        hour = at.replace(minute=0, second=0, microsecond=0)
        self.now = at
        if hour > self.posted_at:
            self.posted_at = hour
            self.unit(lambda tx: ledger.post_hours(tx, 1000))

    def _next_due(self) -> tuple[datetime, LeaseId] | None:
        """The next hold that ends, less the margin in which its machine can be released."""
        found = []
        for row in self.unit(lambda tx: tx.fetch(_ENDS)):
            at = moment(row["until"])
            if row["booked_hours"] and row["booked_until"] is not None:
                at = min(at, moment(row["booked_until"]) - timedelta(minutes=10))
            elif row["expires_at"] is None and LeaseState(row["state"]) in RENTED:
                at -= MARGIN
            elif row["kept_until"] and row["state"] == S.PARKED:
                at = moment(row["kept_until"])
            found.append((at, LeaseId(row["id"])))
        return min(found, default=None)

    def _due(self, lease_id: LeaseId) -> None:
        lease = self.unit(lambda tx: leases.get(tx, lease_id))
        if lease_ends.is_to_stop(lease, self.now) and lease.state in RENTED:
            self._stop(lease)
        elif lease.state is S.RELEASING or (lease.expires_at is not None and lease.expires_at <= self.now):
            self._end(lease)
        elif lease.is_prepaid:
            self._extend_booking(lease)
        else:
            self._extend_hold(lease)

    def _extend_hold(self, lease: Lease) -> None:
        def write(tx: MemoryTx) -> None:
            hold = limits.hold_of(tx, lease.id)
            assert hold is not None
            limits.admit(tx, [raised(hold, until=micros(tx.now() + HORIZON))])

        try:
            self.unit(write)
        except BudgetExceeded:
            self._end(lease)

    def _extend_booking(self, lease: Lease) -> None:
        booking = self.unit(lambda tx: extensions.begin(tx, lease.id, 1, timedelta(minutes=10), timedelta(seconds=20)))
        if booking is None:  # it is not allowed, or ends soon
            self._end(lease)
            return
        chosen = self.random.random()
        if chosen < 0.2:
            self.unit(lambda tx: extensions.refused(tx, booking, InvalidRequest("no")))
            self._end(lease)
            return
        if chosen < 0.4:
            self.unit(lambda tx: extensions.unknown(tx, booking, "lost"))
            self.check()
        self.unit(lambda tx: extensions.bought(tx, booking))
        self.paid[lease.id].payments.append((self.now, booking.amount))

    def _end(self, lease: Lease) -> None:
        """Release a machine, and prove it gone."""

        def write(tx: MemoryTx) -> None:
            now = leases.get(tx, lease.id)
            if now.state in RENTED:
                now = leases.advance(tx, now, Release(Reason.BUDGET_EXCEEDED, tx.now()))
            before = bookings.total(tx, lease.id)
            now = leases.advance(tx, now, Gone())
            self._changed(tx, now)
            if lease.is_prepaid:
                self.paid[lease.id].payments.append((tx.now(), bookings.total(tx, lease.id) - before))

        self.unit(write)

    def longer(self, live: list[Lease]) -> None:
        """A caller moves the end of a reservation."""
        found = [each for each in live if each.expires_at is not None and each.state in RENTED]
        if not found:
            return
        lease = self.random.choice(found)
        until = max(lease.expires_at or self.now, self.now) + self.random.choice((HOUR, 30 * HOUR))

        def write(tx: MemoryTx) -> None:
            spending.admit_longer(tx, [lease], until)
            spending.ends_stand(tx, [leases.note(tx, lease, Extended(until, tx.now(), too_soon=False))])

        self.unit(write)

    def stop(self, live: list[Lease]) -> None:
        found = [each for each in live if each.state is S.STARTING and not each.is_prepaid]
        if not found:
            return
        self._stop(self.random.choice(found))

    def _stop(self, lease: Lease) -> None:
        """Stop a machine, for its owner or because its lease has ended."""

        def write(tx: MemoryTx) -> None:
            stopped = leases.advance(tx, leases.note(tx, lease, StopDue(tx.now())), Parked())
            shown = Shown(
                at=tx.now(), price=None, disk_price=None, billed="disk", status_message=None, ssh=SshAddress("", 0),
                ports=(), contract_ends_at=None, too_soon=False,
            )  # fmt: skip
            self._changed(tx, leases.note(tx, stopped, shown))

        self.unit(write)

    def start(self, live: list[Lease]) -> None:
        found = [each for each in live if each.state is S.PARKED and not lease_ends.is_to_stop(each, self.now)]
        if not found:
            return
        lease = self.random.choice(found)

        def write(tx: MemoryTx) -> None:
            spending.admit_start(tx, lease, HORIZON)
            woken = leases.advance(tx, leases.note(tx, lease, StopDue(None)), Woken())
            self._changed(tx, self._shown(tx, woken))

        self.unit(write)

    def price(self, live: list[Lease]) -> None:
        """A listing shows another price. The hold is raised, or the machine is released."""
        found = [each for each in live if each.state is S.STARTING and not each.is_prepaid]
        if not found:
            return
        lease = self.random.choice(found)
        price = round(lease.observed.price * self.random.uniform(0.7, 1.5))

        def write(tx: MemoryTx) -> Lease:
            new = self._shown(tx, lease, price)
            spending.followed_price(tx, lease, new)
            now = leases.get(tx, lease.id)
            self._changed(tx, now)
            return now

        if self.unit(write).state is S.RELEASING:
            self._end(self.unit(lambda tx: leases.get(tx, lease.id)))

    def release(self, live: list[Lease]) -> None:
        """A caller releases something; what exists is proven gone now or later."""
        found = [each for each in live if each.state in RENTED or each.state is S.UNKNOWN]
        if not found:
            return
        lease = self.random.choice(found)
        self.unit(lambda tx: leases.advance(tx, lease, Release(Reason.RELEASED, tx.now())))
        if lease.instance_id is not None and self.random.random() < 0.7:
            self._end(lease)

    # -- the rule

    def _changed(self, tx: MemoryTx, lease: Lease) -> None:
        """Note what a lease costs from now on."""
        paid, now = self.paid[lease.id], tx.now()
        if lease.is_prepaid:
            if lease.instance_id is not None and not paid.payments:
                paid.payments.append((lease.created_at, lease.prepaid.paid))
            if lease.state in TERMINAL:
                paid.over_at = now
            return
        rate = meter_rate(lease)
        if paid.rates and paid.rates[-1][1] is None:
            if paid.rates[-1][2] == rate:
                return
            paid.rates[-1] = (paid.rates[-1][0], now, paid.rates[-1][2])
        if rate is not None:
            paid.rates.append((now, None, rate))
        elif lease.state in TERMINAL:
            paid.over_at = now

    def check(self) -> None:
        """Spent + held <= limit, for each limit; and now and then, that the database says the same."""
        holds = self.unit(lambda tx: limits.all_holds(tx, None))
        now = micros(self.now)
        self.checks += 1
        stored = None
        if self.checks % 10 == 0:
            stored = self.unit(lambda tx: limits.usages(tx, self.limits))
            if problems := self.unit(ledger_check.full if self.checks % 200 == 0 else ledger_check.quick):
                raise Broken(" ".join(problems))
        for number, limit in enumerate(self.limits):
            span = limit.window.span(now)
            since = moment(span.since)
            covered = [each for each in holds if limit.covers(each.project, each.key_id)]
            holding = sum(held(each, limit.window, span, now, self._past) for each in covered)
            spent = sum(
                each.between(since, self.now)
                for each in self.paid.values()
                if (each.over_at is None or each.over_at >= since) and limit.covers(each.project, each.key_id)
            )
            if spent + holding > limit.amount:
                raise Broken(f"{limit.text}: {spent} is spent and {holding} is held")
            self.fullest = max(self.fullest, (spent + holding) / limit.amount)
            if stored is not None:
                self._compare(stored[number], spent, holding)

    def _compare(self, stored: Usage, spent: int, holding: int) -> None:
        tolerance = 2 * (1 + len(self.paid))  # each cost is rounded
        if abs(stored.spent - spent) > tolerance:
            raise Broken(f"{stored.limit.text}: the database says {stored.spent} spent, and the story paid {spent}")
        if stored.held < holding - tolerance or stored.spent + stored.held > stored.limit.amount:
            raise Broken(f"{stored.limit.text}: the database says {stored.held} held, and the story {holding}")

    def _past(self, lease_id: str, since: int) -> int:
        return self.paid[LeaseId(lease_id)].between(moment(since), self.now)


def run(seed: int, operations: int) -> Story:
    """One story of so many operations. Raises Broken, with the seed, at the first commit that breaks the rule."""
    story = Story(seed)
    try:
        for number in range(operations):
            try:
                story.step()
            except Broken as broken:
                raise Broken(f"seed {seed}, operation {number}: {broken}") from None
    finally:
        story.close()
    return story
