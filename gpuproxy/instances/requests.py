"""A caller's machines: look one up, list them, destroy one.

A caller sees only the machines of its project. An admin sees those of all projects.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import NotFound
from gpuproxy.model.leases import UNRESOLVED, InstanceId, Lease
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import ProviderName
from gpuproxy.model.reasons import Reason
from gpuproxy.outcomes import pool_owned, record
from gpuproxy.ports import Database, Tx
from gpuproxy.store import audit, leases, money_log, reservations
from gpuproxy.store.rows import micros


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseView:
    """A lease and its cost so far."""

    lease: Lease
    cost: Micro
    at: datetime | None = None
    """When it was read; None for one that was not."""
    gpu_util: float | None = None
    """How much its GPUs work, in percent; None where it is not known."""

    @property
    def place(self) -> tuple[int, int, str]:
        """A sort key that never decreases: leases whose create is unresolved first, then by age."""
        return int(self.lease.state not in UNRESOLVED), micros(self.lease.created_at), self.lease.id


class Instances:
    """`nudge` makes the next pass of every account begin soon. `gpu_util` tells the GPU utilisation of a machine."""

    def __init__(
        self, db: Database, *, nudge: Callable[[], None], gpu_util: Callable[[Lease], float | None] = lambda _: None
    ) -> None:
        self._db = db
        self._nudge = nudge
        self._gpu_util = gpu_util

    async def by_contract(self, caller: Caller, provider: str, instance_id: str) -> LeaseView:
        """An instance by its contract id, also one that ended long ago. Raises NotFound."""
        return await self._db.read(lambda tx: self._costed(tx, _lease_of(tx, caller, provider, instance_id)))

    async def rented(self, caller: Caller) -> tuple[LeaseView, ...]:
        """The leases that cost money now, or may, in the order of their places."""

        def read(tx: Tx) -> tuple[LeaseView, ...]:
            views = (self._costed(tx, lease) for lease in leases.live_of_project(tx, caller.scope))
            return tuple(sorted(views, key=attrgetter("place")))

        return await self._db.read(read)

    async def destroy(self, caller: Caller, provider: str, instance_id: str) -> Lease:
        """Release one machine. Repeating it changes nothing. Raises NotFound, and IN_WARM_POOL for a pool's machine."""

        def write(tx: Tx) -> Lease:
            lease = _lease_of(tx, caller, provider, instance_id)
            if record.releasable(lease):
                pool_owned.require_direct(tx, lease, "destroy")
            if record.releasable(lease):
                reservation = reservations.get(tx, lease.reservation_id)
                _recorded(tx, caller, lease)
                tx.after_commit(money_log.of_request(reservation, lease, key=caller.key_id, user=caller.user_id))
            return record.release(tx, lease, Reason.DESTROYED)

        lease = await self._db.write(write)
        self._nudge()
        return lease

    def _costed(self, tx: Tx, lease: Lease) -> LeaseView:
        return LeaseView(lease=lease, cost=leases.cost(tx, lease.id), at=tx.now(), gpu_util=self._gpu_util(lease))


def _lease_of(tx: Tx, caller: Caller, provider: str, instance_id: str) -> Lease:
    found = leases.by_instance(tx, ProviderName(provider), InstanceId(instance_id))
    if found is None or not caller.sees(found.project):
        raise NotFound(
            f"The database has no instance {instance_id!r} of {provider}.",
            metadata={"provider": provider, "instance_id": instance_id},
        )
    return found


def _recorded(tx: Tx, caller: Caller, lease: Lease) -> None:
    about = f"{lease.provider}, {lease.reservation_id}"
    audit.record(tx, caller, "instance_destroyed", lease.instance_id or lease.id, about, project=lease.project)
