"""Renting for one owner: rounds of choosing, intending and creating, until nothing is missing or time is up.

Invariants (each tested by name):
1. No paid call without a committed lease in `requested`; `call_started_at` is committed just before each send.
2. No network call inside a unit of work.
3. A lease changes only through store.leases; an instance id that was learnt is never dropped.
4. At most one lease for each thing that excludes others; the GPUs held never exceed what the owner wants.
5. A terminal state is recorded only with the provider's word for it.

A rental knows its owner (`OwnerRecord`) and what is to be rented (`Order`). It knows nothing of calls: who asked, who
waits and how the outcome is reported is the business of `joins`.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from gpuproxy.loadbalancer.balancer import Choice
from gpuproxy.loadbalancer.choice import Chooser, Terms
from gpuproxy.loadbalancer.learnt import Learnt
from gpuproxy.model.demands import Order
from gpuproxy.model.errors import Conflict, Refusal, TurnTaken, Unavailable
from gpuproxy.model.labels import Signer
from gpuproxy.model.leases import KEEPABLE, RENTED, Lease, LeaseState, ReservationId
from gpuproxy.model.offers import AccountKey
from gpuproxy.model.owners import Owner, OwnerId
from gpuproxy.model.reservations import NOT_ATTEMPTED
from gpuproxy.model.strategies import STRATEGIES
from gpuproxy.ports import Clock, Database, Tx, Wakeups
from gpuproxy.reconcile.watches import Watches
from gpuproxy.rental import intents, replacements
from gpuproxy.rental.attempt import Attempts
from gpuproxy.rental.owner import OwnerRecord
from gpuproxy.runtime.accounts import Accounts
from gpuproxy.runtime.background import Background
from gpuproxy.runtime.limits import Limits
from gpuproxy.runtime.persist import surely
from gpuproxy.store import leases

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RentalContext:
    """What every rental works with."""

    db: Database
    clock: Clock
    limits: Limits
    chooser: Chooser
    accounts: Accounts
    attempts: Attempts
    watches: Watches
    signer: Signer


class Rental:
    """Rents what is ordered, as far as it can be had, and replaces what fails."""

    def __init__(
        self,
        context: RentalContext,
        record: OwnerRecord,
        order: Order,
        *,
        until: float,
        until_ready: bool = False,
        stop: asyncio.Event | None = None,
    ) -> None:
        """No round begins after `until` (a reading of Clock.monotonic()), or once `stop` is set.

        `until_ready`: go on until the machines are ready, and replace those that fail before.
        """
        self._context = context
        self._db = context.db
        self._clock = context.clock
        self._record = record
        self._order = order
        self._until = until
        self._until_ready = until_ready
        self._stop = stop or asyncio.Event()
        self._learnt = Learnt()
        self._owner_id = OwnerId("")
        self._attempts = Background("create")

    @property
    def owner_id(self) -> OwnerId:
        """The owner's id once it is stored; "" before."""
        return self._owner_id

    @property
    def queue_seconds(self) -> float:
        """The longest wait for a turn that was too long, in seconds; 0 where there was none."""
        return self._learnt.queue_seconds

    async def preview(self) -> Choice:
        """What would be rented now; nothing is written."""
        await self._context.chooser.refresh(self._order, self._until)
        return await self._choose(self._order.count)

    async def begin(self) -> None:
        """Choose, and commit the owner with its first intents; a refusal here leaves nothing behind."""
        await self._context.chooser.refresh(self._order, self._until)
        await self._choose_and_intend(self._order.count, None)

    async def run(self) -> None:
        """Wait for the creates, and replace what failed, round after round.

        A crash ends the rounds and is logged; it never raises, for the machines would be nobody's.
        """
        try:
            while await self._goes_another_round():
                pass
        except Exception:
            log.exception("rental_cut_short", owner=self._owner_id)
        self._stop.set()

    async def _goes_another_round(self) -> bool:
        await self._creates()
        if not self._going_on():
            return False
        if await self._another_round():
            return True
        await self._look()
        return await self._another_round() or (self._until_ready and await self._ready_changed())

    async def _choose(self, gpus: int) -> Choice:
        return await self._context.chooser.choose(self._order, gpus, self._order.strategy, self._learnt)

    async def _choose_and_intend(self, gpus: int, owner: Owner | None) -> None:
        """As one step, for the owner that is stored or else for a new one."""
        async with self._context.chooser.lock:
            while True:
                choice = await self._choose(gpus)
                intended_for = owner or self._record.draft(choice.decision, self._clock.now())
                try:
                    await self._intend(intended_for, choice, first=owner is None)
                except TurnTaken:
                    continue
                self._owner_id = intended_for.id
                return

    async def _intend(self, owner: Owner, choice: Choice, *, first: bool) -> None:
        terms, latest = self._terms(owner)
        intent = intents.Intent(
            owner=owner,
            insert=self._record.insert if first else None,
            read=self._record.read,
            picks=choice.picks,
            wanted=self._order.filter,
            terms=terms,
            rotation=choice.rotation if STRATEGIES[owner.strategy].rotates else None,
            waits=self._waits(terms, len(choice.picks)),
            latest=latest,
        )
        made = await self._db.write(lambda tx: intents.write(tx, intent, self._context.signer))
        for lease, offer in zip(made, choice.picks, strict=True):
            if lease.state is LeaseState.REQUESTED:
                attempt = self._context.attempts.of(lease, offer, self._order.spec, latest)
                self._attempts.start(attempt.run(self._stop, self._learnt), lease.id)
            elif lease.reason == NOT_ATTEMPTED:
                turns = self._context.accounts.creates((lease.provider, lease.account))
                self._learnt.queued(turns.wait(self._record.project))

    async def _creates(self) -> None:
        """Wait until every create has an outcome, or time is up; none in flight is cancelled."""
        left = self._until - self._clock.monotonic()
        try:
            async with self._clock.timeout(max(0.0, left)):
                await self._attempts.finished()
        except TimeoutError:
            return

    def _terms(self, owner: Owner) -> tuple[Terms, datetime]:
        """The accounts that may be used, and when the last create may be sent.

        Its answer must come in time, and before the owner's agreement ends.
        """
        terms = self._context.chooser.terms(self._order, self._learnt)
        usual = max((c.create_seconds for accounts in terms.values() for c in accounts.values()), default=0.0)
        in_time = self._clock.now() + timedelta(seconds=self._until - self._clock.monotonic() - usual)
        if owner.wanted_until is None:
            return terms, in_time
        return terms, min(in_time, owner.wanted_until - timedelta(seconds=usual))

    def _going_on(self) -> bool:
        return not self._stop.is_set() and self._clock.monotonic() < self._until

    async def _another_round(self) -> bool:
        """Intend replacements for what is missing; False when nothing is, or nothing fits."""
        if not self._going_on():
            return False
        owner, rows = await self._stored()
        self._learnt.hosts |= replacements.failed_hosts(rows)
        allowed = replacements.replacement(owner.gpus, rows, self._context.limits.replacement_factor)
        if allowed.stopped != owner.stopped:
            await self._note_stop(allowed.stopped)
        if not allowed.gpus or owner.closing or len(rows) >= self._context.limits.max_rounds * owner.gpus:
            return False
        if not self._has_turn(owner):
            return False
        try:
            await self._context.chooser.refresh(self._order, self._until)
            await self._choose_and_intend(allowed.gpus, owner)
        except (Refusal, Conflict) as error:
            log.info("no_replacement", owner=self._owner_id, missing=allowed.gpus, error=str(error))
            return False
        return bool(self._attempts)

    def _waits(self, terms: Terms, creates: int) -> Mapping[AccountKey, Sequence[float]]:
        """Of each account for none to so many creates; taken here, for the queues belong to the loop's thread."""
        return {
            (provider, account): self._context.accounts.waits((provider, account), self._record.project, creates)
            for provider, accounts in terms.items()
            for account in accounts
        }

    def _has_turn(self, owner: Owner) -> bool:
        """Whether an account that may still be used can take another create in time."""
        terms, latest = self._terms(owner)
        left = (latest - self._clock.now()).total_seconds()
        return any(waits[0] <= left for waits in self._waits(terms, 0).values())

    async def _note_stop(self, reason: str) -> None:
        if reason:
            log.info("renting_stopped", owner=self._owner_id, reason=reason)
        await surely(self._db, self._clock, lambda tx: self._record.stop_renting(tx, reason), self._owner_id)

    async def _look(self) -> None:
        """List each account concerned once, so that prices are checked before the answer."""
        rows = (await self._stored())[1]
        concerned = {(r.provider, r.account) for r in rows if r.state in RENTED or r.state is LeaseState.UNKNOWN}
        left = min(self._context.limits.look_seconds, self._until - self._clock.monotonic())
        try:
            async with self._clock.timeout(max(0.0, left)):
                await self._context.watches.look(concerned)
        except (TimeoutError, Unavailable):
            return

    async def _ready_changed(self) -> bool:
        """Wait until all machines are ready (False) or one must be replaced (True)."""
        try:
            async with self._db.watch(f"reservation:{self._owner_id}") as wakeups:
                while self._going_on():
                    owner, rows = await self._stored()
                    kept = [lease for lease in rows if lease.state in KEEPABLE]
                    if replacements.had(rows) < owner.gpus and await self._another_round():
                        return True
                    if all(lease.state in (LeaseState.ACTIVE, LeaseState.PARKED) for lease in kept):
                        return False
                    async with self._clock.timeout(self._until - self._clock.monotonic()):
                        await self._changed_or_stopped(wakeups)
        except TimeoutError:
            pass
        return False

    async def _changed_or_stopped(self, wakeups: Wakeups) -> None:
        waits = [asyncio.ensure_future(wakeups.wait()), asyncio.ensure_future(self._stop.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _stored(self) -> tuple[Owner, tuple[Lease, ...]]:
        def read(tx: Tx) -> tuple[Owner, tuple[Lease, ...]]:
            return self._record.read(tx), leases.of_reservation(tx, ReservationId(self._owner_id))

        return await self._db.read(read)
