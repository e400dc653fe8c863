"""Watching a reservation: every change once and in order, from a snapshot or from where an earlier watch ended.

Changes are built from stored events. So no change is lost, however fast they follow each other, and a restart of the
server does not matter. The token of a change is the sequence number of its event.
"""

from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace
from functools import partial

from gpuproxy.model.errors import InvalidArgument, Violation
from gpuproxy.model.leases import LIVE, Lease, LeaseId, ReservationId
from gpuproxy.model.reservations import Reservation, ReservationState, ReservationView, derived_state
from gpuproxy.outcomes.view import view, with_message
from gpuproxy.ports import Database, Tx
from gpuproxy.store import events
from gpuproxy.store.events import EventRecord, LeaseRecord, ReservationRecord

Change = tuple[str, ReservationView]
"""The token to resume with, and the reservation after the change."""
_OVER = frozenset({ReservationState.RELEASED, ReservationState.FAILED})
_LONGEST_TOKEN = 18


async def watch(db: Database, reservation_id: ReservationId, resume_token: str) -> AsyncGenerator[Change, None]:
    """A snapshot or, with a token, the changes after it; then every further change. Ends when the reservation is over.

    A token that is newer than all events gives a snapshot: the database was restored from a backup. Raises
    InvalidArgument for an invalid token.
    """
    seen = _sequence(resume_token)
    async with db.watch(f"reservation:{reservation_id}") as wakeups:
        if not resume_token or seen > await db.read(lambda tx: events.newest(tx, reservation_id)):
            seen, now = await db.read(lambda tx: (events.newest(tx, reservation_id), view(tx, reservation_id)))
            yield str(seen), now
        while True:
            changes, over = await db.read(partial(_since, reservation_id, seen))
            for seq, shown in changes:
                yield str(seq), shown
                seen = seq
            if over:
                return
            await wakeups.wait()


def _sequence(token: str) -> int:
    if token and not (token.isascii() and token.isdecimal() and len(token) <= _LONGEST_TOKEN):
        raise InvalidArgument([Violation("resume_token", "is not a token of this server")])
    return int(token or 0)


def _since(reservation_id: ReservationId, after: int, tx: Tx) -> tuple[list[tuple[int, ReservationView]], bool]:
    """The reservation after each event since `after`, and whether it is over."""
    now = view(tx, reservation_id)
    over = now.reservation.state in _OVER and not any(lease.state in LIVE for lease in now.leases)
    if events.newest(tx, reservation_id) <= after:
        return [], over
    shown = _replayed(now, events.history(tx, reservation_id))
    return [(seq, as_of) for seq, as_of in shown if seq > after], over


def _replayed(now: ReservationView, history: Sequence[EventRecord]) -> Iterator[tuple[int, ReservationView]]:
    last = {record.lease_id: record.seq for record in history if isinstance(record, LeaseRecord)}
    leases: dict[LeaseId, LeaseRecord] = {}
    own: ReservationRecord | None = None
    for record in history:
        if isinstance(record, LeaseRecord):
            leases[record.lease_id] = record
        else:
            own = record
        rows = tuple(
            lease if last[lease.id] == leases[lease.id].seq else _lease_as_of(lease, leases[lease.id])
            for lease in now.leases
            if lease.id in leases
        )
        costs = tuple(cost for lease, cost in zip(now.leases, now.costs, strict=True) if lease.id in leases)
        reservation = _as_of(now.reservation, own)
        reservation = with_message(replace(reservation, state=derived_state(reservation, rows)), rows)
        yield record.seq, ReservationView(reservation=reservation, leases=rows, costs=costs, at=now.at)


def _lease_as_of(lease: Lease, record: LeaseRecord) -> Lease:
    ready_at = lease.observed.ready_at
    observed = replace(lease.observed, ready_at=None if ready_at is not None and ready_at > record.at else ready_at)
    return replace(
        lease,
        state=record.state,
        reason=record.reason,
        instance_id=record.instance_id,
        observed=observed,
        ended_at=None,
    )


def _as_of(reservation: Reservation, record: ReservationRecord | None) -> Reservation:
    if record is None:
        return reservation
    return replace(
        reservation,
        settled_at=reservation.settled_at if record.settled else None,
        closing=record.closing,
        expires_at=record.expires_at,
        failure=reservation.failure if record.settled else None,
        message=reservation.message if record.settled else "",
    )
