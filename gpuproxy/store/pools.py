"""Warm pools, the changes of their states, and their incidents.

`advance` is the only way to change a pool's state; `save` stores everything else. Both append to the log of changes, so
that a watcher misses none. All functions are parts of a unit of work.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec

from gpuproxy.model import webhooks
from gpuproxy.model.errors import Conflict
from gpuproxy.model.leases import Lease, LeaseId, ReservationId
from gpuproxy.model.money import Micro
from gpuproxy.model.pools import (
    PHASES,
    FailoverTimes,
    Incident,
    Phase,
    Pool,
    PoolEvent,
    PoolId,
    PoolState,
    PoolView,
    Transition,
    after,
)
from gpuproxy.ports import Tx
from gpuproxy.store import leases, outbox
from gpuproxy.store.rows import micros, moment

_SHOWN_TRANSITIONS = 20
_SHOWN_FAILOVERS = 50
_WORK = "pools"


def topic(pool_id: PoolId) -> str:
    """What is announced when a pool has changed."""
    return f"pool:{pool_id}"


def work_topic() -> str:
    """What is announced when a pool begins to need a supervisor."""
    return _WORK


def insert(tx: Tx, pool: Pool) -> Pool:
    """Store a new pool. Raises Taken (table `pools`) if the project has one for this machine_id."""
    tx.execute(
        "INSERT INTO pools (id, project, machine_id, ledger, state, wanted, version, data) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (pool.id, pool.project, pool.machine_id, pool.ledger, pool.state.value, pool.wanted, pool.version, _text(pool)),
    )
    tx.changed(topic(pool.id))
    if is_at_work(pool):
        tx.changed(_WORK)
    return pool


def find(tx: Tx, pool_id: PoolId) -> Pool | None:
    """The pool with this id; None if there is none."""
    return _pool(tx.fetch_one("SELECT data FROM pools WHERE id = ?", (pool_id,)))


def get(tx: Tx, pool_id: PoolId) -> Pool:
    """The pool with this id; raises Conflict if there is none."""
    found = find(tx, pool_id)
    if found is None:
        raise Conflict(f"there is no pool {pool_id}")
    return found


def of_machine(tx: Tx, project: str, machine_id: int) -> Pool | None:
    """A project's pool for a machine_id; None if there is none."""
    return _pool(tx.fetch_one("SELECT data FROM pools WHERE project = ? AND machine_id = ?", (project, machine_id)))


def of_ledger(tx: Tx, reservation_id: ReservationId) -> Pool | None:
    """The pool whose leases belong to this reservation; None if it is no pool's."""
    return _pool(tx.fetch_one("SELECT data FROM pools WHERE ledger = ? AND ledger <> ''", (reservation_id,)))


def listed(tx: Tx, project: str, after_machine: int, limit: int) -> tuple[Pool, ...]:
    """At most `limit` pools of a project with a larger machine_id, by machine_id."""
    rows = tx.fetch(
        "SELECT data FROM pools WHERE project = ? AND machine_id > ? ORDER BY machine_id LIMIT ?",
        (project, after_machine, limit),
    )
    return tuple(_decoded(row) for row in rows)


def count(tx: Tx, project: str) -> int:
    """The number of a project's pools."""
    row = tx.fetch_one("SELECT count(*) AS n FROM pools WHERE project = ?", (project,))
    return 0 if row is None else int(row["n"])


def by_state(tx: Tx) -> Mapping[PoolState, int]:
    """The number of pools of all projects, by every state."""
    rows = tx.fetch("SELECT state, count(*) AS n FROM pools GROUP BY state")
    return dict.fromkeys(PoolState, 0) | {PoolState(str(row["state"])): int(row["n"]) for row in rows}


def at_work(tx: Tx) -> tuple[Pool, ...]:
    """The pools that are supervised or that are still to be ended, of all projects."""
    rows = tx.fetch("SELECT data FROM pools WHERE state <> 'disabled' OR wanted <> 'disabled' ORDER BY id")
    return tuple(_decoded(row) for row in rows)


def is_at_work(pool: Pool) -> bool:
    """Whether the pool is supervised or still to be ended."""
    return pool.state is not PoolState.DISABLED or pool.wanted != "disabled"


def any_sealed(tx: Tx) -> bool:
    """Whether a pool has encrypted secrets."""
    return any(_decoded(row).sealed for row in tx.fetch("SELECT data FROM pools"))


def save(tx: Tx, old: Pool, new: Pool) -> Pool:
    """Store a pool in the same state. Raises Conflict if it has changed since it was read."""
    if new.state is not old.state:
        raise Conflict(f"the state of pool {old.id} changes only by an event")
    if new == old:
        return old
    stored = _store(tx, old, new)
    outbox.of_pool(tx, webhooks.of_pool(old, stored, None), stored, stored.error)
    return stored


def looked(tx: Tx, pool: Pool, at: datetime, *, free: bool) -> Pool:
    """Store a look at the standby's GPUs. It is announced only if it shows something new."""
    new = replace(pool, looked_at=at, misses=0 if free else pool.misses + 1)
    is_news = pool.looked_at is None or new.misses != pool.misses
    return _store(tx, pool, replace(new, checked_at=at) if free else new, announced=is_news)


def advance(tx: Tx, old: Pool, event: PoolEvent, reason: str, new: Pool | None = None) -> Pool:
    """Apply an event, with the facts of `new`, and store why. Returns the pool after it.

    Raises Conflict if the pool has changed since it was read, and IllegalTransition. Neither changes anything.
    """
    state = after(old.state, event)
    stored = _store(tx, old, replace(new or old, state=state))
    tx.execute(
        "INSERT INTO pool_transitions (pool_id, seq, at, before, after, event, reason) "
        "SELECT ?, coalesce(max(seq), 0) + 1, ?, ?, ?, ?, ? FROM pool_transitions WHERE pool_id = ?",
        (old.id, micros(tx.now()), old.state.value, state.value, event.value, reason, old.id),
    )
    outbox.of_pool(tx, webhooks.of_pool(old, stored, event), stored, reason)
    return stored


def transitions(tx: Tx, pool_id: PoolId, since: int = 0, limit: int = _SHOWN_TRANSITIONS) -> tuple[Transition, ...]:
    """The newest transitions after the number `since`, oldest first."""
    rows = tx.fetch(
        "SELECT * FROM pool_transitions WHERE pool_id = ? AND seq > ? ORDER BY seq DESC LIMIT ?",
        (pool_id, since, limit),
    )
    return tuple(
        Transition(
            seq=row["seq"],
            at=moment(row["at"]),
            before=PoolState(row["before"]),
            after=PoolState(row["after"]),
            event=PoolEvent(row["event"]),
            reason=row["reason"],
        )
        for row in reversed(rows)
    )


def open_incident(tx: Tx, pool_id: PoolId) -> Incident | None:
    """The incident of a pool that has not ended; None if there is none."""
    return _incident(tx.fetch_one("SELECT data FROM pool_incidents WHERE pool_id = ? AND ended_at IS NULL", (pool_id,)))


def next_number(tx: Tx, pool_id: PoolId) -> int:
    """The number of a pool's next incident."""
    row = tx.fetch_one("SELECT max(number) AS n FROM pool_incidents WHERE pool_id = ?", (pool_id,))
    return 1 if row is None or row["n"] is None else int(row["n"]) + 1


def insert_incident(tx: Tx, incident: Incident) -> Incident:
    """Store a new incident. Raises Taken if its pool or its primary has an open one."""
    tx.execute(
        "INSERT INTO pool_incidents (pool_id, number, primary_id, ended_at, data) VALUES (?, ?, ?, NULL, ?)",
        (incident.pool_id, incident.number, incident.primary, _text(incident)),
    )
    outbox.of_incident(tx, webhooks.of_new_incident(incident), get(tx, incident.pool_id), incident)
    tx.changed(topic(incident.pool_id))
    return incident


def save_incident(tx: Tx, incident: Incident) -> Incident:
    """Store what has become of an incident."""
    row = tx.fetch_one(
        "SELECT data FROM pool_incidents WHERE pool_id = ? AND number = ?", (incident.pool_id, incident.number)
    )
    if (old := _incident(row)) is not None:
        pool = get(tx, incident.pool_id)
        told = webhooks.of_incident(old, incident, wanted=pool.wanted == "supervised")
        outbox.of_incident(tx, () if told is None else (told,), pool, incident)
    ended_at = None if incident.ended_at is None else micros(incident.ended_at)
    tx.execute(
        "UPDATE pool_incidents SET ended_at = ?, data = ? WHERE pool_id = ? AND number = ?",
        (ended_at, _text(incident), incident.pool_id, incident.number),
    )
    tx.changed(topic(incident.pool_id))
    return incident


def last_incident(tx: Tx, pool_id: PoolId) -> Incident | None:
    """The pool's newest incident; None if there is none."""
    return _incident(
        tx.fetch_one("SELECT data FROM pool_incidents WHERE pool_id = ? ORDER BY number DESC LIMIT 1", (pool_id,))
    )


def failovers(tx: Tx, pool_id: PoolId) -> tuple[FailoverTimes, ...]:
    """The newest failovers that ended with a promotion, oldest first."""
    rows = tx.fetch(
        "SELECT data FROM pool_incidents WHERE pool_id = ? AND ended_at IS NOT NULL ORDER BY number DESC LIMIT ?",
        (pool_id, _SHOWN_FAILOVERS),
    )
    found = [_incidents.decode(row["data"]) for row in reversed(rows)]
    return tuple(_times(each) for each in found if each.outcome == "promoted")


def machines(tx: Tx, pool: Pool) -> tuple[Lease, ...]:
    """The live leases of a pool, volumes included."""
    return leases.live_of_reservation(tx, pool.ledger)


def view(tx: Tx, pool: Pool) -> PoolView:
    """The pool with what it has now."""
    live = machines(tx, pool)

    def named(lease_id: LeaseId | None) -> Lease | None:
        return None if lease_id is None else leases.find(tx, lease_id)

    told = transitions(tx, pool.id)
    return PoolView(
        pool=pool,
        primary=named(pool.primary),
        standby=named(pool.standby),
        volume=named(pool.volume),
        retained=tuple(each for each in live if each.kind == "volume" and each.id != pool.volume),
        machines=live,
        cost=Micro(sum(leases.costs(tx, leases.of_reservation(tx, pool.ledger)))),
        transitions=told,
        seq=told[-1].seq if told else 0,
        incident=open_incident(tx, pool.id),
        failovers=failovers(tx, pool.id),
    )


def _times(incident: Incident) -> FailoverTimes:
    """The durations of a finished failover. Each phase begins where the one before ends, so no time is missing.

    A phase whose beginning or end is unknown is left out.
    """
    stages = (
        (incident.last_good_at, incident.began_at),
        (incident.began_at, incident.fenced_at),
        (incident.fenced_at, incident.running_at),
        (incident.running_at, incident.reachable_at),
        (incident.reachable_at, incident.ended_at),
    )
    phases: list[tuple[Phase, float]] = [
        (phase, max(0.0, (end - begin).total_seconds()))
        for phase, (begin, end) in zip(PHASES, stages, strict=True)
        if begin is not None and end is not None
    ]
    ended_at = incident.ended_at or incident.began_at
    total = (ended_at - incident.began_at).total_seconds()
    return FailoverTimes(at=ended_at, kind=incident.kind, total=total, phases=tuple(phases))


def _store(tx: Tx, old: Pool, new: Pool, *, announced: bool = True) -> Pool:
    new = replace(new, version=old.version + 1)
    rows = tx.execute(
        "UPDATE pools SET ledger = ?, state = ?, wanted = ?, version = ?, data = ? WHERE id = ? AND version = ?",
        (new.ledger, new.state.value, new.wanted, new.version, _text(new), old.id, old.version),
    )
    if rows == 0:
        raise Conflict(f"pool {old.id} changed since version {old.version}")
    if announced:
        tx.changed(topic(new.id))
    if is_at_work(new) and not is_at_work(old):
        tx.changed(_WORK)
    return new


_pools = msgspec.json.Decoder(Pool)
_incidents = msgspec.json.Decoder(Incident)


def _text(value: Pool | Incident) -> str:
    return msgspec.json.encode(value).decode()


def _decoded(row: Mapping[str, Any]) -> Pool:
    return _pools.decode(row["data"])


def _pool(row: Mapping[str, Any] | None) -> Pool | None:
    return None if row is None else _decoded(row)


def _incident(row: Mapping[str, Any] | None) -> Incident | None:
    return None if row is None else _incidents.decode(row["data"])
