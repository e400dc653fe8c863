"""The admission of spending: what each intent asks of `store.limits.admit`. Parts of a unit of work.

A lease with an end holds its price until then. A lease without one holds a rolling horizon, which is extended while it
runs. Raises BudgetExceeded, or the error of a quota, before anything is written.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from gpuproxy.model.bookings import HOUR
from gpuproxy.model.errors import FailedPrecondition
from gpuproxy.model.lease_facts import StopDue
from gpuproxy.model.leases import LIVE, RENTED, Lease, LeaseState
from gpuproxy.model.limits import BudgetExceeded, Hold, Over
from gpuproxy.model.money import Micro, accrued
from gpuproxy.model.reasons import Reason
from gpuproxy.outcomes import record
from gpuproxy.ports import Tx
from gpuproxy.store import leases, limits, money_log, owners
from gpuproxy.store.rows import micros

VOLUME_HORIZON = timedelta(days=30)
"""How far ahead the storage of a pool's volume is held."""
FAILOVER = timedelta(hours=1)
"""How long two machines of a pool may be paid at once in a failover. It is held beside the primary."""


def until_of(lease: Lease, now: datetime, horizon: timedelta) -> datetime:
    """Until when a lease is held that is admitted now."""
    if lease.is_prepaid:
        left = timedelta(0) if lease.expires_at is None else lease.expires_at - now
        return now + max(lease.prepaid.booked_hours, -(-left // HOUR)) * HOUR
    if lease.kind == "volume":
        return lease.expires_at or now + VOLUME_HORIZON
    return lease.expires_at or now + horizon


def admit_creates(tx: Tx, made: Sequence[Lease], horizon: timedelta, *, failover: bool = False) -> None:
    """Hold the money for new leases. Those that are not attempted any more need none.

    `failover`: also for the next failover of the pool whose primary it is.
    """
    attempted = [lease for lease in made if lease.state is LeaseState.REQUESTED]
    for lease in attempted:
        limits.ahead(tx, lease.id)
    wanted = [
        limits.wanted(tx, lease, until_of(lease, tx.now(), horizon), extra=failover_of(lease) if failover else None)
        for lease in attempted
    ]
    if wanted:
        limits.admit(tx, wanted)


def check_creates(tx: Tx, planned: Sequence[Lease], horizon: timedelta, *, key_id: str) -> None:
    """Raise what `admit_creates` would raise for leases that are only planned. Nothing is written."""
    wanted = [limits.wanted(tx, lease, until_of(lease, tx.now(), horizon)) for lease in planned]
    limits.check(tx, [replace(hold, key_id=key_id) for hold in wanted])


def admit_start(tx: Tx, lease: Lease, horizon: timedelta) -> None:
    """Hold the whole price of a stopped machine that is to be started."""
    limits.admit(tx, [limits.wanted(tx, lease, until_of(lease, tx.now(), horizon))])


def admit_longer(tx: Tx, rows: Sequence[Lease], until: datetime) -> None:
    """Hold the money for leases whose end moves. A stopped machine goes on to cost its disk only."""
    wanted = [
        replace(hold, until=max(hold.until, micros(_whole_hours(tx, lease, until))))
        for lease in rows
        if lease.state in LIVE and (hold := limits.hold_of(tx, lease.id)) is not None
    ]
    if wanted:
        limits.admit(tx, wanted, prolongs=True)


def _whole_hours(tx: Tx, lease: Lease, until: datetime) -> datetime:
    """The end of the last hour that is paid for a machine until then: bookings are of whole hours."""
    if not lease.is_prepaid:
        return until
    booked = lease.prepaid.booked_until or tx.now() + lease.prepaid.booked_hours * HOUR
    return booked + max(0, -((booked - until) // HOUR)) * HOUR


def ends_stand(tx: Tx, rows: Sequence[Lease]) -> None:
    """Give back what is held beyond the ends of a reservation's leases, unless another end is being written.

    Held beyond it was an extension that did not take place, or an earlier end that was asked for at the same time.
    """
    live = [lease for lease in rows if lease.state in LIVE]
    if any(lease.pending.new_end is not None for lease in live):
        return
    for lease in live:
        hold = limits.hold_of(tx, lease.id)
        if hold is None or lease.expires_at is None or (lease.is_prepaid and lease.prepaid.booked_until is None):
            continue
        end = micros(_whole_hours(tx, lease, lease.expires_at))
        if lease.is_prepaid and hold.paid_until is not None:
            end = max(end, hold.paid_until)
        if hold.until > end:
            limits.save_lower(tx, replace(hold, until=end))


def admit_booking(tx: Tx, lease: Lease, amount: Micro, until: datetime) -> None:
    """Hold the amount of an extension that is about to be paid in advance.

    It may buy more hours than the bookings before it, because the server was started with another setting.
    """
    hold = limits.hold_of(tx, lease.id)
    if hold is None:
        return
    ends = micros(until)
    rate = max(hold.rate, lease.observed.price)
    hours = -(-(until - (lease.prepaid.booked_until or tx.now())) // HOUR)
    changed = replace(
        hold, rate=rate, peak=max(hold.peak, rate), booked=amount, paid_until=ends, until=max(hold.until, ends),
        lead=max(hold.lead, limits.booked_ahead(hours)),
    )  # fmt: skip
    if not limits.asks_for_more(tx, hold, changed):
        limits.force(tx, changed)
        return
    refusals = limits.refusing(tx, [changed], quotas=False)
    if refusals and not (lease.expires_at is None and _may_go_on(refusals)):
        raise BudgetExceeded(refusals[0])
    if refusals:
        limits.force(tx, changed)
    else:
        limits.save(tx, changed)


def admit_takeover(tx: Tx, old: Lease | None, made: Lease, horizon: timedelta) -> None:
    """Hold the price of a machine that takes over in a pool, out of what was held beside the old primary for that.

    It may be the old primary itself.
    """
    wanted = limits.wanted(tx, made, until_of(made, tx.now(), min(horizon, FAILOVER)))
    changes = []
    if old is not None and old.id == made.id:
        wanted = replace(wanted, extra=0)
    elif old is not None and (hold := limits.hold_of(tx, old.id)) is not None:
        changes.append(replace(hold, extra=0))  # first: the database adds up the holds after each row
    limits.admit(tx, [*changes, wanted])


def takeover_failed(tx: Tx, old: Lease | None, made: Lease) -> None:
    """Hold again beside the old primary what was meant for a machine that was not started. The next one needs it.

    The pool proves the machine stopped before it starts another one.
    """
    hold = limits.hold_of(tx, made.id)
    if hold is not None and made.state is LeaseState.PARKED:
        limits.save_lower(tx, limits.parked(hold, made))
    if old is not None and old.id != made.id and (hold := limits.hold_of(tx, old.id)) is not None:
        limits.force(tx, replace(hold, extra=max(hold.extra, failover_of(old))))


def followed_price(tx: Tx, old: Lease, new: Lease) -> None:
    """Hold more after the price of a machine has risen, or after it started without a call. Else it must not go on.

    A machine is released. One that was stopped is stopped again, and so is a pool's, because of its data. A volume and
    the disk of a stopped machine are held whatever the limits say, and so is a machine that was ready, if the policy of
    each limit is `no_new`. A quota refuses only a machine that started without a call.
    """
    hold = limits.hold_of(tx, new.id)
    if hold is None or new.state not in RENTED or not hold.admitted:
        return
    changed = _dearer(hold, new)
    if changed == hold:
        return
    if new.kind == "volume" or new.state is LeaseState.PARKED:  # its data is kept, and it can't be stopped any more
        limits.force(tx, changed)
        return
    woken = old.state is LeaseState.PARKED
    try:
        refusals = limits.refusing(tx, [changed], quotas=woken)
    except FailedPrecondition as refusal:
        leases.note(tx, new, StopDue(tx.now()))
        tx.after_commit(partial(money_log.quota_reached, new, str(refusal)))
        return
    if not refusals:
        limits.save(tx, changed)
        return
    tx.after_commit(partial(money_log.limit_reached, refusals[0], f"the price of {new.id} has risen"))
    if not woken and old.observed.ready_at is not None and _may_go_on(refusals):
        limits.force(tx, changed)
    elif woken or owners.of(tx, new).kind == "pool":
        leases.note(tx, new, StopDue(tx.now()))
    else:
        record.release(tx, new, Reason.BUDGET_EXCEEDED)


def _may_go_on(refusals: Sequence[Over]) -> bool:
    """Whether what runs may go on, also above its limits."""
    return all(over.limit.policy == "no_new" for over in refusals)


def _dearer(hold: Hold, lease: Lease) -> Hold:
    """The hold with a price, or a price of a disk, that has risen."""
    rate = lease.observed.disk_price if lease.state is LeaseState.PARKED else lease.observed.price
    kept_rate = max(hold.kept_rate, lease.observed.disk_price) if hold.kept_until else 0
    if rate <= hold.rate:
        return replace(hold, kept_rate=kept_rate)
    gpus = 0 if lease.state is LeaseState.PARKED else lease.offered.num_gpus
    return replace(hold, rate=rate, peak=max(hold.peak, rate), gpus=gpus, kept_rate=kept_rate)


def failover_of(primary: Lease) -> Micro:
    """What is held beside a pool's primary for its next failover, in which two machines are paid for a while."""
    return accrued(primary.observed.price, FAILOVER)
