"""The database parts of a pass: reading the leases of the listed labels, and writing the steps of a plan."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog

from gpuproxy.model import contracts, idleness
from gpuproxy.model.lease_facts import EndingSoon, IdleNotice, NewEnd
from gpuproxy.model.leases import Lease, LeaseId
from gpuproxy.model.offers import AccountKey
from gpuproxy.model.reasons import Reason
from gpuproxy.outcomes import record, spending
from gpuproxy.ports import Tx
from gpuproxy.reconcile.steps import Adopt, Advance, Note, Step
from gpuproxy.store import events, leases, limits, listed, reservations

log = structlog.get_logger(__name__)

_MARKS_APART = timedelta(seconds=60)


def by_label(tx: Tx, labels: Sequence[str], rows: Sequence[Lease]) -> dict[str, Lease]:
    """The leases with these labels. Most are among the live rows."""
    known = {lease.label: lease for lease in rows}
    for label in labels:
        if label not in known and (lease := leases.by_label(tx, label)) is not None:
            known[label] = lease
    return known


def mark(tx: Tx, account: AccountKey, began_at: datetime, live: Sequence[Lease], *, rarely: bool) -> None:
    """Store when the listing began, for other processes.

    `rarely`: only once a minute, and only while a machine is idle. Then the next process must know for how long nothing
    was listed.
    """
    is_idle = any(lease.observed.idle_since is not None for lease in live)
    if not rarely or (is_idle and began_at - listed.last_began(tx, account) >= _MARKS_APART):
        listed.note(tx, account, began_at)


def write_all(tx: Tx, steps: Sequence[Step], live: Sequence[Lease]) -> None:
    """Write the database parts of steps. `live`: the leases as this unit has read them for the plan."""
    for step in steps:
        reservations.ahead(tx, step.lease.reservation_id)
        limits.ahead(tx, step.lease.id)
    unchanged: dict[LeaseId, Lease | None] = {lease.id: lease for lease in live}
    for step in steps:  # a step changes its own lease only
        write(tx, step, unchanged.pop(step.lease.id, None))


def write(tx: Tx, step: Step, lease: Lease | None = None) -> None:
    """Write the database part of a step. `lease`: the lease as it is now; None: an earlier step may have changed it."""
    lease = lease or leases.get(tx, step.lease.id)
    if isinstance(step, Advance):
        if lease.reason is Reason.BUDGET_EXCEEDED and lease.state is not step.lease.state:
            return  # it is being released since an earlier step, because its price can't be held
        spending.followed_price(tx, lease, leases.advance(tx, lease, step.event))
    elif isinstance(step, Adopt):
        record.found(tx, lease, step.instance_id)
    elif isinstance(step, Note):
        noted = leases.note(tx, lease, step.fact)
        spending.followed_price(tx, lease, noted)
        if lease.observed.contract_warned_at is None and (warning := contracts.warning(noted)):
            tx.after_commit(lambda: log.warning("contract_ends_early", lease=lease.id, effect=warning))
        if isinstance(step.fact, NewEnd):
            spending.ends_stand(tx, leases.of_reservation(tx, lease.reservation_id))
        elif isinstance(step.fact, EndingSoon):
            ends_at, does = noted.expires_at, "stopped" if noted.grace_s else "destroyed"
            tx.after_commit(lambda: log.info("lease_ending_soon", lease=lease.id, ends_at=f"{ends_at}", then=does))
        elif isinstance(step.fact, IdleNotice):
            _idle_notice(tx, noted)


def _idle_notice(tx: Tx, lease: Lease) -> None:
    """Tell the owner, in the reservation's events and in the log, that the machine will be released."""
    events.idle_notice(tx, reservations.get(tx, lease.reservation_id), lease)
    since, at = lease.observed.idle_since, idleness.release_at(lease)
    told = {"lease": lease.id, "contract": lease.instance_id or "", "reservation": lease.reservation_id}
    tx.after_commit(lambda: log.info("idle_notice", **told, idle_since=f"{since}", released_at=f"{at}"))
