"""Recovery at startup: finish the rentals that an earlier process left unfinished."""

import structlog

from gpuproxy.model.leases import Lease, LeaseState
from gpuproxy.model.reasons import Reason
from gpuproxy.model.reservations import Reservation
from gpuproxy.outcomes import conclusion, record
from gpuproxy.ports import Database, Tx
from gpuproxy.runtime.accounts import Accounts
from gpuproxy.store import leases, reservations

log = structlog.get_logger(__name__)


async def recover(db: Database, accounts: Accounts) -> None:
    """Recover leases and reservations of an earlier process.

    A create that was sent has an unknown outcome now. A create that was not sent is recorded as not attempted.
    """
    left = await db.write(lambda tx: _take_over(tx, accounts))
    await db.read(accounts.restore_pauses)
    for reservation in left:
        log.info("reservation_recovered", reservation=reservation.id, kept=reservation.keep)


def _take_over(tx: Tx, accounts: Accounts) -> tuple[Reservation, ...]:
    """A create may run longer than its call, so this checks every live lease, not only those of open calls."""
    for provider in accounts:
        for lease in leases.live(tx, provider.name, provider.account):
            _interrupt(tx, lease)
    left = reservations.unsettled(tx)
    for reservation in left:
        conclusion.conclude(tx, reservation.id, gone=True)
    return left


def _interrupt(tx: Tx, lease: Lease) -> None:
    """Record that the process waiting for this create has ended."""
    if lease.instance_id is not None or lease.state not in (LeaseState.REQUESTED, LeaseState.RELEASING):
        return
    deadline = lease.creation.call_deadline
    if lease.creation.call_started_at is None:
        record.not_attempted(tx, lease.id, reason=Reason.INTERRUPTED)
    elif deadline is None or deadline > tx.now() or lease.state is LeaseState.REQUESTED:
        record.reply_lost(tx, lease.id, "the server stopped during the create")
