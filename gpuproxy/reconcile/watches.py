"""The watches of all accounts."""

import asyncio
from collections.abc import Collection, Iterator, Sequence

from gpuproxy.model.leases import RENTED, Lease
from gpuproxy.model.offers import AccountKey
from gpuproxy.reconcile.observe import AccountWatch


class Watches:
    """One AccountWatch for each account."""

    def __init__(self, watches: Sequence[AccountWatch]) -> None:
        self._all = {(watch.provider.name, watch.provider.account): watch for watch in watches}

    def __iter__(self) -> Iterator[AccountWatch]:
        return iter(self._all.values())

    def __len__(self) -> int:
        """The number of accounts."""
        return len(self._all)

    def of(self, lease: Lease) -> AccountWatch:
        """The watch of the lease's account."""
        return self._all[lease.provider, lease.account]

    def at(self, account: AccountKey) -> AccountWatch:
        """The watch of an account. Raises KeyError if this server has no such account."""
        return self._all[account]

    def gpu_util(self, lease: Lease) -> float | None:
        """How much a machine's GPUs work, in percent, as the last listing shows it; None where it is not known."""
        watch = self._all.get((lease.provider, lease.account))
        if watch is None or lease.kind != "machine" or lease.state not in RENTED:
            return None
        if watch.listing is None:
            return watch.utils.get(lease.instance_id or "")
        instance = watch.listing.shown(lease)
        return None if instance is None else instance.gpu_util

    def nudge(self) -> None:
        """Make the next pass of every account begin soon."""
        for watch in self._all.values():
            watch.nudge()

    async def look(self, accounts: Collection[AccountKey]) -> None:
        """Return once each of these accounts was listed and the result is stored. Raises Unavailable."""
        await asyncio.gather(*(watch.look() for key, watch in self._all.items() if key in accounts))
