"""Leases: the only way to change one is `advance` (an event of the table) or `note` (a fact that is no event).

Both write, in the caller's transaction, everything that follows from the change: the event, the meter, the hold on
the offer, the host's load, and the reservation's derived state. What the log says of it is logged after the commit.
"""

from collections.abc import Iterable
from dataclasses import fields, replace
from datetime import datetime
from typing import Any

from gpuproxy.model.errors import Conflict
from gpuproxy.model.leases import (
    LOCKS_KEYS,
    TERMINAL,
    InstanceId,
    Lease,
    LeaseEvent,
    LeaseId,
    ReservationId,
    after,
)
from gpuproxy.model.meter import meter_rate
from gpuproxy.model.money import Micro, accrued
from gpuproxy.model.offers import AccountKey, ProviderName
from gpuproxy.ports import Tx
from gpuproxy.store import counters, events, measured, reservations, settlements, story
from gpuproxy.store.rows import LIVE_SQL, columns, lease_from, micros, moment, stored

_COLUMNS = ", ".join(field.name for field in fields(Lease))
_SHOWN = ("price", "status_message", "ssh_host", "ssh_port", "ports")
"""Facts that watchers are told of although they are no events of the lease."""
_DUE = ("state", "expires_at", "destroy_at", "stop_at")
"""What decides when something is to be done about a lease."""


def due_topic(provider: ProviderName, account: str) -> str:
    """What changes with every time at which something is to be done on the account."""
    return f"due:{provider}:{account}"


def insert(tx: Tx, lease: Lease) -> None:
    """A new lease in `requested`, with its hold; IntegrityError of the database when the offer is held already."""
    row = columns(lease)
    tx.execute(
        f"INSERT INTO leases ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})",  # noqa: S608 - our own names
        list(row.values()),
    )
    _hold(tx, lease)
    tx.changed(due_topic(lease.provider, lease.account))
    counters.picked(tx, lease)
    events.of_lease(tx, lease, "requested", {"offer_id": lease.offer_id, "price": lease.price})


def exist(tx: Tx) -> bool:
    """Whether there ever was one: labels have been made with the deployment's key then."""
    return tx.fetch_one("SELECT 1 AS one FROM leases LIMIT 1") is not None


def get(tx: Tx, lease_id: LeaseId) -> Lease:
    """The lease as it stands; leases are never deleted."""
    row = tx.fetch_one(f"SELECT {_COLUMNS} FROM leases WHERE id = ?", (lease_id,))  # noqa: S608
    if row is None:
        raise Conflict(f"no lease {lease_id}")
    return lease_from(row)


def of_reservation(tx: Tx, reservation_id: ReservationId) -> tuple[Lease, ...]:
    """A reservation's leases in order of attempt."""
    rows = tx.fetch(
        f"SELECT {_COLUMNS} FROM leases WHERE reservation_id = ? ORDER BY attempt",  # noqa: S608
        (reservation_id,),
    )
    return tuple(lease_from(row) for row in rows)


def live(tx: Tx, provider: ProviderName, account: str) -> tuple[Lease, ...]:
    """Everything of an account that is not over yet."""
    rows = tx.fetch(
        f"SELECT {_COLUMNS} FROM leases WHERE provider = ? AND account = ? AND state IN {LIVE_SQL} "  # noqa: S608
        "ORDER BY created_at, id",
        (provider, account),
    )
    return tuple(lease_from(row) for row in rows)


def live_accounts(tx: Tx) -> frozenset[AccountKey]:
    """The accounts that still have something to look after."""
    rows = tx.fetch(f"SELECT DISTINCT provider, account FROM leases WHERE state IN {LIVE_SQL}")  # noqa: S608
    return frozenset((ProviderName(row["provider"]), row["account"]) for row in rows)


def last_event_at(tx: Tx) -> datetime | None:
    """When something last happened to any lease; None while nothing is live."""
    row = tx.fetch_one(
        f"SELECT at FROM events WHERE EXISTS (SELECT 1 FROM leases WHERE state IN {LIVE_SQL}) "  # noqa: S608
        "ORDER BY seq DESC LIMIT 1"
    )
    return None if row is None else moment(row["at"])


def live_of_project(tx: Tx, project: str | None) -> tuple[Lease, ...]:
    """Everything of a project (None: of all) that is not over yet; unknown ones first."""
    rows = tx.fetch(
        f"SELECT {_COLUMNS} FROM leases WHERE (? IS NULL OR project = ?) AND state IN {LIVE_SQL} "  # noqa: S608
        "ORDER BY state <> 'unknown', created_at, id",
        (project, project),
    )
    return tuple(lease_from(row) for row in rows)


def reachable(tx: Tx) -> tuple[Lease, ...]:
    """Machines that are ready and have an address, the one that got ready last first."""
    rows = tx.fetch(
        f"SELECT {_COLUMNS} FROM leases WHERE state IN {LIVE_SQL} AND state = 'active' AND ssh_port > 0 "  # noqa: S608
        "ORDER BY ready_at DESC, id LIMIT 10"
    )
    return tuple(lease_from(row) for row in rows)


def by_instance(tx: Tx, provider: ProviderName, instance_id: InstanceId) -> Lease | None:
    """The lease that a contract came of."""
    row = tx.fetch_one(
        f"SELECT {_COLUMNS} FROM leases WHERE provider = ? AND instance_id = ?",  # noqa: S608
        (provider, instance_id),
    )
    return None if row is None else lease_from(row)


def by_label(tx: Tx, label: str) -> Lease | None:
    """The lease that a label was made for, however long it is over."""
    row = tx.fetch_one(f"SELECT {_COLUMNS} FROM leases WHERE label = ?", (label,))  # noqa: S608
    return None if row is None else lease_from(row)


def locked_keys(tx: Tx) -> frozenset[tuple[ProviderName, str]]:
    """What our own leases keep others from renting."""
    return frozenset((ProviderName(row["provider"]), row["key"]) for row in tx.fetch("SELECT provider, key FROM holds"))


def count_unknown(tx: Tx, provider: ProviderName) -> int:
    """Creates at a provider that may have happened, those being released included."""
    row = tx.fetch_one(
        f"SELECT count(*) AS n FROM leases WHERE provider = ? AND state IN {LIVE_SQL} AND instance_id IS NULL "  # noqa: S608
        "AND (state = 'unknown' OR (state = 'releasing' AND call_started_at IS NOT NULL))",
        (provider,),
    )
    return 0 if row is None else int(row["n"])


def count_sent(tx: Tx, provider: ProviderName, since: datetime) -> int:
    """Creates sent, or about to be, since a moment."""
    row = tx.fetch_one(
        "SELECT count(*) AS n FROM leases WHERE provider = ? AND created_at >= ?", (provider, micros(since))
    )
    return 0 if row is None else int(row["n"])


def advance(tx: Tx, lease: Lease, event: LeaseEvent, **facts: Any) -> Lease:
    """The lease after `event`, with `facts` learnt on the way; Conflict when the row changed since it was read.

    An event that the table does not allow raises IllegalTransition and changes nothing.
    """
    state = after(lease.state, event)
    if state in TERMINAL:
        facts.setdefault("ended_at", tx.now())
    elif lease.state in TERMINAL:
        facts.setdefault("ended_at", None)
    return _save(tx, lease, replace(lease, state=state, **facts), event)


def note(tx: Tx, lease: Lease, **facts: Any) -> Lease:
    """The lease with facts that are no event: prices, addresses, the provider's words."""
    changed = replace(lease, **facts)
    return lease if changed == lease else _save(tx, lease, changed, None)


def cost(tx: Tx, lease_id: LeaseId) -> Micro:
    """What a lease has cost, in micro-dollars: what its meters ran up, and once it is settled what was charged."""
    return Micro(metered(tx, lease_id) + settlements.difference(tx, lease_id))


def metered(tx: Tx, lease_id: LeaseId) -> Micro:
    """What the meters of a lease stand at, in micro-dollars."""
    total = 0
    for row in tx.fetch("SELECT opened_at, closed_at, rate FROM meters WHERE lease_id = ?", (lease_id,)):
        ends = tx.now() if row["closed_at"] is None else moment(row["closed_at"])
        total += accrued(row["rate"], ends - moment(row["opened_at"]))
    return Micro(total)


def costs(tx: Tx, leases: Iterable[Lease]) -> tuple[Micro, ...]:
    """cost() of each."""
    return tuple(cost(tx, lease.id) for lease in leases)


def _save(tx: Tx, old: Lease, new: Lease, event: LeaseEvent | None) -> Lease:
    new = replace(new, version=old.version + 1)
    changes = {
        field.name: stored(getattr(new, field.name))
        for field in fields(Lease)
        if getattr(new, field.name) != getattr(old, field.name)
    }
    assignments = ", ".join(f"{name} = ?" for name in changes)
    rows = tx.execute(
        f"UPDATE leases SET {assignments} WHERE id = ? AND version = ?",  # noqa: S608 - our own column names
        [*changes.values(), old.id, old.version],
    )
    if rows == 0:
        raise Conflict(f"lease {old.id} changed since version {old.version}")
    _follow(tx, old, new)
    if event is not None:
        measured.observe(tx, old, event, new.reason)
        told = {"reason": new.reason, "instance_id": new.instance_id, "price": new.price}
        events.of_lease(tx, new, event.value, told)
        reservation = reservations.refresh(tx, new.reservation_id, of_reservation(tx, new.reservation_id))
        if (line := story.of_event(old, new, event, reservation, lambda: cost(tx, new.id))) is not None:
            tx.after_commit(line)
    elif any(getattr(new, name) != getattr(old, name) for name in _SHOWN):
        events.of_reservation(tx, reservations.get(tx, new.reservation_id))
    tx.changed(f"reservation:{new.reservation_id}")
    if any(getattr(new, name) != getattr(old, name) for name in _DUE):
        tx.changed(due_topic(new.provider, new.account))
    return new


def _follow(tx: Tx, old: Lease, new: Lease) -> None:
    """Meter, hold and load, which all follow from the lease."""
    if (rate := meter_rate(new)) != meter_rate(old):
        now = micros(tx.now())
        tx.execute("UPDATE meters SET closed_at = ? WHERE lease_id = ? AND closed_at IS NULL", (now, new.id))
        if rate is not None:
            tx.execute("INSERT INTO meters (lease_id, opened_at, rate) VALUES (?, ?, ?)", (new.id, now, rate))
    if (new.state in LOCKS_KEYS) != (old.state in LOCKS_KEYS):
        tx.execute("DELETE FROM holds WHERE lease_id = ?", (new.id,))
        if new.state in LOCKS_KEYS:
            _hold_again(tx, new)
    counters.follow(tx, old, new)


def _hold(tx: Tx, lease: Lease) -> None:
    for key in lease.conflict_keys:
        tx.execute("INSERT INTO holds (provider, key, lease_id) VALUES (?, ?, ?)", (lease.provider, key, lease.id))


def _hold_again(tx: Tx, lease: Lease) -> None:
    """A parked machine woke up: the provider gave it GPUs, whatever our books thought of them."""
    for key in lease.conflict_keys:
        tx.execute(
            "INSERT OR IGNORE INTO holds (provider, key, lease_id) VALUES (?, ?, ?)", (lease.provider, key, lease.id)
        )
