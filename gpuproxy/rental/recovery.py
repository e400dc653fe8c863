"""Recovery: finish the rentals that a process has left unfinished, when it starts and while it runs.

Only work that no process has a claim on is taken over. In a database of one process, all claims of earlier processes
are void, so a server that starts takes over everything at once. In a shared one it waits until the claims are over.
"""

from collections.abc import Callable, Collection, Sequence

import structlog

from gpuproxy.model.leases import KINDS, Lease, LeaseState, ReservationId
from gpuproxy.model.reasons import Reason
from gpuproxy.model.reservations import Reservation
from gpuproxy.outcomes import conclusion, record
from gpuproxy.ports import Database, Tx
from gpuproxy.runtime.accounts import Accounts
from gpuproxy.runtime.claims import Claims, reservation_claim
from gpuproxy.store import claims, leases, reservations

log = structlog.get_logger(__name__)


class Recovery:
    """Takes over what nobody has a claim on."""

    def __init__(
        self,
        db: Database,
        accounts: Accounts,
        claims_: Claims,
        *,
        take_work: Callable[[Tx], None],
        is_running: Callable[[ReservationId], bool],
    ) -> None:
        """`take_work` claims the lasting work. `is_running`: whether this process runs a reservation's call."""
        self._db = db
        self._accounts = accounts
        self._claims = claims_
        self._take_work = take_work
        self._is_running = is_running

    async def start(self) -> None:
        """The first work of a process: claim the accounts, and take over what is left.

        A create that was sent has an unknown outcome now. A create that was not sent is recorded as not attempted.
        """
        self._tell(await self._db.write(self._begin))
        await self._db.read(self._accounts.restore_pauses)

    async def step(self) -> None:
        """Take over what was left meanwhile, also by an error in this process."""
        found = await self._db.read(self._unclaimed)
        if left := [reservation_id for reservation_id in found if not self._is_running(reservation_id)]:
            self._tell(await self._db.write(lambda tx: self._take_over(tx, left)))

    def _begin(self, tx: Tx) -> tuple[Reservation, ...]:
        self._claims.begin(tx)
        self._take_work(tx)
        if self._db.exclusive:  # a create may run longer than its call, so this is not only about open calls
            for provider in self._accounts:
                for kind in KINDS:
                    for lease in leases.live(tx, provider.name, provider.account, kind):
                        _interrupt(tx, lease, shared=not self._db.exclusive)
        return self._take_over(tx, self._unclaimed(tx))

    def _unclaimed(self, tx: Tx) -> tuple[ReservationId, ...]:
        """The calls that have not been concluded and that no other process runs."""
        free = ("", self._claims.owner)
        open_calls = [reservation.id for reservation in reservations.unsettled(tx)]
        return tuple(each for each in open_calls if claims.owner_of(tx, reservation_claim(each)) in free)

    def _take_over(self, tx: Tx, chosen: Collection[ReservationId]) -> tuple[Reservation, ...]:
        unclaimed = self._unclaimed(tx)
        left = tuple(reservations.get(tx, each) for each in chosen if each in unclaimed)
        for reservation in left:
            for lease in leases.of_reservation(tx, reservation.id):
                _interrupt(tx, lease, shared=not self._db.exclusive)
            conclusion.conclude(tx, reservation.id, gone=True)
            claims.forget(tx, reservation_claim(reservation.id))
        return left

    def _tell(self, left: Sequence[Reservation]) -> None:
        for reservation in left:
            log.info("reservation_recovered", reservation=reservation.id, kept=reservation.keep)


def _interrupt(tx: Tx, lease: Lease, *, shared: bool) -> None:
    """Record that nobody waits for this create any more.

    Its process may only be cut off from a `shared` database. Then it is perhaps in the call, until its deadline.
    """
    if lease.instance_id is not None or lease.state not in (LeaseState.REQUESTED, LeaseState.RELEASING):
        return
    deadline = lease.creation.call_deadline
    if lease.creation.call_started_at is None:
        record.not_attempted(tx, lease.id, reason=Reason.INTERRUPTED)
    elif deadline is None or deadline > tx.now() or lease.state is LeaseState.REQUESTED:
        ended_at = max(deadline, tx.now()) if shared and deadline is not None else tx.now()
        record.reply_lost(tx, lease.id, "the server stopped during the create", ended_at)
