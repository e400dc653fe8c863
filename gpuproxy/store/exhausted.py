"""Scopes (offer, host, region, provider) without capacity. A refused create marks its scope for a few minutes."""

from collections.abc import Callable
from datetime import timedelta

from gpuproxy.model.errors import Scope
from gpuproxy.model.leases import Lease, Offered
from gpuproxy.model.offers import Offer
from gpuproxy.ports import Tx
from gpuproxy.store.rows import micros

_FOR = timedelta(minutes=3)


def note(tx: Tx, lease: Lease, scope: Scope) -> None:
    """Mark the scope in which the lease's create found no capacity. An account's quota marks nothing."""
    tx.write("DELETE FROM exhausted WHERE until <= ?", (micros(tx.now()),))
    key = _KEYS.get(scope)
    if key is not None:
        tx.write(
            "INSERT INTO exhausted (provider, scope, key, until) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (provider, scope, key) DO UPDATE SET until = excluded.until",
            (lease.provider, scope.value, key(lease.offered), micros(tx.now() + _FOR)),
        )


def rule(tx: Tx) -> Callable[[Offer], bool]:
    """A function that is True for offers in a marked scope."""
    rows = tx.fetch("SELECT provider, scope, key FROM exhausted WHERE until > ?", (micros(tx.now()),))
    marks = {(row["provider"], Scope(row["scope"]), row["key"]) for row in rows}
    scopes = {scope for _, scope, _ in marks}
    return lambda offer: any((offer.provider, scope, _KEYS[scope](offer)) in marks for scope in scopes)


_KEYS: dict[Scope, Callable[[Offered | Offer], str]] = {
    Scope.OFFER: lambda it: it.offer_id if isinstance(it, Offered) else it.id,
    Scope.HOST: lambda it: it.host,
    Scope.REGION: lambda it: f"{it.location}/{it.gpu_model}",
    Scope.PROVIDER: lambda _: "",
}
