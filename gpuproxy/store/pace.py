"""The time of an account's next allowed create, for the next process. A running process has a queue per account."""

from datetime import datetime

from gpuproxy.model.offers import AccountKey
from gpuproxy.ports import Tx
from gpuproxy.store.rows import micros, moment

_NEXT = "SELECT next_create_at FROM accounts WHERE provider = ? AND account = ?"


def ahead(tx: Tx, account: AccountKey) -> None:
    """Say that the time will be read."""
    tx.ahead(_NEXT, account)


def next_create_at(tx: Tx, account: AccountKey) -> datetime:
    """The earliest time for the account's next create; never in the past."""
    ahead(tx, account)
    row = tx.fetch_one(_NEXT, account)
    return tx.now() if row is None else max(tx.now(), moment(row["next_create_at"]))


def hold(tx: Tx, account: AccountKey, until: datetime) -> None:
    """Allow no create before `until`, because one was just sent or the provider asked to wait."""
    if next_create_at(tx, account) < until:
        tx.write(
            "INSERT INTO accounts (provider, account, next_create_at) VALUES (?, ?, ?) "
            "ON CONFLICT (provider, account) DO UPDATE SET next_create_at = excluded.next_create_at",
            (*account, micros(until)),
        )
