"""One running ReserveGPUs call: rounds of choosing, intending and creating, until nothing is missing or time is up."""

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from gpuproxy.catalog.refresh import Catalog
from gpuproxy.loadbalancer.balancer import Choice
from gpuproxy.loadbalancer.choice import Chooser, Terms
from gpuproxy.loadbalancer.learnt import Learnt
from gpuproxy.loadbalancer.setting import strategy_for
from gpuproxy.model.demands import Caller, Demand, LaunchSpec
from gpuproxy.model.errors import Conflict, Refusal, TurnTaken, Unavailable
from gpuproxy.model.labels import Signer
from gpuproxy.model.leases import KEEPABLE, RENTED, Lease, LeaseState, ReservationId
from gpuproxy.model.offers import AccountKey
from gpuproxy.model.reservations import NOT_ATTEMPTED, Reservation, ReservationView
from gpuproxy.model.strategies import STRATEGIES
from gpuproxy.outcomes import answers, record
from gpuproxy.outcomes.view import view, with_leases
from gpuproxy.ports import Clock, Database, Random, Tx, Wakeups
from gpuproxy.reconcile.observe import AccountWatch
from gpuproxy.rental import intents, replacing
from gpuproxy.rental.attempt import Attempt
from gpuproxy.runtime.accounts import Accounts
from gpuproxy.runtime.limits import Limits
from gpuproxy.runtime.persist import surely
from gpuproxy.store import leases, reservations, ssh_keys

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What every call works with."""

    db: Database
    clock: Clock
    random: Random
    accounts: Accounts
    catalog: Catalog
    chooser: Chooser
    signer: Signer
    watches: tuple[AccountWatch, ...]
    limits: Limits
    default_strategy: str
    owner: str
    """Names this process."""

    def watch_of(self, lease: Lease) -> AccountWatch:
        """Who looks after the lease's account."""
        key = lease.provider, lease.account
        return next(each for each in self.watches if (each.provider.name, each.provider.account) == key)

    def nudge(self) -> None:
        """Let the accounts be looked at soon."""
        for watch in self.watches:
            watch.nudge()


class Call:
    """The state of one call. `waiters`, `gone` and `stop` belong to the Reserver."""

    task: asyncio.Task[ReservationView]

    def __init__(self, shop: Workshop, caller: Caller, demand: Demand) -> None:
        self.demand = demand
        self.caller = caller
        self.reservation_id = ReservationId("")
        self.waiters = 0
        self.gone = False
        self.stop = asyncio.Event()
        self._shop = shop
        self._learnt = Learnt()
        self._strategy = ""
        self._spec = demand.spec
        self._attempts: set[asyncio.Task[None]] = set()
        margin = shop.limits.answer_margin * shop.clock.scale
        unattended = shop.clock.monotonic() + shop.limits.unattended_seconds
        self._answer_by = caller.deadline - margin if demand.wait else unattended

    @property
    def kept(self) -> bool:
        """True when what comes after the answer is kept: the caller can find it, or was told to look."""
        return self.findable or not self.demand.wait

    @property
    def findable(self) -> bool:
        """True when the caller can find what exists without the answer."""
        return bool(self.demand.request_id) or self.demand.keep_late

    async def preview(self) -> ReservationView:
        """What would be picked, and at what price; nothing is written."""
        strategy = await self._chosen_strategy()
        await self._shop.chooser.refresh(self.demand, self._answer_by)
        choice = await self._choose(self.demand.count, strategy)
        planned = self._reservation(strategy, choice, self._shop.clock.now())
        reservation = replace(planned, id=ReservationId(""), message="Dry run: nothing was rented.")
        return ReservationView(reservation=reservation, leases=(), costs=())

    async def begin(self) -> None:
        """Choose and commit the first intents; a refusal here leaves nothing behind."""
        self._strategy = await self._chosen_strategy()
        self._spec = await self._with_project_keys()
        await self._shop.chooser.refresh(self.demand, self._answer_by)
        self.reservation_id = await self._choose_and_intend(self.demand.count, None)

    async def finish(self) -> ReservationView:
        """See the creates through, replace what was refused, and answer; raises the call's refusal.

        What goes wrong on the way ends the rounds, never the call: its machines would be nobody's.
        """
        try:
            while await self._goes_another_round():
                pass
        except Exception:
            log.exception("call_cut_short", reservation=self.reservation_id)
        return await self._answer()

    async def _goes_another_round(self) -> bool:
        await self._creates()
        if not self._going_on():
            return False
        if await self._another_round():
            return True
        await self._look()
        return await self._another_round() or (self.demand.wait_for == "ready" and await self._ready_changed())

    async def view(self) -> ReservationView:
        """The reservation as the books have it."""
        return await self._shop.db.read(lambda tx: view(tx, self.reservation_id))

    async def _chosen_strategy(self) -> str:
        default, asked = self._shop.default_strategy, self.demand.strategy
        return await self._shop.db.read(lambda tx: strategy_for(tx, self.caller.project, default, asked))

    async def _with_project_keys(self) -> LaunchSpec:
        """The project's own SSH keys go with the caller's. They demand nothing of a provider that takes none."""
        rows = await self._shop.db.read(lambda tx: ssh_keys.listed(tx, self.caller.project))
        keys = (*self.demand.spec.ssh_public_keys, *(row.public_key for row in rows))
        return replace(self.demand.spec, ssh_public_keys=tuple(dict.fromkeys(keys)))

    async def _choose(self, gpus: int, strategy: str) -> Choice:
        return await self._shop.chooser.choose(self.demand, gpus, strategy, self._learnt)

    async def _choose_and_intend(self, gpus: int, open_one: Reservation | None) -> ReservationId:
        """As one step, for the reservation that is open or else for a new one."""
        async with self._shop.chooser.lock:
            while True:
                choice = await self._choose(gpus, self._strategy)
                reservation = open_one or self._reservation(self._strategy, choice, self._shop.clock.now())
                try:
                    await self._intend(reservation, choice, first=open_one is None)
                except TurnTaken:
                    continue
                return reservation.id

    async def _intend(self, reservation: Reservation, choice: Choice, *, first: bool) -> None:
        clock = self._shop.clock
        terms, latest = self._terms(reservation)
        intent = intents.Intent(
            reservation=reservation,
            first=first,
            picks=choice.picks,
            wanted=self.demand.filter,
            terms=terms,
            rotation=choice.rotation if STRATEGIES[reservation.strategy].rotates else None,
            waits=self._waits(terms, len(choice.picks)),
            latest=latest,
        )
        made = await self._shop.db.write(lambda tx: intents.write(tx, intent, self._shop.signer))
        for lease, offer in zip(made, choice.picks, strict=True):
            if lease.state is LeaseState.REQUESTED:
                self._launch(Attempt(
                    lease, offer, self._spec, provider=self._shop.accounts.holding(lease),
                    turns=self._shop.accounts.creates((lease.provider, lease.account)), latest=latest,
                    listed_since=self._shop.watch_of(lease).listed_since, catalog=self._shop.catalog,
                    db=self._shop.db, clock=clock,
                ))  # fmt: skip
            elif lease.reason == NOT_ATTEMPTED:
                turns = self._shop.accounts.creates((lease.provider, lease.account))
                self._learnt.queued(turns.wait(self.caller.project))

    def _launch(self, attempt: Attempt) -> None:
        task = asyncio.create_task(attempt.run(self.stop, self._learnt))
        self._attempts.add(task)
        task.add_done_callback(self._attempts.discard)
        task.add_done_callback(_log_crash)

    async def _creates(self) -> None:
        """Wait until every create has an outcome, or the answer is due; none in flight is cancelled."""
        left = self._answer_by - self._shop.clock.monotonic()
        try:
            async with self._shop.clock.timeout(max(0.0, left)):
                while self._attempts:
                    await asyncio.wait(self._attempts)
        except TimeoutError:
            return

    def _terms(self, reservation: Reservation) -> tuple[Terms, datetime]:
        """The accounts that may be used, and when the last create may be sent.

        Its answer must come in time for the caller, and before the lease ends.
        """
        clock, terms = self._shop.clock, self._shop.chooser.terms(self.demand, self._learnt)
        usual = max((c.create_seconds for accounts in terms.values() for c in accounts.values()), default=0.0)
        in_time = clock.now() + timedelta(seconds=self._answer_by - clock.monotonic() - usual)
        if reservation.expires_at is None:
            return terms, in_time
        return terms, min(in_time, reservation.expires_at - timedelta(seconds=usual))

    def _going_on(self) -> bool:
        return not self.stop.is_set() and self._shop.clock.monotonic() < self._answer_by

    async def _another_round(self) -> bool:
        """Intend replacements for what is missing; False when nothing is, or nothing fits."""
        if not self._going_on():
            return False
        reservation, rows = await self._shop.db.read(lambda tx: with_leases(tx, self.reservation_id))
        self._learnt.hosts |= replacing.failed_hosts(rows)
        allowed = replacing.replacement(reservation.count, rows, self._shop.limits.replacement_factor)
        if allowed.stopped != reservation.stopped:
            await self._note_stop(allowed.stopped)
        if not allowed.gpus or reservation.closing or len(rows) >= self._shop.limits.max_rounds * reservation.count:
            return False
        if not self._has_turn(reservation):
            return False
        try:
            await self._shop.chooser.refresh(self.demand, self._answer_by)
            await self._choose_and_intend(allowed.gpus, reservation)
        except (Refusal, Conflict) as error:
            log.info("no_replacement", reservation=self.reservation_id, missing=allowed.gpus, error=str(error))
            return False
        return bool(self._attempts)

    def _waits(self, terms: Terms, creates: int) -> dict[AccountKey, list[float]]:
        """Of each account for none to so many creates; taken here, for the queues belong to the loop's thread."""
        keys = [(provider, account) for provider, accounts in terms.items() for account in accounts]
        return {
            key: [self._shop.accounts.creates(key).wait(self.caller.project, more) for more in range(creates + 1)]
            for key in keys
        }

    def _has_turn(self, reservation: Reservation) -> bool:
        """Whether an account that may still be used can take another create in time."""
        terms, latest = self._terms(reservation)
        left = (latest - self._shop.clock.now()).total_seconds()
        return any(waits[0] <= left for waits in self._waits(terms, 0).values())

    async def _note_stop(self, reason: str) -> None:
        """Why no more machines are rented is kept with the reservation: its message says so."""
        if reason:
            log.info("renting_stopped", reservation=self.reservation_id, reason=reason)

        def write(tx: Tx) -> None:
            reservation, rows = with_leases(tx, self.reservation_id)
            reservations.change(tx, reservation, rows, stopped=reason)

        await surely(self._shop.db, self._shop.clock, write, self.reservation_id)

    async def _look(self) -> None:
        """One listing of each account concerned, so that prices are checked before the answer."""
        rows = (await self._shop.db.read(lambda tx: with_leases(tx, self.reservation_id)))[1]
        concerned = {(r.provider, r.account) for r in rows if r.state in RENTED or r.state is LeaseState.UNKNOWN}
        watches = [w for w in self._shop.watches if (w.provider.name, w.provider.account) in concerned]
        left = min(self._shop.limits.look_seconds, self._answer_by - self._shop.clock.monotonic())
        try:
            async with self._shop.clock.timeout(max(0.0, left)):
                await asyncio.gather(*(watch.look() for watch in watches))
        except (TimeoutError, Unavailable):
            return

    async def _ready_changed(self) -> bool:
        """Wait until all machines are ready (False) or one must be replaced (True)."""
        topic = f"reservation:{self.reservation_id}"
        try:
            async with self._shop.db.watch(topic) as wakeups:
                while self._going_on():
                    reservation, rows = await self._shop.db.read(lambda tx: with_leases(tx, self.reservation_id))
                    kept = [lease for lease in rows if lease.state in KEEPABLE]
                    if replacing.had(rows) < reservation.count and await self._another_round():
                        return True
                    if all(lease.state in (LeaseState.ACTIVE, LeaseState.PARKED) for lease in kept):
                        return False
                    async with self._shop.clock.timeout(self._answer_by - self._shop.clock.monotonic()):
                        await self._changed_or_stopped(wakeups)
        except TimeoutError:
            pass
        return False

    async def _changed_or_stopped(self, wakeups: Wakeups) -> None:
        waits = [asyncio.ensure_future(wakeups.wait()), asyncio.ensure_future(self.stop.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _answer(self) -> ReservationView:
        """Settle the call in one unit of work and tell its caller."""
        self.stop.set()
        answered = await surely(self._shop.db, self._shop.clock, self._settle, self.reservation_id)
        self._shop.nudge()
        if answered.reservation.failure is not None:
            raise answers.refusal_of(answered.reservation.failure)
        return answered

    def _settle(self, tx: Tx) -> ReservationView:
        for lease in leases.of_reservation(tx, self.reservation_id):
            if lease.state is LeaseState.REQUESTED and lease.call_started_at is None:
                record.not_attempted(tx, lease.id)
        reservation, rows = with_leases(tx, self.reservation_id)
        verdict = answers.verdict(reservation, rows, gone=self.gone, queue_seconds=self._learnt.queue_seconds)
        reservations.change(
            tx,
            reservation,
            rows,
            settled_at=reservation.settled_at or tx.now(),
            answered_at=tx.now(),
            message=verdict.message,
            failure=verdict.failure,
            request_id="" if verdict.retryable else reservation.request_id,
        )
        if verdict.closing:
            record.close(tx, self.reservation_id, verdict.closing)
        return view(tx, self.reservation_id)

    def _reservation(self, strategy: str, choice: Choice, now: datetime) -> Reservation:
        demand = self.demand
        least = demand.count if demand.all_or_nothing else demand.min_count or 0
        return Reservation(
            id=ReservationId(f"res-{self._shop.random.token(8)}"),
            project=self.caller.project,
            request_id=demand.request_id,
            fingerprint=demand.fingerprint,
            count=demand.count,
            least=least,
            keep=self.kept,
            strategy=strategy,
            labels=demand.labels,
            created_at=now,
            expires_at=now + demand.lease_duration if demand.lease_duration else None,
            version=1,
            replace_unready=demand.on_not_ready == "replace",
            ready_timeout_s=demand.ready_timeout.total_seconds(),
            owner=self._shop.owner,
            key_id=self.caller.key_id,
            decision=choice.decision,
        )


def _log_crash(task: asyncio.Task[None]) -> None:
    """A bug in an attempt: its lease stays as it is, and the reconciler finds out what came of the call."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("attempt_crashed", exc_info=error)
