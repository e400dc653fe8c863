"""Whether the GPUs of the standbys are free: one search for many pools, because searches are limited.

A stopped standby holds no GPU. Its pool is active only while its own chunk was rentable at the last look. Two looks
in a row that do not find it are a verdict; a look that could not be made is none.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from gpuproxy.model.errors import ProviderError
from gpuproxy.model.leases import TERMINAL, Lease, LeaseId
from gpuproxy.model.offers import HIGHEST_PRICE, AccountKey, Offer, OfferFilter
from gpuproxy.model.pools import Pool, PoolId, PoolState
from gpuproxy.ports import Clock, Database, Provider, Tx
from gpuproxy.store import leases, pools
from gpuproxy.warmpool.limits import PoolLimits

log = structlog.get_logger(__name__)

BATCH = 16
"""Hosts in one search: an answer may have 64 rows, and a host has up to a few free chunks of one size."""
_DEGRADED = PoolState.DEGRADED
_LOOKS_IN = frozenset({PoolState.PROVISIONING, PoolState.ACTIVE, _DEGRADED})


@dataclass(frozen=True, slots=True)
class Wanted:
    """A pool whose standby's GPUs are looked for."""

    pool: Pool
    keys: tuple[str, ...]
    """The exclusive keys of the standby; empty: any chunk of the right size will do."""
    locked: frozenset[str] = frozenset()
    """Keys of the host that this server has rented."""


def due(views: Iterable[tuple[Pool, Mapping[LeaseId, Lease]]], now: datetime, limits: PoolLimits) -> list[Wanted]:
    """The pools that need a look now, those that have waited longest first.

    A degraded pool without a standby needs one too: as soon as GPUs are free, it can go on.
    """
    found = [
        Wanted(pool, standby.offered.conflict_keys if standby is not None else ())
        for pool, rows in views
        if pool.state in _LOOKS_IN
        and pool.founded
        and ((standby := _standby(pool, rows)) is not None or pool.mode == "recreate" or pool.state is _DEGRADED)
        and (pool.looked_at is None or now - pool.looked_at >= timedelta(seconds=limits.free_check_seconds))
    ]
    return sorted(found, key=lambda each: (each.pool.looked_at is not None, each.pool.looked_at or now, each.pool.id))


def _standby(pool: Pool, rows: Mapping[LeaseId, Lease]) -> Lease | None:
    found = rows.get(pool.standby) if pool.standby else None
    return None if found is None or found.state in TERMINAL else found


def is_free(wanted: Wanted, offers: Sequence[Offer]) -> bool:
    """Whether the rentable offers of the host show that the pool's chunk is free."""
    there = [each for each in offers if each.host == wanted.pool.host]
    if wanted.keys:
        free = {key for each in there for key in each.conflict_keys}
        return set(wanted.keys) <= free
    spec = wanted.pool.spec
    limit = OfferFilter(max_price=spec.max_price, verified_only=False, num_gpus=spec.num_gpus, disk_gb=spec.disk_gb)
    return any(not limit.rejects(each) and wanted.locked.isdisjoint(each.conflict_keys) for each in there)


class FreeGpus:
    """Makes the looks for one account."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def look(self, provider: Provider, wanted: Sequence[Wanted]) -> None:
        """Make one search for pools with machines of one size, and store what it shows."""
        size = wanted[0].pool.spec.num_gpus
        batch = [each for each in wanted if each.pool.spec.num_gpus == size][:BATCH]
        machine_ids = frozenset(each.pool.host.rpartition("/")[2] for each in batch)
        asked = OfferFilter(
            providers=frozenset({provider.name}), machine_ids=machine_ids, num_gpus=size, max_price=HIGHEST_PRICE,
            verified_only=False, disk_gb=0,
        )  # fmt: skip
        began = self._clock.now()
        try:
            offers = [each async for page in provider.search(asked) for each in page]
        except ProviderError as error:
            log.info("free_gpu_check_failed", account=provider.account, reason=error.reason, error=str(error))
            return
        locked = {key for name, key in await self._db.read(leases.locked_keys) if name == provider.name}
        results: list[tuple[PoolId, bool]] = [
            (each.pool.id, is_free(replace(each, locked=frozenset(locked)), offers)) for each in batch
        ]
        await self._db.write(lambda tx: _store(tx, results, began))


def account_of(pool: Pool) -> AccountKey:
    """The account that the pool's parts are rented with."""
    return pool.provider, pool.account


def _store(tx: Tx, results: Sequence[tuple[PoolId, bool]], at: datetime) -> None:
    for pool_id, free in results:
        pool = pools.find(tx, pool_id)
        if pool is None or (pool.looked_at is not None and pool.looked_at > at):
            continue
        seen = replace(pool, looked_at=at, misses=0 if free else pool.misses + 1)
        pools.save(tx, pool, replace(seen, checked_at=at) if free else seen)
