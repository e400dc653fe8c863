"""When the supervisor of an account last listed it, for processes that rent with the account and don't supervise it.

Times are by the database's clock, because the processes' own clocks may differ.
"""

from datetime import UTC, datetime

from gpuproxy.model.offers import AccountKey
from gpuproxy.ports import Tx
from gpuproxy.store import meta
from gpuproxy.store.rows import micros, moment

_NEVER = datetime.min.replace(tzinfo=UTC)


def note(tx: Tx, account: AccountKey, began_at: datetime) -> None:
    """Record the listing whose conclusions are stored in this unit of work."""
    meta.write(tx, _key(account), str(micros(began_at)))


def ahead(tx: Tx, account: AccountKey) -> None:
    """Say that the last listing will be asked for."""
    meta.ahead(tx, _key(account))


def last_began(tx: Tx, account: AccountKey) -> datetime:
    """When the last recorded listing began; long ago if there is none."""
    value = meta.read(tx, _key(account))
    return _NEVER if value is None else moment(int(value))


def _key(account: AccountKey) -> str:
    return f"listed:{account[0]}:{account[1]}"
