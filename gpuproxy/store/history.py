"""The deletion of reservations that ended long ago, with their leases, meters, bookings, adjustments and events.

The sums stay (see `totals`), and `forgotten` keeps the request_ids and labels.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from operator import itemgetter

from gpuproxy.model.leases import TERMINAL, ReservationId
from gpuproxy.model.limits import LONGEST
from gpuproxy.model.offers import AccountKey
from gpuproxy.model.reservations import ReservationState
from gpuproxy.ports import Tx
from gpuproxy.store import forgotten, leases, pools, replay
from gpuproxy.store.rows import micros, moment

_OVER = (ReservationState.RELEASED, ReservationState.FAILED)
_UNPROVEN = (
    "SELECT max(intended_at) AS at FROM bookings WHERE state = 'unproven' "
    "AND lease_id IN (SELECT id FROM leases WHERE reservation_id = ?)"
)
_OF_LEASES = "DELETE FROM {} WHERE lease_id IN (SELECT id FROM leases WHERE reservation_id = ?)"


Place = tuple[datetime, str]
"""The place of a reservation in the order of deletion: its time of creation, and its id."""
FIRST: Place = (datetime.fromtimestamp(0, UTC), "")


def over_before(tx: Tx, before: datetime, after: Place, most: int) -> tuple[Place, ...]:
    """Concluded reservations without machines that were created before a time: the oldest `most` after a place.

    Whether one may be deleted is for `delete` to decide.
    """
    found: list[Place] = []
    for state in _OVER:
        rows = tx.fetch(
            "SELECT id, created_at FROM reservations WHERE state = ? AND created_at < ? AND created_at >= ? "
            "AND (created_at > ? OR id < ?) ORDER BY created_at, id DESC LIMIT ?",
            (state.value, micros(before), micros(after[0]), micros(after[0]), after[1], most),
        )
        found += [(moment(row["created_at"]), row["id"]) for row in rows]
    newest_id_first = sorted(found, key=itemgetter(1), reverse=True)
    return tuple(sorted(newest_id_first, key=itemgetter(0))[:most])


def delete(
    tx: Tx, reservation_id: ReservationId, *, before: datetime, compared: Callable[[AccountKey], datetime | None]
) -> bool:
    """Delete a reservation if all of it ended before a time; False if any of it may still be needed.

    `compared` gives the end of an account's last billing check: what was billed since then is still to be compared.
    """
    row = tx.fetch_one("SELECT state, settled_at FROM reservations WHERE id = ?", (reservation_id,))
    if row is None or row["state"] not in _OVER or row["settled_at"] is None:
        return False
    pool = pools.of_ledger(tx, reservation_id)
    if pool is not None and pools.is_at_work(pool):
        return False  # the next machine of the pool belongs to it
    ends = [moment(row["settled_at"])]
    for lease in leases.of_reservation(tx, reservation_id):
        until = compared((lease.provider, lease.account))
        if lease.state not in TERMINAL or lease.ended_at is None or (until is not None and lease.ended_at >= until):
            return False
        ends.append(lease.ended_at)
    if max(ends) >= before or _counts_still(tx, reservation_id) or not _behind_us(tx, reservation_id):
        return False
    forgotten.add(tx, reservation_id, max(ends))
    for table in ("settlements", "meters", "bookings", "holds", "spend_holds"):
        tx.execute(_OF_LEASES.format(table), (reservation_id,))
    for statement in ("events WHERE reservation_id", "leases WHERE reservation_id", "reservations WHERE id"):
        tx.execute(f"DELETE FROM {statement} = ?", (reservation_id,))  # noqa: S608 - our own words
    return True


def _counts_still(tx: Tx, reservation_id: ReservationId) -> bool:
    """True while a limit may count a booking of which nobody will ever know whether it was paid. No ledger has it."""
    row = tx.fetch_one(_UNPROVEN, (reservation_id,))
    at = None if row is None else row["at"]
    return at is not None and at > micros(tx.now()) - LONGEST


def _behind_us(tx: Tx, reservation_id: ReservationId) -> bool:
    """True if its events are not needed: the counters follow from them already, and none is the newest of all.

    The next event gets the number after the newest one, and no number may occur twice.
    """
    row = tx.fetch_one(
        "SELECT max(seq) AS last, (SELECT max(seq) FROM events) AS newest FROM events WHERE reservation_id = ?",
        (reservation_id,),
    )
    last = 0 if row is None or row["last"] is None else int(row["last"])
    return last <= replay.checkpoint(tx) and (row is None or last != row["newest"])
