"""Moving the end of a reservation.

Where machines end themselves, the end is in their labels: the new end is stored as an intent, written to every label,
read back there, and only then it counts. If a label can't be written or read back, the old end stands, and the call can
be repeated. The reconciler then writes the old end again. So no machine ends itself before the end in the database.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from gpuproxy.model import contracts, labelling, lease_ends, self_ending
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import (
    FailedPrecondition,
    InvalidArgument,
    ProviderError,
    ProviderUnavailable,
    Unavailable,
    Violation,
)
from gpuproxy.model.labels import Signer
from gpuproxy.model.lease_facts import Extended, NewEnd
from gpuproxy.model.leases import LIVE, RENTED, UNRESOLVED, InstanceId, Lease, ReservationId
from gpuproxy.model.reasons import Reason
from gpuproxy.model.reservations import Reservation, ReservationView
from gpuproxy.outcomes import spending
from gpuproxy.outcomes.pool_owned import require_no_pool
from gpuproxy.outcomes.view import view
from gpuproxy.ports import Clock, Database, Provider, Tx
from gpuproxy.reservations.own import own
from gpuproxy.runtime.accounts import Accounts
from gpuproxy.runtime.background import Background
from gpuproxy.store import audit, leases, reservations

log = structlog.get_logger(__name__)

_PATIENCE = timedelta(minutes=5)
"""How long an end may be under way. After that the reconciler writes the old one again."""
_RETRY_AFTER = 10.0
_FEW = 3
"""So many machines of an account are read one by one; more are read with one listing."""


@dataclass(frozen=True, slots=True)
class _Change:
    """A new end that is being written to the labels of these machines."""

    caller: Caller
    reservation_id: ReservationId
    end: datetime
    machines: tuple[Lease, ...]


class Extender:
    """Moves the ends of reservations. A change that has begun runs to its end even if its caller leaves."""

    def __init__(self, accounts: Accounts, signer: Signer, db: Database, clock: Clock) -> None:
        self._accounts = accounts
        self._signer = signer
        self._db = db
        self._clock = clock
        self._changes = Background("extension")

    async def drain(self, seconds: float) -> None:
        """Wait for changes that have begun, for at most `seconds` real seconds."""
        await self._changes.drain(seconds)

    async def close(self) -> None:
        """Cancel what is still running. The database has what is left to do."""
        await self._changes.close()

    async def extend(self, caller: Caller, reservation_id: str, end: datetime) -> ReservationView:
        """Move the end to `end`, which must not be earlier than the present end. It destroys the machines.

        Raises NotFound, InvalidArgument, FailedPrecondition (RESERVATION_OVER, IN_WARM_POOL, BUDGET_EXCEEDED), and
        Unavailable if a machine's label does not show the new end: then the old end stands.
        """
        patience = _PATIENCE * self._clock.scale
        begun = await self._db.write(lambda tx: _begin(tx, caller, reservation_id, end, patience))
        if isinstance(begun, ReservationView):
            return begun
        return await asyncio.shield(self._changes.start(self._labelled(begun), begun.reservation_id))

    async def _labelled(self, change: _Change) -> ReservationView:
        accounts = sorted({(lease.provider, lease.account) for lease in change.machines})
        of = {key: [each for each in change.machines if (each.provider, each.account) == key] for key in accounts}
        results = await asyncio.gather(
            *(self._written(self._accounts.provider(key), of[key], change.end) for key in accounts),
            return_exceptions=True,
        )
        for error in results:
            if isinstance(error, ProviderError):
                await self._db.write(lambda tx: _give_up(tx, change))
                raise _not_written(change, error.reason, str(error)) from error
            if error is not None:
                raise error
        if (moved := await self._db.write(lambda tx: _commit(tx, change))) is None:
            raise _not_written(change, Reason.UNAVAILABLE, "the reservation was changed at the same time")
        return moved

    async def _written(self, provider: Provider, machines: Sequence[Lease], end: datetime) -> None:
        """Write the end to the labels of one account's machines, and read it back. Raises ProviderError."""
        wanted = {_contract(lease): labelling.label_until(lease, end, self._signer) for lease in machines}
        for contract, label in wanted.items():
            await provider.relabel(contract, label)
        if len(wanted) > _FEW:
            listed = {each.id: each.label for each in (await provider.list()).instances}
            wanted = {contract: label for contract, label in wanted.items() if listed.get(contract) != label}
        for contract, label in wanted.items():
            found = await provider.get(contract)
            if found is None or found.label != label:
                raise ProviderUnavailable(f"the label of {contract} does not show the new end")


def _begin(
    tx: Tx, caller: Caller, reservation_id: str, end: datetime, patience: timedelta
) -> ReservationView | _Change:
    """Store the intent. Where no machine ends itself, the new end counts at once."""
    reservation, rows = _extendable(tx, caller, reservation_id)
    if reservation.expires_at == end and not reservation.grace_s:
        return view(tx, reservation.id)
    _require_later(reservation, end, tx.now())
    spending.admit_longer(tx, rows, end)
    machines = tuple(lease for lease in rows if lease.state in RENTED and self_ending.is_on(lease))
    if not machines:
        return _move(tx, caller, reservation, rows, end)
    for lease in machines:
        leases.note(tx, lease, NewEnd(end, tx.now() + patience))
    return _Change(caller, reservation.id, end, machines)


def _commit(tx: Tx, change: _Change) -> ReservationView | None:
    """The labels show the new end: it counts from now on. None if something has changed since: the old end stands."""
    reservation = reservations.get(tx, change.reservation_id)
    rows = leases.of_reservation(tx, reservation.id)
    _require_open(reservation, rows, tx.now())
    written = {lease.id for lease in change.machines}
    for lease in rows:
        if lease.state in RENTED and self_ending.is_on(lease):
            other = lease.id not in written or lease.pending.new_end != change.end
            if other or (lease.expires_at is not None and lease.expires_at > change.end):
                _give_up(tx, change)
                return None
    return _move(tx, change.caller, reservation, rows, change.end)


def _move(tx: Tx, caller: Caller, reservation: Reservation, rows: Sequence[Lease], end: datetime) -> ReservationView:
    reservations.change(tx, reservation, replace(reservation, expires_at=end, grace_s=0), rows)
    until = f"until {end:%Y-%m-%dT%H:%M:%SZ}"
    audit.record(tx, caller, "reservation_extended", reservation.id, until, project=reservation.project)
    for lease in rows:
        if lease.state in LIVE:
            too_soon = contracts.ends_too_soon(lease.observed.contract_ends_at, end, tx.now())
            leases.note(tx, lease, Extended(end, tx.now(), too_soon=too_soon))
    spending.ends_stand(tx, leases.of_reservation(tx, reservation.id))
    return view(tx, reservation.id)


def _give_up(tx: Tx, change: _Change) -> None:
    """The old end stands. The reconciler writes it to the labels again."""
    for machine in change.machines:
        lease = leases.find(tx, machine.id)
        if lease is not None and lease.pending.new_end == change.end:
            leases.note(tx, lease, NewEnd(None, None))
    spending.ends_stand(tx, leases.of_reservation(tx, change.reservation_id))


def _extendable(tx: Tx, caller: Caller, reservation_id: str) -> tuple[Reservation, tuple[Lease, ...]]:
    reservation = own(tx, caller, reservation_id)
    require_no_pool(reservation)
    rows = leases.of_reservation(tx, reservation.id)
    _require_open(reservation, rows, tx.now())
    return reservation, rows


def _require_open(reservation: Reservation, rows: Sequence[Lease], now: datetime) -> None:
    if reservation.closing or not any(r.state in RENTED | UNRESOLVED for r in rows):
        raise FailedPrecondition(
            f"Reservation {reservation.id} is {reservation.state}: there is nothing to extend.",
            reason=Reason.RESERVATION_OVER,
        )
    kept = any(lease.state in RENTED and not lease_ends.is_over(lease, now) for lease in rows)
    if reservation.expires_at is not None and reservation.expires_at <= now and not (reservation.grace_s and kept):
        raise FailedPrecondition(
            f"Reservation {reservation.id} has reached its end; its machines are being released.",
            reason=Reason.RESERVATION_OVER,
        )


def _require_later(reservation: Reservation, end: datetime, now: datetime) -> None:
    if end <= now:
        raise InvalidArgument([Violation("expires_at", f"{end:%Y-%m-%dT%H:%M:%SZ} is not in the future")])
    if reservation.expires_at is not None and end < reservation.expires_at:
        agreed = f"{reservation.expires_at:%Y-%m-%dT%H:%M:%SZ}"
        raise InvalidArgument(
            [Violation("expires_at", f"is before the present end, {agreed}. To end it earlier, release it")]
        )


def _not_written(change: _Change, reason: Reason, why: str) -> Unavailable:
    log.info("extension_not_written", reservation=change.reservation_id, reason=reason, error=why)
    return Unavailable(
        f"Reservation {change.reservation_id} was not extended: its new end could not be written to the labels of its "
        "machines, which end themselves at the end in their label. Its present end stands. Repeat the call.",
        reason=reason,
        retry_after=_RETRY_AFTER,
    )


def _contract(lease: Lease) -> InstanceId:
    return InstanceId(lease.instance_id or "")
