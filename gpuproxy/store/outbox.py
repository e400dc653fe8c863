"""The outbox: events that wait for webhooks, and the log of their deliveries.

`tell` is called in the transaction of the fact, so an event exists if and only if its fact does. The sender reads the
outbox later. Events of a target are sent in the order of their commits: the first pending one is tried until it is
delivered or given up. Without targets nothing is written.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from gpuproxy.model import webhooks
from gpuproxy.model.leases import Lease
from gpuproxy.model.limits import Usage
from gpuproxy.model.offers import AccountKey
from gpuproxy.model.pools import Incident, Pool
from gpuproxy.model.reasons import Reason
from gpuproxy.model.reservations import Reservation
from gpuproxy.model.webhooks import Data, Delivery, EventType, Standing, Target
from gpuproxy.ports import Tx
from gpuproxy.store.rows import micros, moment

TOPIC = "webhooks"
"""What is announced when there is something to send."""
_INSERT = (
    "INSERT INTO webhook_outbox (target, seq, event_id, type, project, at, data, state, tries, status, error) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, 'pending', 0, 0, '')"
)


def use_targets(tx: Tx, targets: Sequence[Target]) -> None:
    """Make the targets of the settings those of the database. What waits for a removed one is given up."""
    tx.write("DELETE FROM webhook_targets")
    for each in targets:
        events = json.dumps(sorted(each.events))
        tx.write(
            "INSERT INTO webhook_targets (name, events, project) VALUES (?, ?, ?)", (each.name, events, each.project)
        )
    tx.write(
        "UPDATE webhook_outbox SET state = 'gave_up', error = 'the target was removed' "
        "WHERE state = 'pending' AND target NOT IN (SELECT name FROM webhook_targets)"
    )


# -- what is told


def of_lease(tx: Tx, kind: EventType, lease: Lease, reservation: Reservation) -> None:
    """Tell of a machine, unless it is a pool's."""
    if reservation.kind != "pool":
        tell(tx, kind, lease.project, webhooks.lease_data(lease))


def of_ended(tx: Tx, reservation: Reservation, leases: Sequence[Lease]) -> None:
    """Tell that nothing of a reservation is left, if there was, or may have been, a machine."""
    if reservation.kind != "pool" and webhooks.had_machine(leases):
        tell(tx, EventType.ENDED, reservation.project, webhooks.reservation_data(reservation, leases))


def of_pool(tx: Tx, kinds: Collection[EventType], pool: Pool, why: str) -> None:
    """Tell of a pool."""
    for kind in kinds:
        tell(tx, kind, pool.project, webhooks.pool_data(pool, why))


def of_incident(tx: Tx, kinds: Collection[EventType], pool: Pool, incident: Incident) -> None:
    """Tell of a failover."""
    for kind in kinds:
        tell(tx, kind, pool.project, webhooks.incident_data(pool, incident))


def of_limit(tx: Tx, kind: EventType, usage: Usage) -> None:
    """Tell of a spending limit. One of all projects is of no project."""
    limit = usage.limit
    project = limit.subject if limit.scope == "project" else ""
    if limit.scope == "key":
        row = tx.fetch_one("SELECT project FROM api_keys WHERE id = ?", (limit.subject,))
        project = "" if row is None else row["project"]
    tell(tx, kind, project, webhooks.limit_data(usage))


def of_ended_by_limit(tx: Tx, usage: Usage, lease: Lease, *, stops: bool) -> None:
    """Tell that the policy of a limit ends a machine. `stops`: False if the machine is released."""
    tell(tx, EventType.LIMIT_REACHED, lease.project, webhooks.ended_by_limit_data(usage, lease, stops=stops))


def of_account(tx: Tx, kind: EventType, account: AccountKey, reason: Reason) -> None:
    """Tell of a marketplace account. It is of no project."""
    tell(tx, kind, "", {"provider": account[0], "account": account[1], "reason": reason.value})


def tell(tx: Tx, kind: EventType, project: str, data: Data) -> None:
    """Write an event for each target that wants it, in the transaction of its fact."""
    wanting = [
        row["name"]
        for row in tx.fetch("SELECT name, events, project FROM webhook_targets ORDER BY name")
        if kind in json.loads(row["events"]) and row["project"] in ("", project)
    ]
    if not wanting:
        return
    tx.write("UPDATE webhook_sequence SET last = last + 1")
    row = tx.fetch_one("SELECT last FROM webhook_sequence")
    seq, now = 0 if row is None else int(row["last"]), tx.now()
    shown = {name: value for name, value in data.items() if value != ""}
    event_id = webhooks.event_id(seq, now, kind, project, shown)
    for name in wanting:
        _append(tx, (name, seq, event_id, kind.value, project, micros(now), json.dumps(shown)))


def _append(tx: Tx, values: tuple[str | int, ...]) -> None:
    tx.write(_INSERT, values)
    tx.changed(TOPIC)


# -- sending


def head(tx: Tx, target: str) -> Delivery | None:
    """The first event that waits for a target; None if none does."""
    row = tx.fetch_one(
        "SELECT * FROM webhook_outbox WHERE target = ? AND state = 'pending' ORDER BY seq LIMIT 1", (target,)
    )
    return None if row is None else _delivery(row)


def trying(tx: Tx, event: Delivery, next_at: datetime) -> Delivery:
    """Count a try before it is sent. If nobody records what comes of it, the next one is due at `next_at`."""
    tx.write(
        "UPDATE webhook_outbox SET tries = tries + 1, tried_at = ?, next_at = ? WHERE target = ? AND seq = ?",
        (micros(tx.now()), micros(next_at), event.target, event.seq),
    )
    found = find(tx, event.target, event.seq)
    return event if found is None else found


def find(tx: Tx, target: str, seq: int) -> Delivery | None:
    """One event of a target; None if there is none."""
    row = tx.fetch_one("SELECT * FROM webhook_outbox WHERE target = ? AND seq = ?", (target, seq))
    return None if row is None else _delivery(row)


def delivered(tx: Tx, event: Delivery, status: int) -> None:
    """Record that the target has taken the event."""
    _record(tx, event, "delivered", status, "")


def failed(tx: Tx, event: Delivery, status: int, error: str, next_at: datetime) -> None:
    """Record that a try failed. Nothing is changed if another process has tried since."""
    _record(tx, event, "pending", status, error)
    tx.write(
        "UPDATE webhook_outbox SET next_at = ? WHERE target = ? AND seq = ? AND tries = ?",
        (micros(next_at), event.target, event.seq, event.tries),
    )


def give_up(tx: Tx, event: Delivery) -> None:
    """Send it no more. The last error stays."""
    _record(tx, event, "gave_up", event.status, event.error or "it is too old")


def prune(tx: Tx, before: datetime) -> int:
    """Delete what was told before a time and waits no more. Returns how many."""
    return tx.execute("DELETE FROM webhook_outbox WHERE at < ? AND state <> 'pending'", (micros(before),))


def listed(tx: Tx, target: str, limit: int) -> tuple[Delivery, ...]:
    """The newest deliveries, newest first; `target`: only of this one, "" of all."""
    rows = tx.fetch(
        "SELECT * FROM webhook_outbox WHERE ? IN ('', target) ORDER BY seq DESC, target LIMIT ?", (target, limit)
    )
    return tuple(_delivery(row) for row in rows)


def standings(tx: Tx) -> tuple[Standing, ...]:
    """How the deliveries to each target go, by name."""
    waiting = {
        row["target"]: (row["events"], row["first"])
        for row in tx.fetch(
            "SELECT target, COUNT(*) AS events, MIN(seq) AS first FROM webhook_outbox WHERE state = 'pending' "
            "GROUP BY target"
        )
    }
    found = []
    for row in tx.fetch("SELECT name FROM webhook_targets ORDER BY name"):
        number, first = waiting.get(row["name"], (0, 0))
        oldest = find(tx, row["name"], first) if number else None
        if oldest is None:
            found.append(Standing(target=row["name"]))
        else:
            found.append(
                Standing(
                    target=row["name"], waiting=number, oldest_at=oldest.at, tries=oldest.tries, error=oldest.error
                )
            )
    return tuple(found)


def ended(tx: Tx) -> Mapping[tuple[str, str], int]:
    """The number of logged events that wait no more, by target and state (`delivered`, `gave_up`)."""
    rows = tx.fetch(
        "SELECT target, state, COUNT(*) AS events FROM webhook_outbox WHERE state <> 'pending' GROUP BY target, state"
    )
    return {(row["target"], row["state"]): row["events"] for row in rows}


def _record(tx: Tx, event: Delivery, state: str, status: int, error: str) -> None:
    tx.write(
        "UPDATE webhook_outbox SET state = ?, status = ?, error = ? "
        "WHERE target = ? AND seq = ? AND tries = ? AND state = 'pending'",
        (state, status, error, event.target, event.seq, event.tries),
    )


def _delivery(row: Mapping[str, Any]) -> Delivery:
    return Delivery(
        target=row["target"],
        seq=row["seq"],
        event_id=row["event_id"],
        type=EventType(row["type"]),
        project=row["project"],
        at=moment(row["at"]),
        data=json.loads(row["data"]),
        state=row["state"],
        tries=row["tries"],
        next_at=None if row["next_at"] is None else moment(row["next_at"]),
        tried_at=None if row["tried_at"] is None else moment(row["tried_at"]),
        status=row["status"],
        error=row["error"],
    )
