"""The time of an account's next allowed create, for the next process. A running process has a queue per account."""

from datetime import datetime

from gpuproxy.model.offers import AccountKey
from gpuproxy.ports import Tx
from gpuproxy.store.rows import micros, moment


def next_create_at(tx: Tx, account: AccountKey) -> datetime:
    """The earliest time for the account's next create; never in the past."""
    row = tx.fetch_one("SELECT next_create_at FROM accounts WHERE provider = ? AND account = ?", account)
    return tx.now() if row is None else max(tx.now(), moment(row["next_create_at"]))


def hold(tx: Tx, account: AccountKey, until: datetime) -> None:
    """Allow no create before `until`, because one was just sent or the provider asked to wait."""
    if next_create_at(tx, account) < until:
        tx.execute(
            "INSERT INTO accounts (provider, account, next_create_at) VALUES (?, ?, ?) "
            "ON CONFLICT (provider, account) DO UPDATE SET next_create_at = excluded.next_create_at",
            (*account, micros(until)),
        )
