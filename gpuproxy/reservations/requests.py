"""A caller's reservations: read, list, watch, release, extend.

A caller sees only the reservations of its project. An admin sees those of all projects.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime

import msgspec

from gpuproxy.model import contracts, ids
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import FailedPrecondition, InvalidArgument, NotFound, Violation
from gpuproxy.model.lease_facts import Extended
from gpuproxy.model.leases import LIVE, RENTED, UNRESOLVED, ReservationId
from gpuproxy.model.reasons import Reason
from gpuproxy.model.reservations import Reservation, ReservationState, ReservationView
from gpuproxy.outcomes import conclusion
from gpuproxy.outcomes.pool_owned import require_no_pool
from gpuproxy.outcomes.view import view
from gpuproxy.ports import Database, Tx
from gpuproxy.reservations import pages
from gpuproxy.reservations.watch import Change, watch
from gpuproxy.store import leases, money_log, reservations
from gpuproxy.store.rows import micros

_PAGE = 100
_PAGE_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationPage:
    """One page of reservations, newest first."""

    views: tuple[ReservationView, ...]
    next_page_token: str
    total: int


class Reservations:
    """`stop` ends the creates of a running call. `nudge` makes the next pass of every account begin soon."""

    def __init__(self, db: Database, *, stop: Callable[[ReservationId], None], nudge: Callable[[], None]) -> None:
        self._db = db
        self._stop = stop
        self._nudge = nudge

    async def by_id(self, caller: Caller, reservation_id: str) -> ReservationView:
        """The reservation now. Raises NotFound."""
        return await self._db.read(lambda tx: view(tx, _own(tx, caller, reservation_id).id))

    async def watch(self, caller: Caller, reservation_id: str, resume_token: str) -> AsyncGenerator[Change, None]:
        """The reservation now or, with a token, the changes after it; then every further change in order."""
        found = await self._db.read(lambda tx: _own(tx, caller, reservation_id))
        async with aclosing(watch(self._db, found.id, resume_token)) as changes:
            async for change in changes:
                yield change

    async def page(
        self, caller: Caller, *, state: str, labels: Mapping[str, str], page_size: int, page_token: str
    ) -> ReservationPage:
        """A page of reservations. `state` "" means any state; all of `labels` must match. Raises InvalidArgument."""
        if state and state not in frozenset(ReservationState):
            states = ", ".join(ReservationState)
            raise InvalidArgument([Violation("state", f"{state!r} is none of {states}")])
        request = pages.digest("ListReservations", msgspec.json.encode((state, sorted(labels.items()))))
        after = pages.after(page_token, request, tuple[int, str])

        def read(tx: Tx) -> ReservationPage:
            size = min(page_size, _PAGE_MAX) or _PAGE
            found = reservations.newest(tx, caller.scope, state, labels, after=after, limit=size + 1)
            page = found[:size]
            return ReservationPage(
                views=tuple(view(tx, r.id) for r in page),
                next_page_token=pages.token(request, _newest_first(page[-1])) if len(found) > size else "",
                total=reservations.count(tx, caller.scope, state, labels),
            )

        return await self._db.read(read)

    async def release(self, caller: Caller, reservation_id: str) -> ReservationView:
        """Release all machines of a reservation. Repeating it changes nothing. Raises NotFound, and IN_WARM_POOL."""

        def write(tx: Tx) -> ReservationView:
            reservation = _own(tx, caller, reservation_id)
            require_no_pool(reservation)
            rows = leases.of_reservation(tx, reservation.id)
            if not reservation.closing and (reservation.settled_at is None or any(r.state in LIVE for r in rows)):
                tx.after_commit(money_log.of_request(reservation, None, key=caller.key_id, user=caller.user_id))
                conclusion.close(tx, reservation.id, Reason.RELEASED)
            return view(tx, reservation.id)

        released = await self._db.write(write)
        self._stop(released.reservation.id)
        self._nudge()
        return released

    async def extend(self, caller: Caller, reservation_id: str, expires_at: datetime) -> ReservationView:
        """Move the end to `expires_at`, which must not be earlier than the present end.

        Raises NotFound, InvalidArgument, and FailedPrecondition (RESERVATION_OVER, IN_WARM_POOL).
        """

        def write(tx: Tx) -> ReservationView:
            reservation = _own(tx, caller, reservation_id)
            require_no_pool(reservation)
            rows = leases.of_reservation(tx, reservation.id)
            if reservation.closing or not any(r.state in RENTED | UNRESOLVED for r in rows):
                raise FailedPrecondition(
                    f"Reservation {reservation.id} is {reservation.state}: there is nothing to extend.",
                    reason=Reason.RESERVATION_OVER,
                )
            if reservation.expires_at is not None and reservation.expires_at <= tx.now():
                raise FailedPrecondition(
                    f"Reservation {reservation.id} has reached its end; its machines are being released.",
                    reason=Reason.RESERVATION_OVER,
                )
            _require_later(reservation, expires_at, tx.now())
            reservations.change(tx, reservation, replace(reservation, expires_at=expires_at), rows)
            for lease in rows:
                if lease.state in LIVE:
                    too_soon = contracts.ends_too_soon(lease.observed.contract_ends_at, expires_at, tx.now())
                    leases.note(tx, lease, Extended(expires_at, tx.now(), too_soon=too_soon))
            return view(tx, reservation.id)

        return await self._db.write(write)


def _newest_first(reservation: Reservation) -> tuple[int, str]:
    """The place of a reservation in the list."""
    return -micros(reservation.created_at), reservation.id


def _own(tx: Tx, caller: Caller, reservation_id: str) -> Reservation:
    found = reservations.find(tx, ReservationId(reservation_id))
    if found is None or not caller.sees(found.project):
        text = f"You have no reservation {reservation_id}. {_what_it_is(tx, caller, reservation_id)}"
        raise NotFound(text, metadata={"reservation_id": reservation_id})
    return found


def _what_it_is(tx: Tx, caller: Caller, other_id: str) -> str:
    """What the caller may have named instead of a reservation."""
    if (named := reservations.by_request(tx, caller.project, other_id)) is not None:
        return f"This is the request_id of reservation {named.id}: use that id."
    if other_id.startswith("res-"):
        return "ListReservations lists your reservations."
    return ids.hint(other_id) or (
        "The id of a reservation begins with `res-`. If this is a contract id, GetGPUInstance shows the instance and "
        "its reservation_id."
    )


def _require_later(reservation: Reservation, expires_at: datetime, now: datetime) -> None:
    if expires_at <= now:
        raise InvalidArgument([Violation("expires_at", f"{expires_at:%Y-%m-%dT%H:%M:%SZ} is not in the future")])
    if reservation.expires_at is not None and expires_at < reservation.expires_at:
        agreed = f"{reservation.expires_at:%Y-%m-%dT%H:%M:%SZ}"
        raise InvalidArgument(
            [Violation("expires_at", f"is before the present end, {agreed}. To end it earlier, release it")]
        )
