"""When an account may create again: a row that is taken with each intent, so that replicas pace together."""

from datetime import datetime, timedelta

from gpuproxy.model.offers import AccountKey
from gpuproxy.ports import Tx
from gpuproxy.store.rows import micros, moment


def next_create_at(tx: Tx, account: AccountKey) -> datetime:
    """The earliest moment for the account's next create."""
    row = tx.fetch_one("SELECT next_create_at FROM accounts WHERE provider = ? AND account = ?", account)
    return tx.now() if row is None else max(tx.now(), moment(row["next_create_at"]))


def take_turn(tx: Tx, account: AccountKey, at: datetime, interval: float) -> None:
    """One create is planned for `at`: the next one follows an interval later."""
    _set_next(tx, account, at + timedelta(seconds=interval))


def hold(tx: Tx, account: AccountKey, until: datetime) -> None:
    """The provider said to wait."""
    if next_create_at(tx, account) < until:
        _set_next(tx, account, until)


def give_back(tx: Tx, account: AccountKey, interval: float) -> None:
    """Turns of creates that will not be sent are free again: follow the last one that was or will be."""
    row = tx.fetch_one(
        "SELECT max(send_at) AS last FROM leases WHERE provider = ? AND account = ? "
        "AND (state = 'requested' OR call_started_at IS NOT NULL)",
        account,
    )
    last = None if row is None or row["last"] is None else moment(row["last"])
    free = tx.now() if last is None else last + timedelta(seconds=interval)
    if free < next_create_at(tx, account):
        _set_next(tx, account, free)


def _set_next(tx: Tx, account: AccountKey, at: datetime) -> None:
    tx.execute(
        "INSERT INTO accounts (provider, account, next_create_at) VALUES (?, ?, ?) "
        "ON CONFLICT (provider, account) DO UPDATE SET next_create_at = excluded.next_create_at",
        (*account, micros(at)),
    )
