"""Wiring of the catalog. Where several processes use the database, one of them reads for all."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from gpuproxy.catalog.refresh import Catalog
from gpuproxy.catalog.shared import SharedCatalog
from gpuproxy.config.settings import Settings
from gpuproxy.edge.messages.instances import encode_offer, offer_json
from gpuproxy.ports import Clock, Database, Workers
from gpuproxy.runtime.accounts import Accounts
from gpuproxy.runtime.claims import Claims, HeldClaim
from gpuproxy.runtime.lateness import Lateness

T = TypeVar("T")

ENCODERS = {"grpc": encode_offer, "json": offer_json}


def build_catalog(
    settings: Settings,
    accounts: Accounts,
    claims: Claims,
    *,
    db: Database,
    clock: Clock,
    lateness: Lateness,
    workers: Workers | None,
) -> tuple[Catalog, Sequence[HeldClaim]]:
    """The catalog, and the claims on reading marketplaces. `workers`: as in `build_engine`."""
    shared, read = None, {}
    if not db.exclusive:
        read = {each.name: claims.of_catalog(each.name) for each in accounts.usable()}
        shared = SharedCatalog(db, clock, claims=read, workers=workers or _Inline(), kinds=frozenset(ENCODERS))
    catalog = Catalog(
        list(accounts.usable()), clock, ENCODERS, seed=claims.owner, shared=shared, regions=accounts.regions,
        lateness=lateness, refresh_seconds=settings.catalog_refresh_interval,
        stale_after_seconds=settings.catalog_stale_after,
    )  # fmt: skip
    return catalog, tuple(read.values())


class _Inline:
    """The Workers port without threads."""

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """Run work(*args) at once and return its result."""
        return work(*args)
