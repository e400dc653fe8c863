"""What an account still has in the database: the reason why its key must not be removed, in words."""

from collections.abc import Collection, Sequence

from gpuproxy.model.leases import Lease
from gpuproxy.model.offers import AccountKey, ProviderName
from gpuproxy.ports import Tx
from gpuproxy.store import leases, pools

_NAMED = 8
"""How many things of one kind are named."""


def accounts(tx: Tx) -> frozenset[AccountKey]:
    """The accounts with machines, volumes, open outcomes or warm pools."""
    of_pools = {(ProviderName(pool.provider), pool.account) for pool in pools.at_work(tx) if pool.account}
    return leases.live_accounts(tx) | of_pools


def in_words(tx: Tx, account: AccountKey) -> str:
    """What the account has, such as "2 machines (27000001, 27000002), warm pool 7"; "" for nothing."""
    rows = leases.live(tx, *account)
    machines = [_id(lease) for lease in rows if not lease.outcome_unknown]
    unknown = [lease.id for lease in rows if lease.outcome_unknown]
    volumes = [_id(lease) for lease in leases.live(tx, *account, "volume")]
    owned = [str(pool.machine_id) for pool in pools.at_work(tx) if (pool.provider, pool.account) == account]
    parts = [
        _listed(machines, "machine", "machines"),
        _listed(unknown, "create with an unknown outcome", "creates with unknown outcomes"),
        _listed(volumes, "volume", "volumes"),
        _listed(owned, "warm pool", "warm pools"),
    ]
    return ", ".join(part for part in parts if part)


def refusal(tx: Tx, configured: Collection[AccountKey]) -> str:
    """Why a server with only these accounts must not start; "" if it may."""
    missing = sorted(accounts(tx) - frozenset(configured))
    if not missing:
        return ""
    found = "; ".join(f"{provider} account {name} has {in_words(tx, (provider, name))}" for provider, name in missing)
    return (
        f"accounts that are still in use are not configured: {found}. Nothing of them can be released. Set their keys "
        "again under the same names (the key itself may be a new one), release what they have, then remove the keys."
    )


def _id(lease: Lease) -> str:
    return str(lease.instance_id or lease.id)


def _listed(ids: Sequence[str], one: str, many: str) -> str:
    if not ids:
        return ""
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return f"{len(ids)} {one if len(ids) == 1 else many} ({', '.join(ids[:_NAMED])}{more})"
