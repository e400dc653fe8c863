"""Renting for one owner: rounds of choosing, intending and creating, until nothing is missing or the time is up.

Invariants (each tested by name):
1. No paid call without a committed lease in `requested`; `call_started_at` is committed just before each send.
2. No network call inside a unit of work.
3. A lease changes only through store.leases. A known instance id is never dropped.
4. At most one live lease has a given exclusive key. Kept GPUs never exceed what the owner wants.
5. A terminal state is recorded only when the provider confirms it.

A rental knows its owner (`OwnerRecord`) and what to rent (`Order`). It knows nothing of calls: `joins` handles callers
and reports the outcome to them.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import structlog

from gpuproxy.loadbalancer.balancer import Choice
from gpuproxy.loadbalancer.choice import Chooser, Terms
from gpuproxy.loadbalancer.exclusions import Exclusions
from gpuproxy.model.demands import Order
from gpuproxy.model.errors import ClaimLost, Conflict, Refusal, Taken, TurnTaken, Unavailable
from gpuproxy.model.groups import ANY_GROUP, Group
from gpuproxy.model.labels import Signer
from gpuproxy.model.leases import KEEPABLE, RENTED, Lease, LeaseState
from gpuproxy.model.limits import BudgetExceeded
from gpuproxy.model.offers import AccountKey, Offer, OfferId
from gpuproxy.model.owners import Owner, OwnerId
from gpuproxy.model.reasons import Reason
from gpuproxy.model.strategies import STRATEGIES
from gpuproxy.outcomes import spending
from gpuproxy.ports import Clock, Database, Tx, Wakeups
from gpuproxy.reconcile.watches import Watches
from gpuproxy.rental import intents, replacements
from gpuproxy.rental.attempt import Attempts
from gpuproxy.rental.owner import OwnerRecord
from gpuproxy.runtime.accounts import Accounts
from gpuproxy.runtime.background import Background
from gpuproxy.runtime.limits import Limits
from gpuproxy.runtime.persist import read_until_answered, write_until_committed
from gpuproxy.store import money_log, owners

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RentalContext:
    """What all rentals share."""

    db: Database
    clock: Clock
    limits: Limits
    chooser: Chooser
    accounts: Accounts
    attempts: Attempts
    watches: Watches
    signer: Signer
    check_key: str = ""
    """A public key that must be able to log in before a machine counts as ready; "" if none is used."""


class Rental:
    """Rents what is ordered, as far as it is available, and replaces what fails."""

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
        """No round begins after `until` (a reading of Clock.monotonic()) or once `stop` is set.

        `until_ready`: continue until the machines are ready, and replace those that fail before that.
        """
        self._context = context
        self._db = context.db
        self._clock = context.clock
        self._record = record
        self._order = order
        self._until = until
        self._until_ready = until_ready
        self._stop = stop or asyncio.Event()
        self._exclusions = Exclusions(accounts=context.accounts.regions.of_others(record.project))
        self._owner_id = OwnerId("")
        self._attempts = Background("create")

    @property
    def queue_seconds(self) -> float:
        """The longest wait for a turn that exceeded the deadline, in seconds; 0 if there was none."""
        return self._exclusions.queue_seconds

    async def preview(self, key_id: str) -> Choice:
        """What would be rented now with an API key. Nothing is written. Raises what renting would raise."""
        await self._refresh(None)
        while True:
            choice = await self._choose(self._order.count, None)
            owner = self._record.draft(choice.decision, self._clock.now())
            try:
                await self._db.read(partial(self._check, self._intent(owner, choice, first=True), key_id))
            except TurnTaken:  # the accounts that were chosen were paused meanwhile
                continue
            return choice

    def _check(self, intent: intents.Intent, key_id: str, tx: Tx) -> None:
        planned = intents.planned(tx, intent)
        spending.check_creates(tx, planned, self._context.limits.hold_ahead, key_id=key_id)

    async def begin(self) -> None:
        """Choose, and commit the owner with its first intents. If this raises, nothing is stored."""
        await self._refresh(None)
        await self._choose_and_intend(self._order.count, None)

    async def run(self) -> None:
        """Wait for the creates and replace what failed, round after round.

        Never raises: the caller must still conclude the reservation. A crash is logged and ends the rounds.
        """
        try:
            while await self._run_round():
                pass
        except ClaimLost:
            log.info("rental_taken_over", owner=self._owner_id)
        except Exception:
            log.exception("rental_crashed", owner=self._owner_id)
        self._stop.set()

    async def _run_round(self) -> bool:
        await self._await_creates()
        if not self._may_continue():
            return False
        if await self._replace_missing():
            return True
        await self._check_prices()
        if self._until_ready:
            self._context.watches.nudge()  # otherwise a pass of an account that was idle could be half a minute away
        return await self._replace_missing() or (self._until_ready and await self._wait_for_ready())

    async def _refresh(self, owner: Owner | None) -> None:
        await self._context.chooser.refresh(self._order, self._until, self._needed_until(owner))

    async def _choose(self, gpus: int, owner: Owner | None, group: Group = ANY_GROUP) -> Choice:
        until = self._needed_until(owner)
        return await self._context.chooser.choose(
            self._order, gpus, self._order.strategy, self._exclusions, until=until, group=group, first=owner is None
        )

    def _needed_until(self, owner: Owner | None) -> datetime:
        """Until when an offer must last that is rented now for the stored `owner` or for a new one (None)."""
        now = self._clock.now()
        end = self._record.wanted_until(now) if owner is None else owner.wanted_until
        return end or now + timedelta(seconds=self._context.limits.min_offer_seconds)

    async def _choose_and_intend(self, gpus: int, owner: Owner | None, group: Group = ANY_GROUP) -> None:
        """Choose and commit the intents under one lock, for the stored `owner` or for a new one (None).

        `group`: the only group to rent from.
        """
        async with self._context.chooser.lock:
            taken: set[OfferId] = set()
            while True:
                choice = await self._choose(gpus, owner, group)
                intended_for = owner or self._record.draft(choice.decision, self._clock.now())
                try:
                    await self._intend(intended_for, choice, first=owner is None)
                except (TurnTaken, Taken) as error:  # another process has chosen the same meanwhile
                    if isinstance(error, Taken) and error.table != "holds":
                        raise
                    if not self._may_continue():
                        raise Unavailable("Other calls took the same offers until the deadline.") from error
                    if isinstance(error, Taken):
                        picked = {offer.id for offer in choice.picks}
                        if picked == taken:  # chosen again although its keys are free: it can't be had
                            self._exclusions.offers |= picked
                        taken = picked
                    continue
                self._owner_id = intended_for.id
                return

    def _intent(self, owner: Owner, choice: Choice, *, first: bool) -> intents.Intent:
        terms, latest = self._terms(owner)
        return intents.Intent(
            owner=owner,
            insert=self._record.insert if first else None,
            read=self._record.read,
            picks=choice.picks,
            wanted=self._order.filter,
            spec=self._order.spec,
            terms=terms,
            rotation=choice.rotation if STRATEGIES[owner.strategy].rotates else None,
            waits=self._waits(terms, len(choice.picks)),
            latest=latest,
            prepaid_hours=self._context.limits.prepaid_hours,
            suits=self._suits,
            regions=self._context.accounts.regions,
            max_unknown=self._context.limits.max_unknown,
            admit=partial(spending.admit_creates, horizon=self._context.limits.hold_ahead),
        )

    async def _intend(self, owner: Owner, choice: Choice, *, first: bool) -> None:
        intent = self._intent(owner, choice, first=first)

        def write(tx: Tx) -> tuple[Lease, ...]:
            if not first:
                self._record.require(tx)
            return intents.write(tx, intent, self._context.signer)

        try:
            made = await self._db.write(write)
        except BudgetExceeded as refusal:
            money_log.limit_reached(refusal.over, "a reservation was refused")
            raise
        for lease, offer in zip(made, choice.picks, strict=True):
            if lease.state is LeaseState.REQUESTED:
                attempt = self._context.attempts.of(
                    lease, offer, self._order.spec, intent.latest, self._record.require, elsewhere=self._elsewhere
                )
                self._attempts.start(attempt.run(self._stop, self._exclusions), lease.id)
            elif lease.reason == Reason.NOT_ATTEMPTED:
                turns = self._context.accounts.creates((lease.provider, lease.account))
                self._exclusions.queued(turns.wait(self._record.project))

    async def _await_creates(self) -> None:
        """Wait until every create has an outcome or the time is up. No create in flight is cancelled."""
        left = self._until - self._clock.monotonic()
        try:
            async with self._clock.timeout(max(0.0, left)):
                await self._attempts.finished()
        except TimeoutError:
            return

    def _terms(self, owner: Owner) -> tuple[Terms, datetime]:
        """The accounts that may be used, and the last time at which a create may be sent.

        The answer to that create must come before the call's deadline and before the owner's agreement ends.
        """
        terms = self._context.chooser.terms(self._order, self._exclusions)
        usual = max((c.create_seconds for accounts in terms.values() for c in accounts.values()), default=0.0)
        in_time = self._clock.now() + timedelta(seconds=self._until - self._clock.monotonic() - usual)
        if owner.wanted_until is None:
            return terms, in_time
        return terms, min(in_time, owner.wanted_until - timedelta(seconds=usual))

    def _may_continue(self) -> bool:
        return not self._stop.is_set() and self._clock.monotonic() < self._until

    async def _replace_missing(self) -> bool:
        """Choose and commit replacements. False when no GPUs are missing or no offer fits."""
        if not self._may_continue():
            return False
        owner, rows = await self._stored()
        self._exclusions.hosts |= replacements.failed_hosts(rows)
        factor, on_not_ready = self._context.limits.replacement_factor, self._order.on_not_ready
        allowed = replacements.replacement(owner.gpus, rows, factor, on_not_ready)
        if allowed.stopped != owner.stopped:
            await self._note_stop(allowed.stopped)
        if not allowed.gpus or owner.closing or len(rows) >= self._context.limits.max_rounds * owner.gpus:
            return False
        if not self._has_turn(owner):
            return False
        try:
            await self._refresh(owner)
            await self._choose_and_intend(allowed.gpus, owner, replacements.group(rows, self._order.alike))
        except (Refusal, Conflict) as error:
            log.info("replacement_failed", owner=self._owner_id, missing=allowed.gpus, error=str(error))
            return False
        return bool(self._attempts)

    def _waits(self, terms: Terms, creates: int) -> Mapping[AccountKey, Sequence[float]]:
        """The waits of each account for 0 to `creates` more creates.

        Computed here and not in the unit of work, because the queues belong to the thread of the event loop.
        """
        return {
            (provider, account): self._context.accounts.waits((provider, account), self._record.project, creates)
            for provider, accounts in terms.items()
            for account in accounts
        }

    def _suits(self, account: AccountKey, more: int) -> int | None:
        """How well an account suits another create: see Circuit.rank. One that can't be listed suits less."""
        rank = self._context.accounts.circuit(account).rank(more)
        silent = self._context.watches.at(account).silent_since is not None
        return rank if rank is None else max(rank, int(silent))

    async def _elsewhere(self, lease: Lease, offer: Offer) -> float | None:
        """The seconds until another account that suits could send this create; None if none could."""
        accounts = self._context.chooser.terms(self._order, self._exclusions).get(lease.provider, {})
        others = self._context.accounts.regions.preferences(offer, set(accounts) - {lease.account})
        keys = [key for account in others if self._suits(key := (lease.provider, account), 0) == 0]
        if not keys:
            return None
        limit = self._context.limits.max_unknown
        usable = await self._db.read(lambda tx: [key for key in keys if intents.is_usable(tx, key, limit)])
        return min((self._context.accounts.creates(key).wait(lease.project) for key in usable), default=None)

    def _has_turn(self, owner: Owner) -> bool:
        """Whether any usable account has a turn for another create in time."""
        terms, latest = self._terms(owner)
        left = (latest - self._clock.now()).total_seconds()
        return any(waits[0] <= left for waits in self._waits(terms, 0).values())

    async def _note_stop(self, reason: Reason) -> None:
        if reason:
            log.info("renting_stopped", owner=self._owner_id, reason=reason)
        await write_until_committed(
            self._db, self._clock, lambda tx: self._record.stop_renting(tx, reason), self._owner_id
        )

    async def _check_prices(self) -> None:
        """List each account involved once, so that prices are checked before the answer."""
        rows = (await self._stored())[1]
        concerned = {(r.provider, r.account) for r in rows if r.state in RENTED or r.state is LeaseState.UNKNOWN}
        left = min(self._context.limits.look_seconds, self._until - self._clock.monotonic())
        try:
            async with self._clock.timeout(max(0.0, left)):
                await self._context.watches.look(concerned)
        except (TimeoutError, Unavailable):
            return

    async def _wait_for_ready(self) -> bool:
        """Wait until all machines are ready (False) or a replacement was started (True)."""
        try:
            async with self._db.watch(owners.topic(self._owner_id)) as wakeups:
                while self._may_continue():
                    owner, rows = await self._stored()
                    kept = [lease for lease in rows if lease.state in KEEPABLE]
                    if self._covered(rows) < owner.gpus and await self._replace_missing():
                        return True
                    if all(lease.state in (LeaseState.ACTIVE, LeaseState.PARKED) for lease in kept):
                        return False
                    async with self._clock.timeout(self._until - self._clock.monotonic()):
                        await self._changed_or_stopped(wakeups)
        except TimeoutError:
            pass
        return False

    def _covered(self, rows: Sequence[Lease]) -> int:
        return replacements.covered_gpus(rows, self._order.on_not_ready)

    async def _changed_or_stopped(self, wakeups: Wakeups) -> None:
        waits = [asyncio.ensure_future(wakeups.wait()), asyncio.ensure_future(self._stop.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _stored(self) -> tuple[Owner, tuple[Lease, ...]]:
        def read(tx: Tx) -> tuple[Owner, tuple[Lease, ...]]:
            owners.leases_ahead(tx, self._owner_id)
            return self._record.read(tx), owners.leases_of(tx, self._owner_id)

        return await read_until_answered(self._db, self._clock, read, self._owner_id)
