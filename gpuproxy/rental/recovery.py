"""What a start does about renting that died with the process before it."""

import structlog

from gpuproxy.model.leases import Lease, LeaseState
from gpuproxy.model.reservations import Reservation
from gpuproxy.outcomes import conclusion, record
from gpuproxy.ports import Database, Tx
from gpuproxy.runtime.accounts import Accounts
from gpuproxy.store import leases, reservations

log = structlog.get_logger(__name__)


async def recover(db: Database, accounts: Accounts) -> None:
    """Take over what an earlier process left: a create that was sent is unknown now, one that was not is over."""
    left = await db.write(lambda tx: _take_over(tx, accounts))
    await db.read(accounts.heed)
    for reservation in left:
        log.info("reservation_taken_over", reservation=reservation.id, kept=reservation.keep)


def _take_over(tx: Tx, accounts: Accounts) -> tuple[Reservation, ...]:
    """Creates may outlive the answers to their callers, so every lease is looked at, not only those of open calls."""
    for provider in accounts:
        for lease in leases.live(tx, provider.name, provider.account):
            _interrupt(tx, lease)
    left = reservations.unsettled(tx)
    for reservation in left:
        conclusion.conclude(tx, reservation.id, gone=True)
    return left


def _interrupt(tx: Tx, lease: Lease) -> None:
    """The process that was to record what comes of the create is dead."""
    if lease.instance_id is not None or lease.state not in (LeaseState.REQUESTED, LeaseState.RELEASING):
        return
    if lease.call_started_at is None:
        record.not_attempted(tx, lease.id, reason="INTERRUPTED")
    elif lease.call_deadline is None or lease.call_deadline > tx.now() or lease.state is LeaseState.REQUESTED:
        record.reply_lost(tx, lease.id, "the server stopped during the create")
