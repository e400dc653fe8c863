"""Leases. The only ways to change one are `advance` (an event of the state table) and `note` (other facts).

Both also write everything that follows from the change, in the caller's transaction: the event, the meter or the
booking, the money that is held, the exclusive keys, the host's load and the reservation's state. The log line is
written after the commit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from gpuproxy.model import webhooks
from gpuproxy.model.errors import Conflict
from gpuproxy.model.lease_events import Event, apply
from gpuproxy.model.lease_facts import Fact
from gpuproxy.model.leases import InstanceId, Lease, LeaseEvent, LeaseId, LeaseKind, ReservationId, locks_keys
from gpuproxy.model.meter import meter_rate
from gpuproxy.model.money import Micro, accrued
from gpuproxy.model.offers import AccountKey, ProviderName
from gpuproxy.ports import Tx
from gpuproxy.store import (
    bookings,
    counters,
    events,
    forgotten,
    limits,
    measured,
    meters,
    money_log,
    outbox,
    reservations,
    settlements,
)
from gpuproxy.store.rows import LEASE_COLUMNS, LIVE_SQL, lease_changes, lease_columns, lease_from, micros, moment

_SHOWN = frozenset({
    "price", "status_message", "ssh_host", "ssh_port", "ssh_user", "ports", "boot", "contract_warned_at",
    "ending_soon_at", "idle_since",
    "booked_until", "paid",
    "extend_refusal",
})  # fmt: skip
"""Columns whose change notifies watchers, although it isn't an event of the lease."""
_DUE = frozenset({
    "state", "expires_at", "ending_soon_at", "destroy_at", "stop_at", "booked_until", "booking_read_at", "extend_at",
})  # fmt: skip
"""Columns that determine when the next step of a lease is due."""

_ALL = f"SELECT {LEASE_COLUMNS} FROM leases WHERE reservation_id = ? ORDER BY attempt"  # noqa: S608
_ONE = f"SELECT {LEASE_COLUMNS} FROM leases WHERE id = ?"  # noqa: S608 - our own column names


def due_topic(provider: ProviderName, account: str) -> str:
    """The topic that is notified when the due times of an account's leases change."""
    return f"due:{provider}:{account}"


def insert(tx: Tx, lease: Lease) -> None:
    """Insert a new lease in state `requested` with its exclusive keys.

    Raises Taken (table `holds`) if another live lease has one of the keys.
    """
    row = lease_columns(lease)
    tx.write(
        f"INSERT INTO leases ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})",  # noqa: S608 - our own names
        list(row.values()),
    )
    _hold(tx, lease)
    limits.insert(tx, lease)
    bookings.intend_create(tx, lease)
    tx.changed(due_topic(lease.provider, lease.account))
    counters.picked(tx, lease)
    events.of_lease(tx, lease, "requested", {"offer_id": lease.offered.offer_id, "price": lease.observed.price})


def exist(tx: Tx) -> bool:
    """True if a lease was ever created; then labels have been signed with the deployment's key."""
    return tx.fetch_one("SELECT 1 AS one FROM leases LIMIT 1") is not None or forgotten.any_lease(tx)


def find(tx: Tx, lease_id: LeaseId) -> Lease | None:
    """The current lease; None if there is none. `history` deletes leases that ended long ago."""
    row = tx.fetch_one(_ONE, (lease_id,))
    return None if row is None else lease_from(row)


def ahead(tx: Tx, lease_id: LeaseId) -> None:
    """Say that the lease will be read."""
    tx.ahead(_ONE, (lease_id,))


def event_ahead(tx: Tx, lease: Lease) -> None:
    """Say that the lease will be read, and an event of it stored. What both need is then read at once."""
    ahead(tx, lease.id)
    reservations.ahead(tx, lease.reservation_id)
    meters.ahead(tx, lease.id)
    limits.ahead(tx, lease.id)


def get(tx: Tx, lease_id: LeaseId) -> Lease:
    """The current lease; raises Conflict for an unknown id."""
    found = find(tx, lease_id)
    if found is None:
        raise Conflict(f"there is no lease {lease_id}")
    return found


def of_reservation(tx: Tx, reservation_id: ReservationId) -> tuple[Lease, ...]:
    """A reservation's leases, by attempt."""
    all_ahead(tx, reservation_id)
    return tuple(lease_from(row) for row in tx.fetch(_ALL, (reservation_id,)))


def all_ahead(tx: Tx, reservation_id: ReservationId) -> None:
    """Say that the leases of a reservation will be read."""
    tx.ahead(_ALL, (reservation_id,))


def live_of_reservation(tx: Tx, reservation_id: ReservationId) -> tuple[Lease, ...]:
    """A reservation's live leases, by attempt."""
    rows = tx.fetch(
        f"SELECT {LEASE_COLUMNS} FROM leases WHERE reservation_id = ? AND state IN {LIVE_SQL} "  # noqa: S608
        "ORDER BY attempt",
        (reservation_id,),
    )
    return tuple(lease_from(row) for row in rows)


def live(tx: Tx, provider: ProviderName, account: str, kind: LeaseKind = "machine") -> tuple[Lease, ...]:
    """The live leases of an account's machines, or of its volumes."""
    rows = tx.fetch(
        f"SELECT {LEASE_COLUMNS} FROM leases WHERE provider = ? AND account = ? AND state IN {LIVE_SQL} "  # noqa: S608
        "AND kind = ? ORDER BY created_at, id",
        (provider, account, kind),
    )
    return tuple(lease_from(row) for row in rows)


def live_accounts(tx: Tx) -> frozenset[AccountKey]:
    """The accounts with live leases."""
    rows = tx.fetch(f"SELECT DISTINCT provider, account FROM leases WHERE state IN {LIVE_SQL}")  # noqa: S608
    return frozenset((ProviderName(row["provider"]), row["account"]) for row in rows)


def last_event_at(tx: Tx) -> datetime | None:
    """The last time that is known: of an event of a lease, or up to which costs are posted. None if no lease is live.

    Costs are posted every hour. A time before that would make money that was spent look as if it was not.
    """
    if tx.fetch_one(f"SELECT 1 AS one FROM leases WHERE state IN {LIVE_SQL} LIMIT 1") is None:  # noqa: S608
        return None
    event = tx.fetch_one("SELECT at FROM events ORDER BY seq DESC LIMIT 1")
    posted = tx.fetch_one("SELECT max(posted_until) AS at FROM meters WHERE closed_at IS NULL")
    known = [row["at"] for row in (event, posted) if row is not None and row["at"] is not None]
    return moment(max(known)) if known else None


def live_of_project(tx: Tx, project: str | None) -> tuple[Lease, ...]:
    """The live leases of a project, or of all projects for None; unknown ones first."""
    rows = tx.fetch(
        f"SELECT {LEASE_COLUMNS} FROM leases WHERE (? IS NULL OR project = ?) AND state IN {LIVE_SQL} "  # noqa: S608
        "ORDER BY state <> 'unknown', created_at, id",
        (project, project),
    )
    return tuple(lease_from(row) for row in rows)


def reachable(tx: Tx) -> tuple[Lease, ...]:
    """Up to ten ready machines whose SSH has answered; the one that became ready last comes first."""
    rows = tx.fetch(
        f"SELECT {LEASE_COLUMNS} FROM leases WHERE state IN {LIVE_SQL} AND state = 'active' AND ssh_port > 0 "  # noqa: S608
        "AND ready_evidence NOT LIKE 'port%' ORDER BY ready_at DESC, id LIMIT 10"
    )
    return tuple(lease_from(row) for row in rows)


def by_instance(tx: Tx, provider: ProviderName, instance_id: InstanceId) -> Lease | None:
    """The lease of a contract id; None if there is none."""
    row = tx.fetch_one(
        f"SELECT {LEASE_COLUMNS} FROM leases WHERE provider = ? AND instance_id = ?",  # noqa: S608
        (provider, instance_id),
    )
    return None if row is None else lease_from(row)


def by_label(tx: Tx, label: str) -> Lease | None:
    """The lease of a label, also one that ended long ago or was deleted since; None if there is none."""
    row = tx.fetch_one(f"SELECT {LEASE_COLUMNS} FROM leases WHERE label = ?", (label,))  # noqa: S608
    return forgotten.by_label(tx, label) if row is None else lease_from(row)


def locked_keys(tx: Tx) -> frozenset[tuple[ProviderName, str]]:
    """The exclusive keys of all live leases, with their providers."""
    return frozenset((ProviderName(row["provider"]), row["key"]) for row in tx.fetch("SELECT provider, key FROM holds"))


def count_unknown(tx: Tx, account: AccountKey) -> int:
    """The number of an account's creates with an unknown outcome, including those being released."""
    row = tx.fetch_one(
        f"SELECT count(*) AS n FROM leases WHERE provider = ? AND account = ? AND state IN {LIVE_SQL} "  # noqa: S608
        "AND instance_id IS NULL AND (state = 'unknown' OR (state = 'releasing' AND call_started_at IS NOT NULL))",
        account,
    )
    return 0 if row is None else int(row["n"])


def count_sent(tx: Tx, provider: ProviderName, since: datetime) -> int:
    """The number of creates at a provider since a time, including those about to be sent."""
    row = tx.fetch_one(
        "SELECT count(*) AS n FROM leases WHERE provider = ? AND created_at >= ?", (provider, micros(since))
    )
    return 0 if row is None else int(row["n"])


def advance(tx: Tx, lease: Lease, event: Event) -> Lease:
    """Apply an event; returns the new lease.

    Raises Conflict if the row has changed since it was read, and IllegalTransition if the state table doesn't allow
    the event. Neither changes anything.
    """
    return _save(tx, lease, apply(lease, event, tx.now()), event.kind)


def note(tx: Tx, lease: Lease, fact: Fact) -> Lease:
    """Store a fact that is no event, such as what a listing shows; returns the new lease. Raises Conflict."""
    changed = fact.change(lease)
    return lease if changed == lease else _save(tx, lease, changed, None)


def cost(tx: Tx, lease_id: LeaseId) -> Micro:
    """The cost of a lease in micro-dollars as recorded, corrected by the provider's charge once that is known."""
    return Micro(recorded(tx, lease_id) + settlements.difference(tx, lease_id))


def recorded(tx: Tx, lease_id: LeaseId) -> Micro:
    """The total of a lease's meters or of its bookings less refunds, in micro-dollars."""
    return Micro(metered(tx, lease_id) + bookings.total(tx, lease_id))


def metered(tx: Tx, lease_id: LeaseId) -> Micro:
    """The total of a lease's meters, in micro-dollars."""
    rows = tx.fetch("SELECT opened_at, closed_at, rate FROM meters WHERE lease_id = ?", (lease_id,))
    return Micro(sum(_metered(tx, row) for row in rows))


def _metered(tx: Tx, meter: Mapping[str, Any]) -> Micro:
    """The total of one meter so far, in micro-dollars."""
    ends = tx.now() if meter["closed_at"] is None else moment(meter["closed_at"])
    return accrued(meter["rate"], ends - moment(meter["opened_at"]))


def costs(tx: Tx, leases: Sequence[Lease]) -> tuple[Micro, ...]:
    """The cost of each lease, in micro-dollars."""
    ids = [lease.id for lease in leases]
    totals = dict.fromkeys(ids, 0)
    if not ids:
        return ()
    among = f"lease_id IN ({', '.join('?' * len(ids))})"
    ran = f"SELECT lease_id, opened_at, closed_at, rate FROM meters WHERE {among}"  # noqa: S608 - marks only
    sums = [
        f"SELECT lease_id, sum(amount) AS total FROM {table} WHERE {among}{condition} GROUP BY lease_id"  # noqa: S608
        for table, condition in (("bookings", " AND state = 'confirmed'"), ("settlements", ""))
    ]
    for query in (ran, *sums):
        tx.ahead(query, ids)
    for row in tx.fetch(ran, ids):
        totals[row["lease_id"]] += _metered(tx, row)
    for query in sums:
        for row in tx.fetch(query, ids):
            totals[row["lease_id"]] += int(row["total"])
    return tuple(Micro(totals[lease_id]) for lease_id in ids)


def _save(tx: Tx, old: Lease, new: Lease, event: LeaseEvent | None) -> Lease:
    new = replace(new, version=old.version + 1)
    changes = lease_changes(old, new)
    assignments = ", ".join(f"{name} = ?" for name in changes)
    tx.write(
        f"UPDATE leases SET {assignments} WHERE id = ? AND version = ?",  # noqa: S608 - our own column names
        [*changes.values(), old.id, old.version],
        otherwise=Conflict(f"lease {old.id} changed since version {old.version}"),
    )
    _follow(tx, old, new, event)
    if (told := webhooks.of_lease(old, new, event)) is not None:
        outbox.of_lease(tx, told, new, reservations.get(tx, new.reservation_id))
    if event is not None:
        measured.observe(tx, old, event, new.reason)
        data = {"reason": new.reason, "instance_id": new.instance_id, "price": new.observed.price}
        events.of_lease(tx, new, event.value, data)
        reservation = reservations.refresh(tx, new.reservation_id, lambda: of_reservation(tx, new.reservation_id))
        if (line := money_log.of_event(old, new, event, reservation, lambda: cost(tx, new.id))) is not None:
            tx.after_commit(line)
    elif _SHOWN & changes.keys():
        events.of_reservation(tx, reservations.get(tx, new.reservation_id))
    tx.changed(f"reservation:{new.reservation_id}")
    if _DUE & changes.keys():
        tx.changed(due_topic(new.provider, new.account))
    return new


def _follow(tx: Tx, old: Lease, new: Lease, event: LeaseEvent | None) -> None:
    """Update the meter or the booking, the exclusive keys and the host's load after a change of the lease."""
    if meter_rate(new) != meter_rate(old):
        meters.change(tx, new, again=event is LeaseEvent.REAPPEARED)
    if locks_keys(new) != locks_keys(old):
        tx.write("DELETE FROM holds WHERE lease_id = ?", (new.id,))
        if locks_keys(new):
            _hold_again(tx, new)
    counters.follow(tx, old, new)
    bookings.follow(tx, old, new, event)
    limits.follow(tx, old, new)


def _hold(tx: Tx, lease: Lease) -> None:
    for key in lease.offered.conflict_keys:
        tx.write("INSERT INTO holds (provider, key, lease_id) VALUES (?, ?, ?)", (lease.provider, key, lease.id))


def _hold_again(tx: Tx, lease: Lease) -> None:
    """Take the exclusive keys of a woken machine, if they are free: the provider has given it the GPUs in any case."""
    for key in lease.offered.conflict_keys:
        tx.write(
            "INSERT INTO holds (provider, key, lease_id) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (lease.provider, key, lease.id),
        )
