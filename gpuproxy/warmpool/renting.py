"""Renting the parts of a pool: its volume, and machines on its host that mount the volume.

The rule is that of every rental: the intent is committed before the call, the call is sent at most once, and its
outcome is recorded. The pool names the lease of each part in the transaction of the intent.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from gpuproxy.loadbalancer.choice import Chooser
from gpuproxy.loadbalancer.exclusions import Exclusions
from gpuproxy.model.demands import LaunchSpec, VolumeMount
from gpuproxy.model.errors import Conflict, Taken, TurnTaken
from gpuproxy.model.labels import Signer
from gpuproxy.model.lease_facts import KeepGpus
from gpuproxy.model.leases import Lease, LeaseId, LeaseState
from gpuproxy.model.offers import HIGHEST_PRICE, Offer, OfferFilter, OfferId
from gpuproxy.model.owners import Owner
from gpuproxy.model.pools import Degraded, Pool, PoolSecrets
from gpuproxy.model.reasons import Reason
from gpuproxy.outcomes import spending
from gpuproxy.ports import Clock, Database, Tx, VolumeOffer
from gpuproxy.rental import intents
from gpuproxy.rental.attempt import Attempt, Attempts
from gpuproxy.rental.volumes import create_volume, volume_lease
from gpuproxy.runtime.accounts import Accounts
from gpuproxy.store import leases, pools, reservations, ssh_keys
from gpuproxy.warmpool.limits import PoolLimits
from gpuproxy.warmpool.scene import Role

Require = Callable[[Tx], None]


@dataclass(frozen=True, slots=True)
class Tried:
    """Nothing was rented. `offer` is an offer that is not to be tried again."""

    why: str
    degraded: Degraded
    offer: OfferId | None = None
    unshared: bool = False
    """The marketplace does not give the volume to a second machine."""


class Renting:
    """Rents for the pools of all accounts."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        accounts: Accounts,
        attempts: Attempts,
        chooser: Chooser,
        signer: Signer,
        limits: PoolLimits,
        check_key: str = "",
        prepaid_hours: int = 1,
        hold_ahead: timedelta = timedelta(hours=1),
    ) -> None:
        """With `check_key`, a public key, a machine is ready only if it lets the probe log in."""
        self._check_key = check_key
        self._prepaid_hours = prepaid_hours
        self._hold_ahead = hold_ahead
        self._db = db
        self._clock = clock
        self._accounts = accounts
        self._attempts = attempts
        self._chooser = chooser
        self._signer = signer
        self._limits = limits
        self._stops: set[asyncio.Event] = set()

    def withdraw(self) -> None:
        """Send none of the creates that still wait for their turn."""
        for stop in self._stops:
            stop.set()

    async def offers(self, pool: Pool) -> list[Offer]:
        """What can be rented on the pool's host for one of its machines, cheapest first. Raises ProviderError."""
        wanted = machine_filter(pool)
        provider = self._accounts.provider((pool.provider, pool.account))
        found = [each async for page in provider.search(wanted) for each in page]
        return sorted((each for each in found if not wanted.rejects(each)), key=lambda each: (each.gpu_price, each.id))

    async def volume(self, pool: Pool, require: Require) -> Tried | None:
        """Rent the volume. Returns why nothing was rented; None if it was, or may have been. Raises ProviderError."""
        provider = self._accounts.provider((pool.provider, pool.account))
        machine = pool.host.rpartition("/")[2]
        found = await provider.volume_offers([machine], pool.spec.volume_gb)
        fitting = [each for each in found if each.machine_id == machine and each.max_gb >= pool.spec.volume_gb]
        if not fitting:
            return Tried(f"The host has no space for a volume of {pool.spec.volume_gb} GB.", Degraded.PROVISION_FAILED)
        offer = min(fitting, key=lambda each: (each.price_month, each.id))
        lease = await self._db.write(lambda tx: self._intend_volume(tx, pool, offer, require))
        latest = self._clock.now() + timedelta(seconds=self._limits.create_seconds)
        refused = await create_volume(self._db, self._clock, provider, offer, lease, latest, require)
        return Tried(refused, Degraded.PROVISION_FAILED) if refused else None

    async def machine(
        self, pool: Pool, role: Role, secrets: PoolSecrets, refused: frozenset[OfferId], require: Require
    ) -> Tried | None:
        """Rent a machine. Returns why nothing was rented; None if it was, or may have been. Raises ProviderError."""
        spec = launch(pool, role, await self._volume_id(pool), secrets, self._limits)
        spec = replace(spec, ssh_public_keys=await self._keys(pool))
        found = [each for each in await self.offers(pool) if each.id not in refused]
        latest = self._clock.now() + timedelta(seconds=self._limits.create_seconds / 2)
        async with self._chooser.lock:
            locked = await self._db.read(leases.locked_keys)
            free = [each for each in found if not any((each.provider, key) in locked for key in each.conflict_keys)]
            if not free:
                size = f"{pool.spec.num_gpus} GPU" + ("s" if pool.spec.num_gpus > 1 else "")
                return Tried(f"The host has no free chunk of {size} at this price.", Degraded.NO_FREE_GPU)
            offer = free[0]
            intent = self._intent(pool, offer, spec, await self._owner(pool), latest, role=role)
            try:
                lease = await self._db.write(lambda tx: self._intend(tx, pool, role, intent, require))
            except (Taken, TurnTaken) as error:
                return Tried(str(error), Degraded.NO_FREE_GPU)
        if lease.state is LeaseState.REQUESTED:
            await self._create(self._attempts.of(lease, offer, spec, latest, require))
            lease = await self._db.read(lambda tx: leases.get(tx, lease.id))
        if lease.state is not LeaseState.FAILED:
            return None
        why = lease.observed.status_message or lease.reason.meaning.outcome
        if lease.reason is Reason.VOLUME_IN_USE:  # no other offer would help
            return Tried(why, Degraded.NO_STANDBY, unshared=True)
        return Tried(why, Degraded.NO_FREE_GPU, offer=offer.id)

    async def _create(self, attempt: Attempt) -> None:
        stop = asyncio.Event()
        self._stops.add(stop)
        try:
            await attempt.run(stop, Exclusions())
        finally:
            self._stops.discard(stop)

    async def _owner(self, pool: Pool) -> Owner:
        return await self._db.read(lambda tx: reservations.get(tx, pool.ledger).as_owner)

    async def _keys(self, pool: Pool) -> tuple[str, ...]:
        """The pool's own SSH keys, those of its project, and the check key."""
        rows = await self._db.read(lambda tx: ssh_keys.listed(tx, pool.project))
        check = [self._check_key] if self._check_key else []
        return tuple(dict.fromkeys((*pool.spec.ssh_public_keys, *(row.public_key for row in rows), *check)))

    async def _volume_id(self, pool: Pool) -> str:
        volume = (
            None if pool.volume is None else await self._db.read(lambda tx: leases.find(tx, LeaseId(pool.volume or "")))
        )
        if volume is None or volume.instance_id is None:
            raise Conflict(f"pool {pool.id} has no volume")
        return volume.instance_id

    def _intent(
        self, pool: Pool, offer: Offer, spec: LaunchSpec, owner: Owner, latest: datetime, *, role: Role
    ) -> intents.Intent:
        key = (pool.provider, pool.account)
        return intents.Intent(
            owner=owner,
            insert=None,
            read=lambda tx: reservations.get(tx, pool.ledger).as_owner,
            picks=(offer,),
            wanted=machine_filter(pool),
            spec=spec,
            terms={pool.provider: {pool.account: self._accounts.provider(key).capabilities}},
            waits={key: self._accounts.waits(key, pool.project, 1)},
            latest=latest,
            prepaid_hours=self._prepaid_hours,
            admit=lambda tx, made: self._admit(tx, pool, role, made),
        )

    def _admit(self, tx: Tx, pool: Pool, role: Role, made: Sequence[Lease]) -> None:
        """Hold the money for a machine. One that takes over uses what is held for that beside the primary."""
        if role != "successor":
            spending.admit_creates(tx, made, self._hold_ahead, failover=role == "primary")
            return
        old = None if pool.primary is None else leases.find(tx, pool.primary)
        for lease in made:
            if lease.state is LeaseState.REQUESTED:
                spending.admit_takeover(tx, old, lease, self._hold_ahead)

    def _intend(self, tx: Tx, pool: Pool, role: Role, intent: intents.Intent, require: Require) -> Lease:
        """Write the intent, and name the lease as the pool's part in the same transaction."""
        require(tx)
        (lease,) = intents.write(tx, intent, self._signer)
        now = pools.get(tx, pool.id)
        if now.version != pool.version:
            raise Conflict(f"pool {pool.id} changed while its machine was chosen")
        if role == "successor":
            incident = pools.open_incident(tx, pool.id)
            if incident is None:
                raise Conflict(f"pool {pool.id} has no incident")
            pools.save_incident(tx, replace(incident, successor=lease.id, start_sent_at=tx.now()))
            return lease
        if role == "standby":
            lease = leases.note(tx, lease, KeepGpus(keep=True))
            pools.save(tx, now, replace(now, standby=lease.id, progress="creating the standby", step_began_at=tx.now()))
        else:
            pools.save(tx, now, replace(now, primary=lease.id, progress="creating the primary", step_began_at=tx.now()))
        return lease

    def _intend_volume(self, tx: Tx, pool: Pool, offer: VolumeOffer, require: Require) -> Lease:
        require(tx)
        tx.before_spending()
        now = pools.get(tx, pool.id)
        if now.version != pool.version:
            raise Conflict(f"pool {pool.id} changed while its volume was chosen")
        attempt = 1 + max((each.attempt for each in leases.of_reservation(tx, pool.ledger)), default=0)
        lease = volume_lease(
            reservations.get(tx, pool.ledger), (pool.provider, pool.account), offer, pool.spec.volume_gb,
            attempt=attempt, label=self._signer.label(slot_of(pool), attempt), at=tx.now(),
        )  # fmt: skip
        leases.insert(tx, lease)
        spending.admit_creates(tx, [lease], self._hold_ahead)
        pools.save(tx, now, replace(now, volume=lease.id, progress="creating the volume", step_began_at=tx.now()))
        return lease


def machine_filter(pool: Pool) -> OfferFilter:
    """What an offer for one of the pool's machines must satisfy."""
    return OfferFilter(
        providers=frozenset({pool.provider}),
        machine_ids=frozenset({pool.host.rpartition("/")[2]}),
        num_gpus=pool.spec.num_gpus,
        max_price=min(pool.spec.max_price, HIGHEST_PRICE),
        gpu_model=pool.spec.gpu_model,
        verified_only=False,  # the host was chosen by its number
        disk_gb=pool.spec.disk_gb,
        ports=len(pool.spec.ports),
    )


def launch(pool: Pool, role: Role, volume_id: str, secrets: PoolSecrets, limits: PoolLimits) -> LaunchSpec:
    """What runs on a machine of the pool. A standby is created stopped."""
    spec = pool.spec
    mount = VolumeMount(
        volume_id=volume_id,
        path=spec.mount_path,
        nonce=pool.nonce,
        founds=not pool.founded and role == "primary",
        wait_seconds=round(limits.start_seconds),
    )
    return LaunchSpec(
        image=spec.image,
        disk_gb=spec.disk_gb,
        env=spec.env,
        secret_env=secrets.secret_env,
        registry_auth=secrets.registry_auth,
        ports=spec.ports,
        onstart=spec.onstart,
        ssh_public_keys=spec.ssh_public_keys,
        volume=mount,
        stopped=role == "standby",
    )


def slot_of(pool: Pool) -> str:
    """The part of a label that names the pool."""
    return pool.ledger.removeprefix("pool-")
