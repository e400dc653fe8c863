"""Whether the GPUs of the standbys are free: one search for many pools, because searches are limited.

A stopped standby holds no GPU. Its pool is active only while its own chunk was rentable at the last look. Two looks
in a row that do not find it are a verdict; a look that could not be made is none. A look counts from its beginning, so
one that began before a failover asked for a new one is not stored.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from gpuproxy.model.errors import ClaimLost, ProviderError
from gpuproxy.model.leases import TERMINAL, LeaseId
from gpuproxy.model.offers import HIGHEST_PRICE, AccountKey, HostKey, Offer, OfferFilter
from gpuproxy.model.pools import Pool, PoolState
from gpuproxy.ports import Capabilities, Clock, Database, Provider, Tx
from gpuproxy.store import claims, leases, pools
from gpuproxy.store.claims import Claim
from gpuproxy.warmpool.limits import PoolLimits

log = structlog.get_logger(__name__)

_DEGRADED = PoolState.DEGRADED
_LOOKS_IN = frozenset({PoolState.PROVISIONING, PoolState.ACTIVE, _DEGRADED})
_LARGE_PAGE = 256
"""Rows of an answer of a marketplace that names no maximum."""
_SHARE = 0.375
"""The part of an account's searches that the catalog leaves to others while it reads a large marketplace."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A pool whose standby's GPUs are looked for."""

    pool: Pool
    keys: tuple[str, ...]
    """The exclusive keys of the standby; empty: any chunk of the right size will do."""
    locked: frozenset[str] = frozenset()
    """Keys of the host that this server has rented."""


def room(capabilities: Capabilities) -> int:
    """The rows that one search is filled with: part of a page, because a full page makes a second search necessary."""
    return (capabilities.search_page or _LARGE_PAGE) * 3 // 4


def pools_per_account(capabilities: Capabilities, limits: PoolLimits, rows: float = 1.0) -> int | None:
    """How many pools on as many hosts one account keeps `active`; None: its searches have no limit.

    Each pool must be looked at once in `unchecked_seconds`. `rows`: the rows that a host has in an answer, which are
    its free chunks of the pool's size; 1: the chunk of the standby. docs/warm-pool.md has the measured figures.
    """
    if not capabilities.search_interval:
        return None
    searches = int(limits.unchecked_seconds / capabilities.search_interval * _SHARE)
    return int(searches * room(capabilities) / rows)


def due(of_account: Iterable[Pool], now: datetime, limits: PoolLimits) -> Sequence[Pool]:
    """The pools to look for now, those that have waited longest first; none as long as no pool must be looked for.

    The others come along, as far as there is room. So the pools of an account are looked for together. A degraded pool
    without a standby needs a look too: as soon as GPUs are free, it can go on.
    """
    found = [
        pool
        for pool in of_account
        if (pool.state in _LOOKS_IN or _is_asked_for(pool))
        and pool.founded
        and (pool.standby is not None or pool.mode == "recreate" or pool.state is _DEGRADED)
    ]
    found.sort(key=lambda each: (each.looked_at is not None, each.looked_at or now, each.id))
    oldest = found[0].looked_at if found else now
    return found if oldest is None or now - oldest >= timedelta(seconds=limits.free_check_seconds) else ()


def _is_asked_for(pool: Pool) -> bool:
    """Whether a failover waits for a look before it destroys the primary."""
    return pool.state is PoolState.FAILOVER and pool.mode == "recreate" and pool.looked_at is None


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
    """Makes the looks."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._rows: dict[tuple[HostKey, int], int] = {}
        """The rows that a host had in the last answer, by the size that was asked for.

        More than one page of rows takes turns of other searches, so that the look is old when it ends.
        """

    async def look(self, provider: Provider, wanted: Sequence[Pool], claim: Claim) -> None:
        """Make one search for the first of these pools of an account, and store what it shows, if the claim holds."""
        size = wanted[0].spec.num_gpus
        batch = self._batch([each for each in wanted if each.spec.num_gpus == size], size, room(provider.capabilities))
        machine_ids = frozenset(each.host.rpartition("/")[2] for each in batch)
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
        shown = Counter(each.host for each in offers)
        self._rows |= {(pool.host, size): shown[pool.host] for pool in batch}
        looked_for = await self._db.read(lambda tx: _wanted(tx, provider, batch))
        results = [(each.pool, is_free(each, offers)) for each in looked_for]
        with suppress(ClaimLost):
            await self._db.write(lambda tx: _store(tx, results, began, claim))

    def _batch(self, wanted: Sequence[Pool], size: int, rows: int) -> Sequence[Pool]:
        """The first pools whose hosts one answer has room for; at least one."""
        hosts: set[HostKey] = set()
        for number, pool in enumerate(wanted):
            if pool.host not in hosts:
                rows -= max(1, self._rows.get((pool.host, size), 1))
                hosts.add(pool.host)
            if rows < 0 and number:
                return wanted[:number]
        return wanted


def account_of(pool: Pool) -> AccountKey:
    """The account that the pool's parts are rented with."""
    return pool.provider, pool.account


def _wanted(tx: Tx, provider: Provider, batch: Iterable[Pool]) -> list[Wanted]:
    """What is looked for: the standby's GPUs, or any of the right size where no standby is."""
    locked = frozenset(key for name, key in leases.locked_keys(tx) if name == provider.name)
    found = []
    for pool in batch:
        standby = None if pool.standby is None else leases.find(tx, LeaseId(pool.standby))
        if standby is not None and standby.state not in TERMINAL:
            found.append(Wanted(pool, standby.offered.conflict_keys, locked))
        elif pool.mode == "recreate" or pool.state is _DEGRADED:
            found.append(Wanted(pool, (), locked))
    return found


def _store(tx: Tx, results: Sequence[tuple[Pool, bool]], at: datetime, claim: Claim) -> None:
    """Store looks that began `at`, when their pools were as given. Raises ClaimLost."""
    claims.require(tx, claim)
    for before, free in results:
        pool = pools.find(tx, before.id)
        if pool is not None and not _is_outdated(tx, before, pool, at):
            pools.looked(tx, pool, at, free=free)


def _is_outdated(tx: Tx, before: Pool, pool: Pool, at: datetime) -> bool:
    """Whether a newer look is stored, or was asked for since this one began."""
    if pool.looked_at is not None:
        return pool.looked_at > at
    incident = pools.open_incident(tx, pool.id)
    return before.looked_at is not None or (incident is not None and incident.began_at > at)
