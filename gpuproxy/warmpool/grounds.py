"""What one host offers for a pool now: its free chunks, and space for the volume. It is asked when a call needs it."""

from gpuproxy.model.offers import HIGHEST_PRICE, AccountKey, HostKey, OfferFilter
from gpuproxy.model.pools import PoolSpec
from gpuproxy.ports import Database
from gpuproxy.runtime.accounts import Accounts
from gpuproxy.store import leases
from gpuproxy.warmpool.hosts import Hosts
from gpuproxy.warmpool.provisioning import Ground


class Grounds:
    """Asks marketplaces about single hosts."""

    def __init__(self, hosts: Hosts, accounts: Accounts, db: Database) -> None:
        self._hosts = hosts
        self._accounts = accounts
        self._db = db

    async def of(self, account: AccountKey, host: HostKey, spec: PoolSpec) -> Ground:
        """What the host offers. Raises ProviderError."""
        provider, machine = self._accounts.provider(account), host.rpartition("/")[2]
        wanted = OfferFilter(
            providers=frozenset({provider.name}),
            machine_ids=frozenset({machine}),
            max_price=HIGHEST_PRICE,
            verified_only=False,
            disk_gb=spec.disk_gb,
        )
        found = [each async for page in provider.search(wanted) for each in page if each.machine_id == machine]
        locked = await self._db.read(leases.locked_keys)
        free = [each for each in found if not any((each.provider, key) in locked for key in each.conflict_keys)]
        limit = OfferFilter(
            gpu_model=spec.gpu_model,
            max_price=spec.max_price,
            verified_only=False,
            disk_gb=spec.disk_gb,
            ports=len(spec.ports),
        )
        fitting = tuple(each for each in free if not limit.rejects(each))
        space = await self._hosts.space(account, [machine], spec.volume_gb)
        return Ground(
            host=host,
            offers=fitting,
            rejected=tuple(each for each in free if limit.rejects(each)),
            volume=space.get(machine),
        )
