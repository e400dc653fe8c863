"""Hosts that could carry a pool: two chunks of one size that can be rented at once, and space for the volume."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations

from gpuproxy.catalog.refresh import Catalog
from gpuproxy.model.chunks import by_host, rentable_gpus
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import AccountKey, Offer, OfferFilter, ProviderName
from gpuproxy.model.pool_calls import HostQuery, PoolHost
from gpuproxy.model.pools import Pool
from gpuproxy.ports import Database, VolumeOffer
from gpuproxy.runtime.accounts import Accounts
from gpuproxy.store import leases


class Hosts:
    """The hosts of the marketplaces, as pools see them."""

    def __init__(self, catalog: Catalog, accounts: Accounts, db: Database) -> None:
        self._catalog = catalog
        self._accounts = accounts
        self._db = db

    async def listed(self, query: HostQuery) -> tuple[PoolHost, ...]:
        """The hosts that match: those that can carry a pool first, then cheapest first.

        Raises Unavailable and FailedPrecondition of the catalog.
        """
        wanted = OfferFilter(
            providers=frozenset({query.provider}),
            gpu_model=query.gpu_model,
            max_price=query.max_price,
            verified_only=query.verified_only,
            disk_gb=query.disk_gb,
        )
        market = await self._catalog.market(wanted)
        locked = await self._db.read(leases.locked_keys)
        free = [each for each in market.select(wanted).offers if _is_free(each, locked) and each.machine_id.isdecimal()]
        grouped = {
            host: offers for host, offers in by_host(free).items() if rentable_gpus(offers) >= max(1, query.min_gpus)
        }
        hosts = [_host(offers, query.volume_gb) for offers in grouped.values()]
        return tuple(sorted(hosts, key=lambda each: (not each.fits, each.average_price, each.machine_id)))

    async def space(self, account: AccountKey, machine_ids: Collection[str], size_gb: int) -> Mapping[str, VolumeOffer]:
        """Where on these hosts a volume fits, by machine id. Raises ProviderError."""
        if not machine_ids:
            return {}
        found = await self._accounts.provider(account).volume_offers(machine_ids, size_gb)
        return {each.machine_id: each for each in found if each.max_gb >= size_gb}

    async def best(self, pool: Pool) -> PoolHost | None:
        """The cheapest host that can carry the pool; None if there is none. Raises as `listed`."""
        spec = pool.spec
        query = HostQuery(
            gpu_model=spec.gpu_model, max_price=spec.max_price, verified_only=spec.verified_only,
            volume_gb=spec.volume_gb, disk_gb=spec.disk_gb, provider=pool.provider,
        )  # fmt: skip
        found = await self.listed(query)
        return next((each for each in found if each.fits and pool_size(each.offers) == spec.num_gpus), None)


def pool_size(offers: Iterable[Offer]) -> int | None:
    """The smallest size of which two chunks of the host can be rented at once; None if there is none."""
    by_size: dict[int, list[Offer]] = {}
    for offer in offers:
        by_size.setdefault(offer.num_gpus, []).append(offer)
    for size in sorted(by_size):
        if any(not set(one.conflict_keys) & set(other.conflict_keys) for one, other in combinations(by_size[size], 2)):
            return size
    return None


def _is_free(offer: Offer, locked: Collection[tuple[ProviderName, str]]) -> bool:
    return not any((offer.provider, key) in locked for key in offer.conflict_keys)


def _host(offers: Sequence[Offer], volume_gb: int) -> PoolHost:
    first = offers[0]
    gpus = sum(each.num_gpus for each in offers)
    price = sum(each.price(0) for each in offers)
    return PoolHost(
        host=first.host,
        machine_id=int(first.machine_id),
        gpu_model=first.gpu_model,
        total_gpus=max(each.host_gpus or each.num_gpus for each in offers),
        available_gpus=rentable_gpus(offers),
        average_price=Micro(round(price / gpus)),
        reliability_ppm=first.reliability_ppm,
        verified=first.verified,
        location=first.location,
        fits=pool_size(offers) is not None and max(each.volume_gb for each in offers) >= volume_gb,
        offers=tuple(sorted(offers, key=lambda each: (each.num_gpus, each.gpu_price, each.id))),
    )
