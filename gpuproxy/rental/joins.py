"""ReserveGPUs calls: their callers, and the reservations they belong to. One request_id is one reservation.

Invariants (1 to 5 are in `rounds`):
6. (project, request_id) names one reservation for ever. A repeat joins it; a different demand under it is refused.
7. A caller may leave at any time. Then no new create is started and no create in flight is cancelled. One rule
   (Owner.wants) decides whether existing machines are kept or released. A crash is handled in the same way.

Every call runs in a task of its own, so a caller that leaves can't cancel it.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial

from gpuproxy.loadbalancer.exclusions import Exclusions
from gpuproxy.loadbalancer.left_out import LeftOut, left_out
from gpuproxy.loadbalancer.setting import strategy_for
from gpuproxy.model.demands import Caller, Demand, LaunchSpec
from gpuproxy.model.errors import ClaimLost, Taken, Unavailable
from gpuproxy.model.leases import ReservationId
from gpuproxy.model.owners import Owner
from gpuproxy.model.reasons import Reason
from gpuproxy.model.reservations import Decision, Reservation, ReservationView
from gpuproxy.outcomes import answers, conclusion
from gpuproxy.outcomes.view import view, with_leases
from gpuproxy.ports import Random, Tx
from gpuproxy.rental.rounds import Rental, RentalContext
from gpuproxy.runtime import fencing
from gpuproxy.runtime.background import Background
from gpuproxy.runtime.claims import Claims, HeldClaim
from gpuproxy.runtime.persist import write_until_committed
from gpuproxy.store import audit, forgotten, reservations, ssh_keys

_NONE = ReservationId("")
_LOOK_AGAIN = 5.0
"""Seconds between two looks at a call that another process runs. A change is announced, but a hint may be lost."""


class ReservationRecord:
    """A reservation as the owner of the machines that a rental rents."""

    def __init__(self, caller: Caller, demand: Demand, random: Random, claims: Claims) -> None:
        """`claims` makes the claim that this process rents for the reservation."""
        self._caller = caller
        self._demand = demand
        self._random = random
        self._claims = claims
        self._claim: HeldClaim | None = None
        self._drafted: Reservation | None = None

    @property
    def project(self) -> str:
        """The caller's project."""
        return self._caller.project

    @property
    def drafted(self) -> Reservation:
        """The last draft."""
        if self._drafted is None:
            raise RuntimeError("a reservation was read before it was drafted")
        return self._drafted

    @property
    def claim(self) -> HeldClaim:
        """The claim on the last draft."""
        if self._claim is None:
            raise RuntimeError("a reservation was claimed before it was drafted")
        return self._claim

    @property
    def id(self) -> ReservationId:
        """The id of the last draft; "" before the first."""
        return self._drafted.id if self._drafted else _NONE

    def wanted_until(self, now: datetime) -> datetime | None:
        """The end of a lease that begins at `now`."""
        return now + self._demand.lease_duration if self._demand.lease_duration else None

    def draft(self, decision: Decision, now: datetime) -> Owner:
        """The reservation with a new id."""
        demand = self._demand
        self._drafted = Reservation(
            id=ReservationId(f"res-{self._random.token(8)}"),
            project=self._caller.project,
            request_id=demand.request_id,
            fingerprint=demand.stored_fingerprint,
            count=demand.count,
            least=demand.count if demand.all_or_nothing else demand.min_count or 0,
            keep=demand.is_findable or not demand.wait,
            strategy=decision.strategy,
            labels=demand.labels,
            created_at=now,
            expires_at=self.wanted_until(now),
            grace_s=round(demand.lease_grace.total_seconds()),
            release_idle_s=round(demand.release_idle_after.total_seconds()),
            version=1,
            replace_unready=demand.on_not_ready != "keep",
            ready_timeout_s=demand.ready_timeout.total_seconds(),
            key_id=self._caller.key_id,
            decision=decision,
        )
        self._claim = self._claims.of_reservation(self._drafted.id)
        return self._drafted.as_owner

    def insert(self, tx: Tx) -> None:
        """Store the last draft, and claim it. Raises Taken if the request_id is in use."""
        reservations.insert(tx, self.drafted)
        gpus = f"{self._demand.count} GPU{'' if self._demand.count == 1 else 's'}"
        audit.record(tx, self._caller, "reservation_rented", self.id, gpus, project=self._caller.project)
        self.claim.take(tx, self.claim.made_at)

    def read(self, tx: Tx) -> Owner:
        """The reservation as it is stored."""
        return reservations.get(tx, self.id).as_owner

    def require(self, tx: Tx) -> None:
        """Raise ClaimLost if another process has taken the reservation over, or has concluded it."""
        self.claim.require(tx)

    def stop_renting(self, tx: Tx, reason: Reason) -> None:
        """Store the reason; the reservation's message shows it. Raises ClaimLost."""
        self.require(tx)
        reservation, rows = with_leases(tx, self.id)
        reservations.change(tx, reservation, replace(reservation, stopped=reason), rows)


@dataclass(slots=True)
class _Call:
    """A running call and the callers that wait for it."""

    demand: Demand
    record: ReservationRecord
    until: float
    """The rental starts no round after this reading of Clock.monotonic()."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    reservation_id: ReservationId = _NONE
    """_NONE until the reservation is stored."""
    waiters: int = 0
    abandoned: bool = False
    """No caller waits any more, and none could find the machines later."""
    task: asyncio.Task[ReservationView] | None = None


class Reserver:
    """Runs ReserveGPUs calls."""

    def __init__(self, context: RentalContext, claims: Claims, *, random: Random, default_strategy: str) -> None:
        self._context = context
        self._db = context.db
        self._random = random
        self._default_strategy = default_strategy
        self._claims = claims
        self._joinable: dict[tuple[str, str], _Call] = {}
        self._open: dict[ReservationId, _Call] = {}
        self._beginning: list[_Call] = []
        """Calls that choose, and store their reservation."""
        self._calls = Background("reserve")
        self._draining = False

    async def reserve(self, caller: Caller, demand: Demand) -> ReservationView:
        """Rent what is demanded, as far as it is available. Raises the refusals of contract 1.3.

        When the awaiting task is cancelled, the caller counts as having left.
        """
        if self._draining:
            raise Unavailable("The server is shutting down; nothing was rented.", reason=Reason.SHUTTING_DOWN)
        self._context.chooser.check(demand)
        if demand.dry_run:
            return await self._preview(caller, demand)
        key = (caller.project, demand.request_id)
        call = self._joinable.get(key) if demand.request_id else None
        if call is None:
            record = ReservationRecord(caller, demand, self._random, self._claims)
            call = _Call(demand, record, self._until(caller, demand))
            if demand.request_id:
                self._joinable[key] = call
            call.task = self._calls.start(self._run(call, caller), demand.request_id)
        elif call.demand.fingerprint != demand.fingerprint:
            different = demand.different_fields(call.demand.stored_fingerprint)
            raise answers.request_id_reused(demand.request_id, call.reservation_id, different)
        return answers.answer(await self._wait(call, call.task))

    async def left_out(self, caller: Caller, demand: Demand) -> LeftOut:
        """Why offers are left out of a rental that would begin now. Nothing is written. Raises as `reserve`."""
        order = await self._with_strategy(caller, demand)
        now = self._context.clock.now()
        lasting = demand.lease_duration or timedelta(seconds=self._context.limits.min_offer_seconds)
        exclusions = Exclusions(accounts=self._context.accounts.regions.of_others(caller.project))
        return await left_out(self._context.chooser, order, order.strategy, exclusions, until=now + lasting)

    def is_running(self, reservation_id: ReservationId) -> bool:
        """Whether this process runs the call of a reservation. A call that has ended never runs again."""
        return reservation_id in self._open or any(call.record.id == reservation_id for call in self._beginning)

    def stop(self, reservation_id: ReservationId) -> None:
        """Start no more creates for a reservation that is being released."""
        if (call := self._open.get(reservation_id)) is not None:
            call.stop.set()

    async def drain(self, seconds: float) -> None:
        """Accept no new calls and wait for running ones, for at most `seconds` real seconds."""
        self._draining = True
        for call in self._open.values():
            call.stop.set()
        await self._calls.drain(seconds)

    async def _preview(self, caller: Caller, demand: Demand) -> ReservationView:
        """What would be picked, and at which price. Nothing is written."""
        record = ReservationRecord(caller, demand, self._random, self._claims)
        order = await self._with_strategy(caller, demand)
        rental = Rental(self._context, record, order, until=self._until(caller, demand))
        choice = await rental.preview(caller.key_id)
        reservation = replace(record.drafted, id=ReservationId(""), message=answers.dry_run(choice.decision))
        return ReservationView(reservation=reservation, leases=(), costs=())

    async def _run(self, call: _Call, caller: Caller) -> ReservationView:
        try:
            return await self._stored(call, caller) or await self._rent(call, caller)
        except Taken as taken:  # another process has stored a reservation with this request_id meanwhile
            if taken.table == "reservations" and (found := await self._stored(call, caller)) is not None:
                return found
            raise
        finally:
            self._joinable.pop((caller.project, call.demand.request_id), None)

    async def _stored(self, call: _Call, caller: Caller) -> ReservationView | None:
        """The reservation of an earlier call with this request_id. If that call failed, its error is raised again."""
        request_id = call.demand.request_id
        if not request_id:
            return None
        found, past = await self._db.read(
            lambda tx: (
                reservations.by_request(tx, caller.project, request_id),
                forgotten.by_request(tx, caller.project, request_id),
            )
        )
        if past is not None:
            raise answers.request_id_forgotten(past)
        if found is None:
            return None
        if not call.demand.matches_fingerprint(found.fingerprint):
            raise answers.request_id_reused(request_id, found.id, call.demand.different_fields(found.fingerprint))
        if call.demand.wait and not self._db.exclusive:
            found = await self._settled(found, call.until)
            if found.settled_at is None:
                raise answers.still_running(request_id)
        if found.failure is not None:
            raise answers.refusal_of(found.failure)
        call.reservation_id = found.id
        return await self._view(found.id)

    async def _settled(self, found: Reservation, until: float) -> Reservation:
        """The reservation once the process that runs its call has concluded it, or as it is at `until`.

        Before that, nobody may be answered with it: a call that rents nothing frees its request_id for another one.
        """
        clock = self._context.clock
        async with self._db.watch(f"reservation:{found.id}") as wakeups:
            while found.settled_at is None and (left := until - clock.monotonic()) > 0:
                with suppress(TimeoutError):
                    async with clock.timeout(min(left, _LOOK_AGAIN)):
                        await wakeups.wait()
                found = await self._db.read(partial(reservations.get, reservation_id=found.id))
        return found

    async def _rent(self, call: _Call, caller: Caller) -> ReservationView:
        order = await self._with_strategy(caller, call.demand)
        order = replace(order, spec=await self._with_project_keys(caller, order.spec))
        self._context.chooser.check(order)  # again, because the project's keys are part of the launch now
        rental = Rental(
            self._context,
            call.record,
            order,
            until=call.until,
            until_ready=call.demand.wait_for == "ready",
            stop=call.stop,
        )
        self._beginning.append(call)
        try:
            with fencing.under(lambda: not call.reservation_id or call.record.claim.is_held()):
                await rental.begin()
            call.reservation_id = call.record.id
            self._open[call.reservation_id] = call
        finally:
            self._beginning.remove(call)
        if self._draining:  # since it began to choose
            call.stop.set()
        answer = self._calls.start(self._finish(call, rental), call.reservation_id)
        if call.demand.wait:
            return await asyncio.shield(answer)
        return await self._view(call.reservation_id)

    async def _finish(self, call: _Call, rental: Rental) -> ReservationView:
        """Run the rental to its end and return the answer. Raises the call's refusal."""
        keeping = self._calls.start(call.record.claim.keep(call.stop.set), call.reservation_id)
        try:
            with fencing.under(call.record.claim.is_held):
                await rental.run()
            return await self._concluded(call, rental)
        finally:
            keeping.cancel()
            self._open.pop(call.reservation_id, None)

    async def _concluded(self, call: _Call, rental: Rental) -> ReservationView:
        def write(tx: Tx) -> ReservationView:
            call.record.claim.renew(tx)
            conclusion.conclude(tx, call.reservation_id, gone=call.abandoned, queue_seconds=rental.queue_seconds)
            call.record.claim.end(tx)
            return view(tx, call.reservation_id)

        try:
            answered = await write_until_committed(self._db, self._context.clock, write, call.reservation_id)
        except ClaimLost:  # another process has concluded the call, or will
            answered = await self._concluded_elsewhere(call)
        self._context.watches.nudge()
        if answered.reservation.failure is not None:
            raise answers.refusal_of(answered.reservation.failure)
        return answered

    async def _concluded_elsewhere(self, call: _Call) -> ReservationView:
        """The reservation after another process has concluded the call. Raises DeadlineExceeded."""
        found = await self._db.read(partial(reservations.get, reservation_id=call.reservation_id))
        if call.demand.wait and (await self._settled(found, call.until)).settled_at is None:
            raise answers.still_running(call.demand.request_id)
        return await self._view(call.reservation_id)

    async def _wait(self, call: _Call, task: "asyncio.Task[ReservationView] | None") -> ReservationView:
        if task is None:
            raise RuntimeError("a call was awaited before it was started")
        call.waiters += 1
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if call.waiters == 1 and not call.demand.is_findable:
                self._abandon(call, task)
            elif call.waiters == 1 and call.demand.wait:
                call.stop.set()
            raise
        finally:
            call.waiters -= 1

    def _abandon(self, call: _Call, task: "asyncio.Task[ReservationView]") -> None:
        """Release everything: no caller waits any more, and none could find the machines later."""
        call.abandoned = True
        call.stop.set()
        self._calls.start(self._close_after(call, task), call.reservation_id)

    async def _close_after(self, call: _Call, task: "asyncio.Task[ReservationView]") -> None:
        """Release everything once the call has ended. It may have succeeded just as its caller left."""
        await asyncio.wait([task])
        if call.reservation_id:
            await write_until_committed(
                self._db,
                self._context.clock,
                lambda tx: conclusion.close(tx, call.reservation_id, Reason.CALLER_GONE),
                call.reservation_id,
            )
            self._context.watches.nudge()

    def _until(self, caller: Caller, demand: Demand) -> float:
        """When the answer is due, less the time to send it: a reading of Clock.monotonic()."""
        clock, limits = self._context.clock, self._context.limits
        if demand.wait:
            return caller.deadline - limits.answer_margin * clock.scale
        return clock.monotonic() + limits.unattended_seconds

    async def _with_strategy(self, caller: Caller, demand: Demand) -> Demand:
        """The demand with the project's strategy, if it names none."""
        default, asked = self._default_strategy, demand.strategy
        name = await self._db.read(lambda tx: strategy_for(tx, caller.project, default, asked))
        return replace(demand, strategy=name)

    async def _with_project_keys(self, caller: Caller, spec: LaunchSpec) -> LaunchSpec:
        """The spec with the project's SSH keys and the check key. They do not exclude a provider that takes no keys."""
        rows = await self._db.read(lambda tx: ssh_keys.listed(tx, caller.project))
        check = [self._context.check_key] if self._context.check_key and spec.run_mode != "entrypoint" else []
        keys = (*spec.ssh_public_keys, *(row.public_key for row in rows), *check)
        return replace(spec, ssh_public_keys=tuple(dict.fromkeys(keys)))

    async def _view(self, reservation_id: ReservationId) -> ReservationView:
        return await self._db.read(lambda tx: view(tx, reservation_id))
