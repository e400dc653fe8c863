"""The check of the ledger: debits equal credits, balances equal sums, and costs equal the facts that they come from.

`quick` reads only sums and open meters, whatever the length of the history. `full` reads every row.
"""

from gpuproxy.model.money import dollars
from gpuproxy.ports import Tx
from gpuproxy.store import ledger


def quick(tx: Tx) -> tuple[str, ...]:
    """What is wrong with the balances, as sentences; empty if nothing is.

    The sums of migration 9 are kept by triggers on meters, bookings and adjustments, so they are a second opinion.
    """
    rows = tx.fetch("SELECT account, balance FROM ledger_balances")
    total = sum(row["balance"] for row in rows)
    costs = sum(row["balance"] for row in rows if ledger.is_debited(row["account"]))
    facts = tx.fetch_one("SELECT metered + adjusted + booked - before_ledger AS amount FROM spent WHERE id = 1")
    expected = (0 if facts is None else int(facts["amount"])) + _posted_of_open_meters(tx)
    found = []
    if total:
        found.append(f"The ledger's debits and credits differ by {dollars(total)}.")
    if costs != expected:
        found.append(
            f"The ledger has costs of {dollars(costs)}, but meters, bookings and adjustments add up to "
            f"{dollars(expected)}."
        )
    return tuple(found)


def full(tx: Tx) -> tuple[str, ...]:
    """The same, and also each transfer and each balance against its rows."""
    uneven = tx.fetch(
        "SELECT transfer, sum(amount) AS rest FROM ledger GROUP BY transfer HAVING sum(amount) <> 0 OR count(*) < 2 "
        "ORDER BY transfer LIMIT 5"
    )
    wrong = tx.fetch(
        "SELECT account, sum(balance) AS balance, sum(rows) AS rows FROM ("
        "SELECT account, balance, 0 AS rows FROM ledger_balances "
        "UNION ALL SELECT account, 0, sum(amount) FROM ledger GROUP BY account) AS parts "
        "GROUP BY account HAVING sum(balance) <> sum(rows) ORDER BY account LIMIT 5"
    )
    return (
        *quick(tx),
        *(f"Transfer {row['transfer']} of the ledger is off by {dollars(row['rest'])}." for row in uneven),
        *(
            f"The balance of {row['account']} is {dollars(row['balance'])}, but its rows add up to "
            f"{dollars(row['rows'])}."
            for row in wrong
        ),
    )


def _posted_of_open_meters(tx: Tx) -> int:
    rows = tx.fetch("SELECT opened_at, posted_until, rate FROM meters WHERE closed_at IS NULL")
    return sum(ledger.metered(row, row["posted_until"] or row["opened_at"]) for row in rows)
