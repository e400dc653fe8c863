"""Warm pools in the database. All functions are parts of a unit of work."""

import msgspec

from gpuproxy.model.leases import ReservationId
from gpuproxy.model.pools import Pool
from gpuproxy.ports import Tx


def insert(tx: Tx, pool: Pool) -> Pool:
    """Store a new pool. Raises Taken (table `pools`) if the project has one for this machine_id."""
    text = msgspec.json.encode(pool).decode()
    tx.execute(
        "INSERT INTO pools (id, project, machine_id, ledger, state, wanted, version, data) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (pool.id, pool.project, pool.machine_id, pool.ledger, pool.state.value, pool.wanted, pool.version, text),
    )
    return pool


def of_ledger(tx: Tx, reservation_id: ReservationId) -> Pool | None:
    """The pool whose leases belong to this reservation; None if it is no pool's."""
    row = tx.fetch_one("SELECT data FROM pools WHERE ledger = ? AND ledger <> ''", (reservation_id,))
    return None if row is None else msgspec.json.decode(str(row["data"]), type=Pool)
