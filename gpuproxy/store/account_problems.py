"""Problems of accounts as the marketplace reported them: wrong key, no funds, no answer.

A problem that a listing met ends with the next successful listing. A problem that a create met ends after some time,
because only another create could show whether it still exists.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from gpuproxy.model.errors import AuthFailed, InsufficientFunds, ProviderError
from gpuproxy.model.offers import AccountKey, ProviderName
from gpuproxy.model.reasons import Reason
from gpuproxy.model.webhooks import EventType
from gpuproxy.ports import Tx
from gpuproxy.store import outbox
from gpuproxy.store.rows import micros, moment

_ALL = "SELECT * FROM troubles ORDER BY since, provider, account"
PAUSING = frozenset({AuthFailed.reason, InsufficientFunds.reason})
"""Problems that pause an account: no create is sent, because every one would be refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountProblem:
    """One problem of an account. It ends at `until`; for None, it ends with the next successful listing."""

    account: AccountKey
    reason: Reason
    message: str
    """The marketplace's own text."""
    since: datetime
    until: datetime | None

    @property
    def pauses(self) -> bool:
        """True if no create is sent with the account while the problem exists."""
        return self.reason in PAUSING


def record(tx: Tx, account: AccountKey, error: ProviderError, lasts: timedelta | None) -> None:
    """Record that the account met `error`. A problem that already exists keeps its start time."""
    until = None if lasts is None else micros(tx.now() + lasts)
    if error.reason in PAUSING and not any(
        (each.account, each.reason) == (account, error.reason) for each in current(tx)
    ):
        outbox.of_account(tx, EventType.ACCOUNT_PAUSED, account, error.reason)
    if lasts is None:  # the previous listing failed for another reason, which has ended
        tx.write(
            "DELETE FROM troubles WHERE provider = ? AND account = ? AND reason <> ? AND until IS NULL",
            (*account, error.reason),
        )
    tx.write(
        "INSERT INTO troubles (provider, account, reason, said, since, until) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (provider, account, reason) DO UPDATE SET said = excluded.said, until = excluded.until, "
        "since = CASE WHEN troubles.until <= ? THEN excluded.since ELSE troubles.since END",
        (*account, error.reason, str(error), micros(tx.now()), until, micros(tx.now())),
    )


def clear_after_listing(tx: Tx, account: AccountKey) -> None:
    """Delete the problems that a successful listing of the account ends."""
    tx.write("DELETE FROM troubles WHERE provider = ? AND account = ? AND until IS NULL", account)
    tx.write("DELETE FROM account_silences WHERE provider = ? AND account = ?", account)


def silent(tx: Tx, account: AccountKey, error: ProviderError) -> None:
    """Tell, once for each silence, that no listing of the account succeeds. A paused account is told of already."""
    if error.reason in PAUSING:
        return
    known = tx.fetch_one("SELECT 1 AS one FROM account_silences WHERE provider = ? AND account = ?", account)
    if known is None:
        tx.write(
            "INSERT INTO account_silences (provider, account, since) VALUES (?, ?, ?)", (*account, micros(tx.now()))
        )
        outbox.of_account(tx, EventType.ACCOUNT_SILENT, account, error.reason)


def ahead(tx: Tx) -> None:
    """Say that the problems will be read."""
    tx.ahead(_ALL)


def current(tx: Tx) -> tuple[AccountProblem, ...]:
    """All current problems, oldest first."""
    ahead(tx)  # an intent asks for each of its leases
    found = (row for row in tx.fetch(_ALL) if row["until"] is None or row["until"] > micros(tx.now()))
    return tuple(
        AccountProblem(
            account=(ProviderName(row["provider"]), row["account"]),
            reason=Reason(row["reason"]),
            message=row["said"],
            since=moment(row["since"]),
            until=None if row["until"] is None else moment(row["until"]),
        )
        for row in found
    )


def paused(tx: Tx) -> Mapping[AccountKey, AccountProblem]:
    """The paused accounts, each with the problem that pauses it."""
    return {problem.account: problem for problem in current(tx) if problem.pauses}
