"""The accounts that this server rents with. Each has one Provider object, a queue of creates and a circuit."""

from collections.abc import Iterable, Iterator

from gpuproxy.model.leases import Lease
from gpuproxy.model.offers import AccountKey
from gpuproxy.ports import Clock, Provider, Tx
from gpuproxy.ports.pacing import MARGIN
from gpuproxy.runtime.circuits import Circuit
from gpuproxy.runtime.regions import Regions
from gpuproxy.runtime.turns import FairTurns
from gpuproxy.store import pace


class Accounts:
    """All Provider objects, by provider and account."""

    def __init__(
        self,
        providers: Iterable[Provider],
        clock: Clock,
        *,
        seed: str = "",
        regions: Regions | None = None,
        removed: Iterable[AccountKey] = (),
    ) -> None:
        """`seed`: of the jitter of all waits, different in each process. `removed`: accounts that have no key."""
        self._all = {(provider.name, provider.account): provider for provider in providers}
        self._creates = {
            key: FairTurns(clock, each.capabilities.create_interval * MARGIN, seed=f"{seed}/turns/{key}")
            for key, each in self._all.items()
        }
        self._circuits = {key: Circuit(clock, f"{seed}/creates/{key}") for key in self._all}
        self.regions = regions or Regions()
        self.removed = frozenset(removed)
        """With these, nothing is rented."""

    def __iter__(self) -> Iterator[Provider]:
        return iter(self._all.values())

    def usable(self) -> Iterator[Provider]:
        """The Provider objects of the accounts that have a key."""
        return (each for key, each in self._all.items() if key not in self.removed)

    def provider_of(self, lease: Lease) -> Provider:
        """The Provider of the account that a lease was made with. A lease never changes its account."""
        return self._all[lease.provider, lease.account]

    def provider(self, account: AccountKey) -> Provider:
        """The Provider of an account. Raises KeyError if this server has no such account."""
        return self._all[account]

    def creates(self, account: AccountKey) -> FairTurns:
        """The queue of creates of an account."""
        return self._creates[account]

    def circuit(self, account: AccountKey) -> Circuit:
        """The circuit of the creates of an account."""
        return self._circuits[account]

    def waits(self, account: AccountKey, project: str, creates: int) -> list[float]:
        """The seconds until the project's next turn, behind 0, 1, ... `creates` more creates of its own."""
        return [self._creates[account].wait(project, more) for more in range(creates + 1)]

    def restore_pauses(self, tx: Tx) -> None:
        """Continue the pauses between creates that an earlier process has stored."""
        for key, turns in self._creates.items():
            turns.hold((pace.next_create_at(tx, key) - tx.now()).total_seconds())

    async def close(self) -> None:
        """Grant no more turns."""
        for turns in self._creates.values():
            await turns.close()

    def keys(self) -> frozenset[AccountKey]:
        """All (provider, account) pairs."""
        return frozenset(self._all)
