"""A caller's reservations: read, list, watch, release, extend.

A caller sees only the reservations of its project. An admin sees those of all projects.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime

import msgspec

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import InvalidArgument, Violation
from gpuproxy.model.leases import LIVE, Lease, ReservationId
from gpuproxy.model.reasons import Reason
from gpuproxy.model.reservations import Reservation, ReservationState, ReservationView, TimelineEntry
from gpuproxy.outcomes import conclusion
from gpuproxy.outcomes.pool_owned import require_no_pool
from gpuproxy.outcomes.view import view
from gpuproxy.ports import Database, Tx
from gpuproxy.reservations import pages
from gpuproxy.reservations.extending import Extender
from gpuproxy.reservations.own import meant_by, own
from gpuproxy.reservations.watch import Change, watch
from gpuproxy.store import audit, events, leases, money_log, reservations
from gpuproxy.store.rows import micros

_PAGE = 100
_PAGE_MAX = 1000
MAX_EVENTS = 500
"""Events in a timeline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationPage:
    """One page of reservations, newest first."""

    views: tuple[ReservationView, ...]
    next_page_token: str
    total: int


class Reservations:
    """`stop` ends the creates of a running call. `nudge` makes the next pass of every account begin soon.

    `gpu_util` tells the GPU utilisation of a machine, in percent.
    """

    def __init__(
        self,
        db: Database,
        *,
        stop: Callable[[ReservationId], None],
        nudge: Callable[[], None],
        extender: Extender,
        gpu_util: Callable[[Lease], float | None] = lambda _: None,
    ) -> None:
        self._db = db
        self._extender = extender
        self._stop = stop
        self._nudge = nudge
        self._gpu_util = gpu_util

    async def by_id(self, caller: Caller, reservation_id: str) -> ReservationView:
        """The reservation now. Raises NotFound."""
        return self._with_use(await self._db.read(lambda tx: view(tx, own(tx, caller, reservation_id).id)))

    async def meant_by(self, caller: Caller, request_id: str) -> dict[str, str]:
        """Metadata for the error about a text that is no reservation's id: see `own.meant_by`."""
        return await self._db.read(lambda tx: meant_by(tx, caller, request_id))

    async def watch(self, caller: Caller, reservation_id: str, resume_token: str) -> AsyncGenerator[Change, None]:
        """The reservation now or, with a token, the changes after it; then every further change in order."""
        found = await self._db.read(lambda tx: own(tx, caller, reservation_id))
        async with aclosing(watch(self._db, found.id, resume_token)) as changes:
            async for token, shown in changes:
                yield token, self._with_use(shown)

    async def project_of(self, caller: Caller, reservation_id: str) -> str:
        """The project that a reservation belongs to. Raises NotFound."""
        return await self._db.read(lambda tx: own(tx, caller, reservation_id).project)

    async def timeline(self, caller: Caller, reservation_id: str) -> tuple[TimelineEntry, ...]:
        """The last events of a reservation, at most `MAX_EVENTS`, oldest first. Raises NotFound."""

        def read(tx: Tx) -> tuple[TimelineEntry, ...]:
            found = events.newest_first(tx, own(tx, caller, reservation_id).id, MAX_EVENTS)
            return tuple(reversed(found))

        return await self._db.read(read)

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
                views=tuple(self._with_use(view(tx, r.id)) for r in page),
                next_page_token=pages.token(request, _newest_first(page[-1])) if len(found) > size else "",
                total=reservations.count(tx, caller.scope, state, labels),
            )

        return await self._db.read(read)

    async def release(self, caller: Caller, reservation_id: str) -> ReservationView:
        """Release all machines of a reservation. Repeating it changes nothing. Raises NotFound, and IN_WARM_POOL."""

        def write(tx: Tx) -> ReservationView:
            reservation = own(tx, caller, reservation_id)
            require_no_pool(reservation)
            rows = leases.of_reservation(tx, reservation.id)
            if not reservation.closing and (reservation.settled_at is None or any(r.state in LIVE for r in rows)):
                tx.after_commit(money_log.of_request(reservation, None, key=caller.key_id, user=caller.user_id))
                audit.record(tx, caller, "reservation_released", reservation.id, project=reservation.project)
                conclusion.close(tx, reservation.id, Reason.RELEASED)
            return view(tx, reservation.id)

        released = await self._db.write(write)
        self._stop(released.reservation.id)
        self._nudge()
        return self._with_use(released)

    async def extend(self, caller: Caller, reservation_id: str, expires_at: datetime) -> ReservationView:
        """Move the end to `expires_at`: see `Extender.extend`."""
        return self._with_use(await self._extender.extend(caller, reservation_id, expires_at))

    def _with_use(self, shown: ReservationView) -> ReservationView:
        """The view with the GPU utilisation of its machines."""
        return replace(shown, gpu_utils=tuple(map(self._gpu_util, shown.leases)))


def _newest_first(reservation: Reservation) -> tuple[int, str]:
    """The place of a reservation in the list."""
    return -micros(reservation.created_at), reservation.id
