"""What a project has spent, as transactions."""

from gpuproxy.model.demands import Caller
from gpuproxy.model.transactions import Entry, count, newest
from gpuproxy.ports import Database, Tx
from gpuproxy.store import bookings, meters, settlements, totals


class Spending:
    """Reads meters, bookings and adjustments."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def transactions(self, caller: Caller, limit: int, offset: int) -> tuple[list[Entry], int]:
        """A page of transactions, newest first, and the number of all transactions."""

        def read(tx: Tx) -> tuple[list[Entry], int]:
            metered, now = meters.newest(tx, caller.scope, offset + limit), tx.now()
            booked = bookings.newest(tx, caller.scope, offset + limit)
            adjusted = settlements.newest(tx, caller.scope, offset + limit)
            running = sum(count(meter, now) for meter in metered if meter.closed_at is None)
            running += sum(line.pending for line in booked)
            total = totals.transactions(tx, caller.scope) + running
            return newest(metered, (*booked, *adjusted), now, offset, limit), total

        return await self._db.read(read)
