"""What is wrong with an account, as its own marketplace put it: its key, its funds, its silence.

A trouble that a listing met ends with the next listing that succeeds; one that a create met ends after a while, for
nothing short of another create can tell.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from gpuproxy.model.errors import AuthFailed, InsufficientFunds, ProviderError
from gpuproxy.model.offers import AccountKey, ProviderName
from gpuproxy.ports import Tx
from gpuproxy.store.rows import micros, moment

PAUSING = frozenset({AuthFailed.reason, InsufficientFunds.reason})
"""Nothing is created with an account in such trouble: every create would be refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """`said`: the marketplace's words; `until`: None while only a listing can end it."""

    account: AccountKey
    reason: str
    said: str
    since: datetime
    until: datetime | None

    @property
    def pauses(self) -> bool:
        """True when nothing is created with the account meanwhile."""
        return self.reason in PAUSING


def note(tx: Tx, account: AccountKey, error: ProviderError, lasts: timedelta | None) -> None:
    """The account met `error`; the beginning of a trouble that goes on is kept."""
    until = None if lasts is None else micros(tx.now() + lasts)
    if lasts is None:  # the listing before met something else, which is over
        tx.execute(
            "DELETE FROM troubles WHERE provider = ? AND account = ? AND reason <> ? AND until IS NULL",
            (*account, error.reason),
        )
    tx.execute(
        "INSERT INTO troubles (provider, account, reason, said, since, until) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (provider, account, reason) DO UPDATE SET said = excluded.said, until = excluded.until, "
        "since = CASE WHEN until <= ? THEN excluded.since ELSE since END",
        (*account, error.reason, str(error), micros(tx.now()), until, micros(tx.now())),
    )


def listed(tx: Tx, account: AccountKey) -> None:
    """A listing of the account succeeded."""
    tx.execute("DELETE FROM troubles WHERE provider = ? AND account = ? AND until IS NULL", account)


def every(tx: Tx) -> tuple[Trouble, ...]:
    """What is wrong now, the oldest first."""
    rows = tx.fetch(
        "SELECT * FROM troubles WHERE until IS NULL OR until > ? ORDER BY since, provider, account",
        (micros(tx.now()),),
    )
    return tuple(
        Trouble(
            account=(ProviderName(row["provider"]), row["account"]),
            reason=row["reason"],
            said=row["said"],
            since=moment(row["since"]),
            until=None if row["until"] is None else moment(row["until"]),
        )
        for row in rows
    )


def paused(tx: Tx) -> Mapping[AccountKey, Trouble]:
    """The accounts that nothing is created with now."""
    return {trouble.account: trouble for trouble in every(tx) if trouble.pauses}
