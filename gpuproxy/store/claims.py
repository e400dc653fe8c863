"""Claims: which process does work that only one process may do at a time. All functions are parts of a unit of work.

A claim is judged by the database's time (`Tx.now`). Whoever checks it in the unit that precedes an outside effect can't
send the effect after another process has taken over. The fence is a number that grows with each new owner, so a process
that has lost a claim and got it again knows that somebody else had it in between.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from gpuproxy.model.errors import ClaimLost
from gpuproxy.ports import Tx
from gpuproxy.store.rows import micros, moment

_ONE = "SELECT owner, fence, until FROM claims WHERE name = ?"
FOREVER = datetime(9999, 12, 31, tzinfo=UTC)
"""The end of claims in a database of one process."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right of one process to do some work."""

    name: str
    owner: str
    """The process; never empty."""
    fence: int
    until: datetime
    """Aware UTC, on the database's clock."""


def take(tx: Tx, name: str, owner: str, seconds: float | None) -> Claim | None:
    """Take a claim that is free, over or already the owner's, for so many seconds; None: it has no end.

    Returns None if another process has it.
    """
    until = FOREVER if seconds is None else tx.now() + timedelta(seconds=seconds)
    row = tx.fetch_one(_ONE, (name,))
    if row is None:
        tx.write("INSERT INTO claims (name, owner, fence, until) VALUES (?, ?, 1, ?)", (name, owner, micros(until)))
        return Claim(name, owner, 1, until)
    if row["owner"] != owner and moment(row["until"]) > tx.now():
        return None
    fence = row["fence"] + (row["owner"] != owner)
    tx.write("UPDATE claims SET owner = ?, fence = ?, until = ? WHERE name = ?", (owner, fence, micros(until), name))
    return Claim(name, owner, fence, until)


def renew(tx: Tx, claim: Claim, seconds: float | None) -> Claim:
    """The claim with a new end. It may be over, as long as nobody else has taken it. Raises ClaimLost."""
    until = FOREVER if seconds is None else tx.now() + timedelta(seconds=seconds)
    tx.write(
        "UPDATE claims SET until = ? WHERE name = ? AND owner = ? AND fence = ?",
        (micros(until), claim.name, claim.owner, claim.fence),
        otherwise=ClaimLost(f"{claim.owner} no longer has {claim.name}"),
    )
    return Claim(claim.name, claim.owner, claim.fence, until)


def ahead(tx: Tx, claim: Claim) -> None:
    """Say that the claim will be required."""
    tx.ahead(_ONE, (claim.name,))


def require(tx: Tx, claim: Claim) -> None:
    """Raise ClaimLost unless the owner still has this very claim and it is not over."""
    ahead(tx, claim)
    row = tx.fetch_one(_ONE, (claim.name,))
    held = row is not None and (row["owner"], row["fence"]) == (claim.owner, claim.fence)
    if row is None or not held or moment(row["until"]) <= tx.now():
        raise ClaimLost(f"{claim.owner} no longer has {claim.name}")


def drop(tx: Tx, claim: Claim) -> None:
    """Make the claim free from now on. Does nothing if it is lost."""
    tx.write(
        "UPDATE claims SET owner = '', until = ? WHERE name = ? AND owner = ? AND fence = ?",
        (micros(tx.now()), claim.name, claim.owner, claim.fence),
    )


def forget(tx: Tx, name: str) -> None:
    """Remove all traces of a claim whose work is done for ever. The name is never claimed again."""
    tx.write("DELETE FROM claims WHERE name = ?", (name,))


def sweep(tx: Tx, prefix: str) -> None:
    """Forget the claims that are over and whose names begin with `prefix`."""
    now = micros(tx.now())
    tx.execute("DELETE FROM claims WHERE substr(name, 1, ?) = ? AND until <= ?", (len(prefix), prefix, now))


def is_free(tx: Tx, name: str) -> bool:
    """True if no process has the claim."""
    row = tx.fetch_one("SELECT until FROM claims WHERE name = ?", (name,))
    return row is None or moment(row["until"]) <= tx.now()


def owner_of(tx: Tx, name: str) -> str:
    """The process that has the claim; "" if it is free."""
    row = tx.fetch_one("SELECT owner FROM claims WHERE name = ? AND until > ?", (name, micros(tx.now())))
    return "" if row is None else str(row["owner"])


def named(tx: Tx, names: Sequence[str]) -> dict[str, Claim]:
    """The stored claims with these names, by name. One that is over or free is included: `until` is when it ended."""
    if not names:
        return {}
    marks = ", ".join("?" * len(names))
    rows = tx.fetch(f"SELECT name, owner, fence, until FROM claims WHERE name IN ({marks})", names)  # noqa: S608
    return {row["name"]: _claim(row) for row in rows}


def with_prefix(tx: Tx, prefix: str) -> tuple[Claim, ...]:
    """The claims that are not over and whose names begin with `prefix`, by name."""
    rows = tx.fetch(
        "SELECT name, owner, fence, until FROM claims WHERE substr(name, 1, ?) = ? AND until > ? ORDER BY name",
        (len(prefix), prefix, micros(tx.now())),
    )
    return tuple(map(_claim, rows))


def void(tx: Tx) -> None:
    """Make every claim free: all processes that had one have ended."""
    tx.execute("UPDATE claims SET owner = '', until = 0")


def _claim(row: Mapping[str, Any]) -> Claim:
    return Claim(row["name"], row["owner"], row["fence"], moment(row["until"]))
