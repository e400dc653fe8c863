"""ReserveGPUs: intent, effect, record, in a task of the engine's own.

Invariants (design.md, each tested by name):
1. No paid call without a committed lease in `requested`; `call_started_at` is committed just before each send.
2. No network call inside a unit of work.
3. A lease changes only through store.leases; an instance id that was learnt is never dropped.
4. At most one lease for each thing that excludes others; the GPUs held never exceed the count.
5. A terminal state is recorded only with the provider's word for it.
6. (project, request_id) names one reservation for ever; a duplicate joins it, another demand under it is refused.
7. Whoever waits may leave: no new create is started, none in flight is cancelled, and what exists is kept or given
   back by one rule (Reservation.wants). A crash is the same case.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from gpuproxy.model.demands import Caller, Demand
from gpuproxy.model.errors import Refusal, Unavailable
from gpuproxy.model.leases import Lease, LeaseState, ReservationId
from gpuproxy.model.reservations import Reservation, ReservationView
from gpuproxy.outcomes import answers, record
from gpuproxy.ports import Tx
from gpuproxy.rental.call import Call, Workshop
from gpuproxy.runtime.accounts import Accounts
from gpuproxy.runtime.persist import surely
from gpuproxy.store import leases, reservations

log = structlog.get_logger(__name__)


class Reserver:
    """Runs the calls that rent."""

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop
        self._joinable: dict[tuple[str, str], Call] = {}
        self._open: dict[ReservationId, Call] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._draining = False

    async def reserve(self, caller: Caller, demand: Demand) -> ReservationView:
        """Rent what was demanded, as far as it can be had; raises the refusals of contract 1.3.

        When the awaiting task is cancelled, the caller counts as gone.
        """
        if self._draining:
            raise Unavailable("The server is shutting down; nothing was rented.", reason="SHUTTING_DOWN")
        self._shop.chooser.check(demand)
        if demand.dry_run:
            return await Call(self._shop, caller, demand).preview()
        key = (caller.project, demand.request_id)
        call = self._joinable.get(key) if demand.request_id else None
        if call is None:
            call = Call(self._shop, caller, demand)
            if demand.request_id:
                self._joinable[key] = call
            call.task = self._spawn(self._run(call, key))
        elif call.demand.fingerprint != demand.fingerprint:
            raise answers.request_id_reused(demand.request_id, call.reservation_id)
        return await self._wait(call)

    def stop(self, reservation_id: ReservationId) -> None:
        """Start no more creates for it: it is being released."""
        if (call := self._open.get(reservation_id)) is not None:
            call.stop.set()

    async def recover(self) -> None:
        """Take over what an earlier process left: a call in flight then is unknown now, one not sent will not be."""
        left = await self._shop.db.write(lambda tx: _take_over(tx, self._shop.accounts))
        await self._shop.db.read(self._shop.accounts.heed)
        for reservation in left:
            log.info("reservation_taken_over", reservation=reservation.id, kept=reservation.keep)

    async def drain(self, seconds: float) -> None:
        """Start nothing new and let what is under way come to its end, for at most so many real seconds."""
        self._draining = True
        for call in self._open.values():
            call.stop.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    async def _run(self, call: Call, key: tuple[str, str]) -> ReservationView:
        try:
            return await self._answer(call)
        finally:
            self._joinable.pop(key, None)

    async def _answer(self, call: Call) -> ReservationView:
        stored = await self._stored(call)
        if stored is not None:
            return stored
        await call.begin()
        self._open[call.reservation_id] = call
        if self._draining:  # since it began to choose
            call.stop.set()
        rest = self._spawn(self._finish(call))
        if call.demand.wait:
            return await asyncio.shield(rest)
        return await call.view()

    async def _finish(self, call: Call) -> ReservationView:
        try:
            return await call.finish()
        finally:
            self._open.pop(call.reservation_id, None)

    async def _stored(self, call: Call) -> ReservationView | None:
        """The reservation that an earlier call made under this request_id; its failure is raised again."""
        request_id = call.demand.request_id
        if not request_id:
            return None
        found = await self._shop.db.read(lambda tx: reservations.by_request(tx, call.caller.project, request_id))
        if found is None:
            return None
        if not call.demand.matches_fingerprint(found.fingerprint):
            raise answers.request_id_reused(request_id, found.id)
        if found.failure is not None:
            raise answers.refusal_of(found.failure)
        call.reservation_id = found.id
        return await call.view()

    async def _wait(self, call: Call) -> ReservationView:
        call.waiters += 1
        try:
            return await asyncio.shield(call.task)
        except asyncio.CancelledError:
            if call.waiters == 1 and not call.findable:
                self._leave(call)
            elif call.waiters == 1 and call.demand.wait:
                call.stop.set()
            raise
        finally:
            call.waiters -= 1

    def _leave(self, call: Call) -> None:
        """Nobody waits any more, and nobody could find what exists: give everything back."""
        call.gone = True
        call.stop.set()
        self._spawn(self._close_after(call))

    async def _close_after(self, call: Call) -> None:
        """The call may have been answered in the very moment in which its caller left."""
        await asyncio.wait([call.task])
        if call.reservation_id:
            await surely(
                self._shop.db,
                self._shop.clock,
                lambda tx: record.close(tx, call.reservation_id, "CALLER_GONE"),
                call.reservation_id,
            )
            self._shop.nudge()

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_told)
        return task


def _told(task: asyncio.Task[Any]) -> None:
    """Mark the outcome as seen, for whoever waited may be gone; a crash of ours is told here at least."""
    if task.cancelled() or (error := task.exception()) is None or isinstance(error, Refusal):
        return
    log.error("call_crashed", exc_info=error)


def _take_over(tx: Tx, accounts: Accounts) -> tuple[Reservation, ...]:
    """Creates may outlive the answers to their callers, so every lease is looked at, not only those of open calls."""
    for provider in accounts:
        for lease in leases.live(tx, provider.name, provider.account):
            _interrupt(tx, lease)
    left = reservations.unsettled(tx)
    for reservation in left:
        _settle(tx, reservation.id)
    return left


def _interrupt(tx: Tx, lease: Lease) -> None:
    """The process that was to record what comes of the create is dead."""
    if lease.instance_id is not None or lease.state not in (LeaseState.REQUESTED, LeaseState.RELEASING):
        return
    if lease.call_started_at is None:
        record.not_attempted(tx, lease.id, reason="INTERRUPTED")
    elif lease.call_deadline is None or lease.call_deadline > tx.now() or lease.state is LeaseState.REQUESTED:
        record.reply_lost(tx, lease.id, "the server stopped during the create")


def _settle(tx: Tx, reservation_id: ReservationId) -> None:
    """The caller of a call that died with its server is gone."""
    reservation = reservations.get(tx, reservation_id)
    verdict = answers.verdict(reservation, leases.of_reservation(tx, reservation_id), gone=True)
    reservations.change(
        tx,
        reservation,
        leases.of_reservation(tx, reservation_id),
        settled_at=tx.now(),
        answered_at=tx.now(),
        message=verdict.message,
        request_id="" if verdict.retryable else reservation.request_id,
        failure=verdict.failure,
    )
    if verdict.closing:
        record.close(tx, reservation_id, verdict.closing)
