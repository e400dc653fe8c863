"""The rolling holds of what has no end: extended in time, or its machine ends before the money does.

A machine without an end holds the money for a horizon. Before that ends, the next one is held. If a limit refuses it,
the limit's policy decides, and the newest machines make room for older ones. Their holds end when they are proven gone
or stopped, so the older one asks again later. A machine that is still refused close to the end of its hold ends itself.

A pool's machines are stopped together. Its primary and its volume are never released here, and the storage of a stopped
machine is never a reason to release it: both are held whatever the limits say, and then nothing new is rented.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

import structlog

from gpuproxy.model.lease_facts import StopDue
from gpuproxy.model.leases import RENTED, Lease, LeaseId, LeaseState
from gpuproxy.model.limits import Hold, Over, Policy, SpendingLimit, Usage, held, raised
from gpuproxy.model.money import Micro
from gpuproxy.model.pools import Degraded, Pool, PoolEvent, PoolState
from gpuproxy.model.reasons import Reason
from gpuproxy.outcomes import record, spending
from gpuproxy.ports import Database, Tx
from gpuproxy.runtime.accounts import Accounts
from gpuproxy.runtime.limits import Limits
from gpuproxy.store import leases, limits, money_log, outbox, owners, pools, spend_limits
from gpuproxy.store.rows import micros, moment
from gpuproxy.store.spent import spent_on

log = structlog.get_logger(__name__)

_VOLUME_AGAIN = timedelta(days=1)
"""A volume's hold is extended by a day at least."""
_LATE = timedelta(hours=1)
"""How late a start may be carried out, where the marketplace has no known bound."""
_STRICTNESS: tuple[Policy, ...] = ("no_new", "stop_newest", "release_newest")


@dataclass(frozen=True, slots=True)
class _Due:
    """A hold that must be extended now, as it is to become."""

    lease: Lease
    wanted: Hold
    pool: Pool | None


class Horizons:
    """Extends holds, applies the policies of limits, and logs limits that are nearly reached."""

    def __init__(self, db: Database, accounts: Accounts, engine_limits: Limits) -> None:
        self._db = db
        self._accounts = accounts
        self.usages: Sequence[Usage] = ()
        """Of all limits, as the last step has read them."""
        self._horizon, self._margin = engine_limits.hold_ahead, engine_limits.hold_margin

    async def step(self) -> None:
        """Extend all holds that are due, and lower those of machines that stay stopped."""
        if await self._db.read(self._due):
            await self._db.write(self._extend)
        if await self._db.read(self._stay_stopped):
            await self._db.write(self._hold_their_disks)
        self.usages, levels = await self._db.read(_changed_levels)
        if levels:
            await self._db.write(lambda tx: _note_levels(tx, levels))

    def _stay_stopped(self, tx: Tx) -> list[Lease]:
        """The machines whose GPUs are still held after a start that failed or was cancelled, and can't happen now."""
        found = (leases.find(tx, LeaseId(hold.lease_id)) for hold in limits.of_stopped(tx, tx.now()))
        return [lease for lease in found if lease is not None and self._stays_stopped(lease, tx.now())]

    def _stays_stopped(self, lease: Lease, now: datetime) -> bool:
        try:
            late = self._accounts.provider_of(lease).capabilities.late_seconds
        except KeyError:  # an account of another server
            late = None
        bound = _LATE if late is None else timedelta(seconds=late)
        return lease.pending.stop_at is not None and lease.pending.stop_at + bound < now

    def _hold_their_disks(self, tx: Tx) -> None:
        for lease in self._stay_stopped(tx):
            if (hold := limits.hold_of(tx, lease.id)) is not None:
                limits.save_lower(tx, limits.parked(hold, lease))

    def _due(self, tx: Tx) -> list[_Due]:
        now = tx.now()
        found = []
        for hold in limits.ending(tx, now + spending.VOLUME_HORIZON - _VOLUME_AGAIN):
            lease = leases.find(tx, LeaseId(hold.lease_id))
            if lease is None or lease.is_prepaid:
                continue  # it is held by its bookings
            if _is_over(lease, now):
                if moment(hold.until) <= now + self._margin / 6:
                    found.append(_Due(lease, raised(hold, until=micros(now + self._margin / 3)), None))
                continue
            if lease.expires_at is not None:
                continue  # it is held until its end
            if lease.state not in RENTED and lease.state is not LeaseState.UNKNOWN:
                continue
            if lease.kind == "machine" and moment(hold.until) > now + self._margin:
                continue
            pool = pools.of_ledger(tx, lease.reservation_id)
            found.append(_Due(lease, self._wanted(tx, lease, hold, pool), pool))
        return found

    def _wanted(self, tx: Tx, lease: Lease, hold: Hold, pool: Pool | None) -> Hold:
        until = micros(spending.until_of(lease, tx.now(), self._horizon))
        if _rests(lease):
            return raised(limits.parked(hold, lease), until=until)
        is_primary = pool is not None and pool.primary == lease.id
        extra = spending.failover_of(lease) if is_primary else None
        return raised(hold, rate=lease.observed.price, until=until, extra=extra)

    def _extend(self, tx: Tx) -> None:
        for due in self._due(tx):
            lease = leases.get(tx, due.lease.id)  # an earlier one may have ended it
            if _is_over(lease, tx.now()) is not _is_over(due.lease, tx.now()):
                continue  # one that has just been ended still holds its time; the next step sees to it
            if lease.state is LeaseState.UNKNOWN or _is_over(lease, tx.now()):  # it costs money until it is proven gone
                limits.force(tx, due.wanted)
                continue
            if lease.state not in RENTED:
                continue
            refusals = limits.refusing(tx, [due.wanted], quotas=False, prolongs=True) if due.wanted.rate > 0 else []
            if refusals:
                self._refused(tx, due, refusals)
            elif due.wanted.rate > 0:
                limits.save(tx, due.wanted)
            else:
                limits.force(tx, due.wanted)

    def _refused(self, tx: Tx, due: _Due, refusals: Sequence[Over]) -> None:
        worst = max(refusals, key=lambda over: (_STRICTNESS.index(over.limit.policy), over.short))
        policy = worst.limit.policy
        if due.pool is not None and policy != "no_new":
            self._pool_refused(tx, due, due.pool, worst)
            return
        tx.after_commit(partial(money_log.limit_reached, worst, f"the hold of {due.lease.id} could not be extended"))
        if policy == "no_new" or (_rests(due.lease) and policy == "stop_newest"):
            limits.force(tx, due.wanted)
            return
        self._make_room(tx, worst, due.wanted)
        lease = leases.get(tx, due.lease.id)
        hold = limits.hold_of(tx, lease.id)
        last = tx.now() + self._margin / 3
        if lease.state in RENTED and hold is not None and moment(hold.until) <= last:
            self._end(tx, lease, worst)

    def _pool_refused(self, tx: Tx, due: _Due, pool: Pool, over: Over) -> None:
        """Have the machines of a pool stopped. What costs money in any case is held whatever the limits say.

        While a machine can't be stopped yet, its money is held for a moment only: the next check tries it again.
        """
        if _stop_pool(tx, pool, due.lease, over):
            tx.after_commit(partial(money_log.limit_reached, over, f"the hold of {due.lease.id} could not be extended"))
        if due.lease.kind == "volume" or _rests(due.lease):
            limits.force(tx, due.wanted)
            return
        hold = limits.hold_of(tx, due.lease.id)
        if hold is not None:
            soon = micros(tx.now() + self._margin / 3)
            limits.force(tx, raised(hold, rate=max(hold.rate, due.wanted.rate), until=soon))

    def _make_room(self, tx: Tx, over: Over, asking: Hold) -> None:
        """End the newest machines that the limit covers, until what they hold is enough for what is asked.

        Only machines that are newer than the one that asks make room for it. One that was paid in advance makes none.
        """
        now, needed = micros(tx.now()), over.short
        span = over.span or over.limit.window.span(now)
        covered = [hold for hold in limits.all_holds(tx, None) if over.limit.covers(hold.project, hold.key_id)]
        candidates: list[tuple[Lease, int]] = []
        for hold in sorted(covered, key=_age, reverse=True):
            lease = leases.get(tx, LeaseId(hold.lease_id))
            if over.missing_later is None:
                amount = held(hold, over.limit.window, span, now, partial(_past, tx))
            else:
                amount = hold.at_end(asking.until - over.limit.window.length, asking.until, now)
            if lease.state is LeaseState.RELEASING or (_stops(lease) and lease.state is not LeaseState.PARKED):
                needed -= amount  # it makes room by itself
            elif amount > 0 and _may_be_ended(lease) and _age(hold) > _age(asking):
                candidates.append((lease, amount))
        for lease, amount in candidates:
            if needed <= 0:
                return
            if owners.of(tx, lease).kind == "pool":
                continue
            self._end(tx, lease, over)
            needed -= amount

    def _end(self, tx: Tx, lease: Lease, over: Over) -> None:
        """Stop a machine if the policy wants that and the marketplace can, otherwise release it."""
        stops = over.limit.policy == "stop_newest" and self._can_stop(lease)
        if stops:
            leases.note(tx, lease, StopDue(tx.now()))
        else:
            record.release(tx, lease, Reason.BUDGET_EXCEEDED)
        outbox.of_ended_by_limit(tx, over.usage, lease, stops=stops)
        what = "machine_stopped_by_limit" if stops else "machine_released_by_limit"
        tx.after_commit(lambda: log.warning(what, lease=lease.id, contract=lease.instance_id, limit=over.limit.id))

    def _can_stop(self, lease: Lease) -> bool:
        if lease.observed.ready_at is None or lease.is_prepaid:
            return False
        try:
            return "stop_start" not in self._accounts.provider_of(lease).capabilities.missing
        except KeyError:  # an account of another server, which stops it
            return True


def _age(hold: Hold) -> tuple[int, str]:
    """A sort key: older machines come first."""
    return hold.since, hold.lease_id


def _is_over(lease: Lease, now: datetime) -> bool:
    """True for what may still cost its whole price, although it is being released or its end has come."""
    if lease.state is LeaseState.PARKED or lease.kind != "machine":
        return False
    return lease.state is LeaseState.RELEASING or (lease.expires_at is not None and lease.expires_at <= now)


def _rests(lease: Lease) -> bool:
    """True for a machine that is stopped and is to stay so."""
    return lease.state is LeaseState.PARKED and lease.pending.stop_at is not None


def _may_be_ended(lease: Lease) -> bool:
    """True for a running machine without an end. The money of one with an end is held, so it runs to its end."""
    return lease.kind == "machine" and lease.state in RENTED and lease.expires_at is None and not _rests(lease)


def _stops(lease: Lease) -> bool:
    return lease.state in RENTED and lease.pending.stop_at is not None


def _past(tx: Tx, lease_id: str, since: int) -> Micro:
    return spent_on(tx, LeaseId(lease_id), moment(since), tx.now())


def _stop_pool(tx: Tx, pool: Pool, machine: Lease, over: Over) -> bool:
    """Make the supervisor stop the pool's machines; True if that is new. A suspended failover ends.

    A pool that is being made or fails over is asked again after that. The machine of a disabled pool is stopped here.
    """
    now = pools.get(tx, pool.id)
    if now.state is PoolState.DISABLED:
        stops = machine.kind == "machine" and machine.pending.stop_at is None
        if stops:
            leases.note(tx, machine, StopDue(tx.now()))
        return stops
    if now.degraded is Degraded.OVER_BUDGET or now.wanted != "supervised":
        return False
    why = f"{Degraded.OVER_BUDGET.sentence} The limit is {over.limit.text}."
    stopped = replace(now, degraded=Degraded.OVER_BUDGET, error=why)
    if now.state is PoolState.ACTIVE:
        pools.advance(tx, now, PoolEvent.STANDBY_LOST, why, stopped)
    elif now.state is PoolState.DEGRADED:
        if (incident := pools.open_incident(tx, now.id)) is not None:
            pools.save_incident(tx, replace(incident, ended_at=tx.now(), outcome="failed", reason=why))
        pools.save(tx, now, stopped)
    else:
        return False
    return True


# -- what is logged of limits


def _changed_levels(tx: Tx) -> tuple[list[Usage], list[SpendingLimit]]:
    found = limits.usages(tx, spend_limits.listed(tx))
    return found, [usage.limit for usage in found if _level(usage) != spend_limits.level_of(tx, usage.limit)]


def _level(usage: Usage) -> int:
    return 2 if usage.left <= 0 else int(usage.near)


def _note_levels(tx: Tx, changed: Sequence[SpendingLimit]) -> None:
    for usage in limits.usages(tx, changed):
        if not spend_limits.note_level(tx, usage, _level(usage)):
            continue
        if usage.left > 0:
            tx.after_commit(partial(money_log.limit_near, usage))
        else:
            over = Over(usage=usage, asked=0)
            tx.after_commit(partial(money_log.limit_reached, over, "all of it is spent or held"))
