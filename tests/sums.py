"""The stored sums and counts, recomputed in Python from the rows that they are made of."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from gpuproxy.model.leases import LIVE, InstanceId, ReservationId
from gpuproxy.model.money import accrued
from gpuproxy.model.offers import ProviderName
from gpuproxy.model.transactions import Meter, count
from gpuproxy.ports import Tx
from gpuproxy.store import counters, leases, ledger_check
from gpuproxy.store.rows import moment


class Undone(Exception):
    """Rolls a unit of work back, and carries what it found."""


def stored_sums(tx: Tx) -> dict[str, Any]:
    """Every sum as it is stored, without what was deleted from the rows."""
    [spent] = tx.fetch("SELECT * FROM spent")
    return {
        "metered": spent["metered"] - spent["forgotten_metered"],
        "adjusted": spent["adjusted"] - spent["forgotten_adjusted"],
        "booked": spent["booked"] - spent["forgotten_booked"],
        "leases": _without_zeros(
            {(r["provider"], r["state"]): r["number"] - r["forgotten"] for r in tx.fetch("SELECT * FROM lease_counts")}
        ),
        "reservations": _without_zeros(
            {(r["project"], r["state"]): r["number"] for r in tx.fetch("SELECT * FROM reservation_counts")}
        ),
        "transactions": _without_zeros(
            {r["project"]: r["number"] for r in tx.fetch("SELECT * FROM transaction_counts")}
        ),
    }


def recomputed_sums(tx: Tx) -> dict[str, Any]:
    """The same from the meters, adjustments, leases and reservations."""
    closed = tx.fetch("SELECT m.*, l.project AS owner FROM meters m JOIN leases l ON l.id = m.lease_id "
                      "WHERE closed_at IS NOT NULL")  # fmt: skip
    adjusted = tx.fetch("SELECT s.*, l.project AS owner FROM settlements s JOIN leases l ON l.id = s.lease_id")
    transactions: Counter[str] = Counter(row["owner"] for row in adjusted if row["amount"])
    booked = tx.fetch("SELECT b.*, l.project AS owner FROM bookings b JOIN leases l ON l.id = b.lease_id "
                      "WHERE b.state = 'confirmed'")  # fmt: skip
    transactions.update(row["owner"] for row in booked)
    for row in closed:
        transactions[row["owner"]] += count(_meter(row), tx.now())
    return {
        "metered": sum(accrued(row["rate"], moment(row["closed_at"]) - moment(row["opened_at"])) for row in closed),
        "adjusted": sum(row["amount"] for row in adjusted),
        "booked": sum(row["amount"] for row in booked),
        "leases": Counter((row["provider"], row["state"]) for row in tx.fetch("SELECT provider, state FROM leases")),
        "reservations": Counter(
            (r["project"], r["state"]) for r in tx.fetch("SELECT project, state FROM reservations")
        ),
        "transactions": _without_zeros(transactions),
    }


def loads_of_the_leases(tx: Tx) -> dict[str, tuple[int, int]]:
    """The live leases and the picks of each host."""
    found: dict[str, list[int]] = {}
    for row in tx.fetch("SELECT id FROM leases"):
        lease = leases.get(tx, row["id"])
        counted = found.setdefault(lease.offered.host, [0, 0])
        counted[0] += lease.state in LIVE
        counted[1] += lease.state in LIVE or lease.instance_id is not None
    return {host: (live, picks) for host, (live, picks) in found.items()}


def ledger_of_leases(tx: Tx) -> dict[str, int]:
    """The cost of each lease according to the ledger."""
    rows = tx.fetch("SELECT lease_id, sum(amount) AS amount FROM ledger WHERE account NOT LIKE 'provider:%' GROUP BY 1")
    return _without_zeros({row["lease_id"]: row["amount"] for row in rows})


def facts_of_leases(tx: Tx) -> dict[str, int]:
    """The same from the meters, as far as they are posted, the bookings and the adjustments."""
    found: Counter[str] = Counter()
    for row in tx.fetch("SELECT * FROM meters"):
        until = row["posted_until"] or row["opened_at"]
        assert row["closed_at"] in (None, until), "what is closed is posted"
        found[row["lease_id"]] += accrued(row["rate"], moment(until) - moment(row["opened_at"]))
    for row in tx.fetch("SELECT lease_id, amount FROM bookings WHERE state = 'confirmed' "
                        "UNION ALL SELECT lease_id, amount FROM settlements"):  # fmt: skip
        found[row["lease_id"]] += row["amount"]
    return _without_zeros(found)


def check_ledger(tx: Tx) -> None:
    """The ledger is balanced, and says of each lease what the facts say."""
    assert ledger_check.full(tx) == ()
    posted, facts = ledger_of_leases(tx), facts_of_leases(tx)
    known = {row["id"] for row in tx.fetch("SELECT id FROM leases")}
    assert {lease: amount for lease, amount in posted.items() if lease in known} == facts


def check_sums(tx: Tx) -> None:
    """Raises Undone, so that nothing is changed, or AssertionError."""
    assert stored_sums(tx) == recomputed_sums(tx)
    of_projects = "SELECT count(*) AS n FROM {} x JOIN leases l ON l.id = x.lease_id WHERE x.project <> l.project"
    for table in ("meters", "settlements", "bookings"):
        assert tx.fetch(of_projects.format(table)) == [{"n": 0}]
    check_ledger(tx)
    hosts, measured = _table(tx, "hosts"), _table(tx, "measured")
    if not tx.fetch("SELECT 1 AS one FROM forgotten_leases LIMIT 1"):
        loads = {row["host"]: (row["live"], row["picks"]) for row in hosts}
        assert loads == loads_of_the_leases(tx)
    counters.recount(tx)
    assert _table(tx, "hosts") == hosts
    assert _table(tx, "measured") == measured
    raise Undone


def _meter(row: Mapping[str, Any]) -> Meter:
    return Meter(
        lease_id=row["lease_id"], reservation_id=ReservationId(""), provider=ProviderName(""),
        instance_id=InstanceId(""), gpu_model="", num_gpus=1, storage=False, rate=row["rate"],
        opened_at=moment(row["opened_at"]), closed_at=moment(row["closed_at"]),
    )  # fmt: skip


def _table(tx: Tx, name: str) -> list[Mapping[str, Any]]:
    return tx.fetch(f"SELECT * FROM {name} ORDER BY host")  # noqa: S608


def _without_zeros(counted: Mapping[Any, int]) -> dict[Any, int]:
    return {key: number for key, number in counted.items() if number}
