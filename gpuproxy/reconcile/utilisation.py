"""The GPU utilisation that the supervisor of an account tells the other processes: only it lists the account."""

import json
from collections.abc import Mapping

from gpuproxy.model.offers import AccountKey
from gpuproxy.ports import Tx
from gpuproxy.reconcile.listings import Listing
from gpuproxy.store import shared


def tell(tx: Tx, account: AccountKey, listing: Listing, before: Mapping[str, float]) -> Mapping[str, float]:
    """Store what a listing shows, unless it was told `before`. Percent by instance."""
    shown = {str(each.id): each.gpu_util for each in listing.instances if each.label and each.gpu_util is not None}
    if shown != before:
        shared.tell(tx, _name(account), json.dumps(shown))
    return shown


def told(tx: Tx, account: AccountKey) -> Mapping[str, float]:
    """What the supervisor told last. Percent by instance."""
    found = shared.told(tx, _name(account))
    return {} if found is None else json.loads(found.head)


def _name(account: AccountKey) -> str:
    return f"utilisation:{account[0]}:{account[1]}"
