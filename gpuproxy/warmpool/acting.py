"""Performing the acts of a pool, one at a time. Each is recorded before the next is decided.

Effects are sent only under the claim on the pool's account, which is checked in the unit of work before each of them. A
process that was paused past its claim therefore stops before its next effect.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

import structlog

from gpuproxy.model.errors import Conflict, NoCapacity, ProviderError, Refusal
from gpuproxy.model.lease_facts import BootsAgain, StopDue
from gpuproxy.model.leases import RENTED, InstanceId, Lease, LeaseId, ReservationId
from gpuproxy.model.pools import Degraded, Pool, PoolEvent, PoolSecrets, PoolState
from gpuproxy.model.reasons import Reason
from gpuproxy.outcomes import conclusion, record
from gpuproxy.ports import Clock, Database, Provider, Tx
from gpuproxy.reconcile.effects import STOP_AGAIN
from gpuproxy.reconcile.watches import Watches
from gpuproxy.runtime.accounts import Accounts
from gpuproxy.runtime.persist import write_until_committed
from gpuproxy.store import leases, pools
from gpuproxy.warmpool.hosts import Hosts
from gpuproxy.warmpool.limits import READS_APART
from gpuproxy.warmpool.memory import START_WITHIN, Memory
from gpuproxy.warmpool.renting import Renting, Tried
from gpuproxy.warmpool.scene import (
    Act,
    Change,
    ConfirmGone,
    Fence,
    RentMachine,
    RentVolume,
    Scene,
    Seek,
    Start,
)
from gpuproxy.warmpool.secrets import Sealer, SecretsUnavailable

log = structlog.get_logger(__name__)

_UNDER_WAY = timedelta(seconds=180)
"""How long a start may be unanswered before the machine is stopped again: longer than any call."""
_AGAIN = 1.0
_VOLUME_AGAIN = 5.0
"""Seconds until another machine is tried with a volume that was in use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acting:
    """Performs acts."""

    db: Database
    clock: Clock
    accounts: Accounts
    watches: Watches
    volume_watches: Watches
    renting: Renting
    hosts: Hosts
    sealer: Sealer

    async def perform(self, act: Act, scene: Scene, memory: Memory) -> None:
        """Perform one act and record what became of it. Raises ClaimLost, Conflict and Unavailable."""
        require = self._require(scene.pool)
        if isinstance(act, Change):
            await self.db.write(lambda tx: change(tx, scene.pool, act, require))
            self._nudge(act)
        elif isinstance(act, Fence):
            await self._fence(act, scene, memory, require)
        elif isinstance(act, Start):
            await self._start(act, scene, memory, require)
        elif isinstance(act, ConfirmGone):
            await self._confirm_gone(act.lease, scene, memory)
        elif isinstance(act, Seek):
            await self._seek(scene, require)
        elif isinstance(act, RentVolume | RentMachine):
            await self._rent(act, scene, memory, require)

    def _require(self, pool: Pool) -> Callable[[Tx], None]:
        """What raises ClaimLost unless this process supervises the pool's account."""
        return self.watches.at((pool.provider, pool.account)).claim.require

    def _provider(self, pool: Pool) -> Provider:
        return self.accounts.provider((pool.provider, pool.account))

    def _nudge(self, act: Change) -> None:
        if act.releases:
            self.watches.nudge()
            self.volume_watches.nudge()

    # -- renting

    async def _rent(
        self, act: RentVolume | RentMachine, scene: Scene, memory: Memory, require: Callable[[Tx], None]
    ) -> None:
        pool = scene.pool
        try:
            if isinstance(act, RentVolume):
                tried = await self.renting.volume(pool, require)
            else:
                refused = frozenset(memory.refused)
                tried = await self.renting.machine(pool, act.role, self._secrets(pool), refused, require)
        except ProviderError as error:
            tried = Tried(str(error), Degraded.NO_STANDBY if pool.founded else Degraded.PROVISION_FAILED)
        except SecretsUnavailable as error:
            tried = Tried(str(error), Degraded.SECRETS_UNAVAILABLE)
        self.watches.nudge()
        self.volume_watches.nudge()
        if tried is None:
            memory.refused.clear()
            return
        if tried.offer is not None:
            memory.refused.add(tried.offer)
        else:
            memory.refused.clear()
        await self.db.write(lambda tx: _note_try(tx, scene, tried, require))

    def _secrets(self, pool: Pool) -> PoolSecrets:
        return self.sealer.unseal(pool.sealed)

    async def _seek(self, scene: Scene, require: Callable[[Tx], None]) -> None:
        pool = scene.pool
        found = None
        try:
            found = await self.hosts.best(pool)
            why = Degraded.NO_HOST.sentence
        except (ProviderError, Refusal) as error:
            why = str(error)
        if found is not None:
            new = replace(
                pool, host=found.host, tries=0, next_try_at=None, step_began_at=scene.now, progress="host found",
                degraded=Degraded.NONE, error="",
            )  # fmt: skip
            act = Change(event=PoolEvent.HOST_FOUND, reason=f"host {found.machine_id} has room", pool=new)
        else:
            tries = pool.tries + 1
            wait = min(scene.limits.retry_seconds * 2 ** (tries - 1), scene.limits.retry_most)
            new = replace(
                pool, tries=tries, next_try_at=scene.now + timedelta(seconds=wait), degraded=Degraded.NO_HOST, error=why
            )
            event = PoolEvent.NO_HOST if pool.state is PoolState.SEARCHING else None
            act = Change(event=event, reason=why, pool=new)
        await self.db.write(lambda tx: change(tx, pool, act, require))

    # -- stopping and starting

    async def _fence(self, act: Fence, scene: Scene, memory: Memory, require: Callable[[Tx], None]) -> None:
        """One round: stop what was not asked to stop lately, and read each machine once."""
        provider, wait = self._provider(scene.pool), _AGAIN
        for lease in act.leases:
            if memory.wants_stop(lease.id, self.clock.now()):
                await self._stop(provider, lease, scene, memory, require)
            if lease.id not in memory.stopped_at or lease.instance_id is None:
                continue
            sent_at = self.clock.now()
            try:
                shown = await provider.get(lease.instance_id)
            except ProviderError as error:
                log.info("fence_read_failed", lease=lease.id, reason=error.reason, error=str(error))
                continue
            if shown is None:  # the reconciler proves it gone
                self.watches.nudge()
                continue
            at_rest = shown.at_rest and not self._is_shy(lease, scene.pool)
            memory.read(lease.id, at_rest=at_rest, sent_at=sent_at)
            proof = memory.at_rest.get(lease.id)
            if proof is not None and not proof.proves:
                wait = max(wait, READS_APART - (proof.last - proof.first).total_seconds())
        await self.clock.sleep(wait)

    def _is_shy(self, lease: Lease, pool: Pool) -> bool:
        """Whether the rows of a machine that was created running may still show it stopped."""
        lag = timedelta(seconds=self._provider(pool).capabilities.listing_lag_seconds)
        is_new = lease.started_at is not None and self.clock.now() - lease.started_at < lag
        return is_new and lease.observed.ready_at is None and lease.id != pool.standby

    async def _stop(
        self, provider: Provider, lease: Lease, scene: Scene, memory: Memory, require: Callable[[Tx], None]
    ) -> None:
        memory.stop_sent_at[lease.id] = self.clock.now()
        await self.db.write(lambda tx: _stop_committed(tx, scene, lease.id, require))
        try:
            await provider.stop(InstanceId(lease.instance_id or ""))
        except ProviderError as error:
            log.info("fence_stop_failed", lease=lease.id, reason=error.reason, error=str(error))
            memory.stop_failed(lease.id, self.clock.now())
        else:
            memory.stopped_at.setdefault(lease.id, self.clock.now())

    async def _start(self, act: Start, scene: Scene, memory: Memory, require: Callable[[Tx], None]) -> None:
        """Start a machine. A start that is refused, queued or not answered is stopped before anything else happens."""
        lease, pool = act.lease, scene.pool
        memory.started(lease.id)
        await self.db.write(lambda tx: _start_committed(tx, scene, act, require))
        try:
            async with self.clock.timeout(START_WITHIN * self.clock.scale):
                await self._provider(pool).start(InstanceId(lease.instance_id or ""))
        except (ProviderError, TimeoutError) as error:
            why = (
                "its GPUs are rented to another customer"
                if isinstance(error, NoCapacity)
                else str(error) or "no answer"
            )
            log.info("pool_start_failed", pool=pool.id, lease=lease.id, error=why)
            text = f"machine {lease.instance_id} could not be started: {why}"
            await write_until_committed(
                self.db, self.clock, lambda tx: _start_withdrawn(tx, scene, act, text, require), lease.id
            )
        else:
            await write_until_committed(self.db, self.clock, lambda tx: _may_run(tx, scene, act, require), lease.id)
        self.watches.nudge()

    async def _confirm_gone(self, lease: Lease, scene: Scene, memory: Memory) -> None:
        """Read a vanished machine once more, and the users of the volume."""
        provider, volume = self._provider(scene.pool), scene.volume
        try:
            alive = lease.instance_id is not None and await provider.get(lease.instance_id) is not None
            listed = await provider.list_volumes()
        except ProviderError as error:
            log.info("gone_check_failed", lease=lease.id, reason=error.reason, error=str(error))
            await self.clock.sleep(_AGAIN)
            return
        of = next((each for each in listed.volumes if volume is not None and each.id == volume.instance_id), None)
        if not alive and not listed.unreadable and (of is None or lease.instance_id not in of.used_by):
            memory.gone.add(lease.id)
            return
        self.watches.nudge()
        await self.clock.sleep(_AGAIN)


def change(tx: Tx, pool: Pool, act: Change, require: Callable[[Tx], None]) -> Pool:
    """Store a decision in one unit of work. Raises ClaimLost, and Conflict if the pool has changed since."""
    require(tx)
    if pools.get(tx, pool.id).version != pool.version:
        raise Conflict(f"pool {pool.id} changed while it was decided on")
    for lease_id in act.unsent:
        record.not_attempted(tx, lease_id, Reason.INTERRUPTED)
    for lease_id, reason in act.releases:
        record.release(tx, leases.get(tx, lease_id), reason)
    for lease_id, fact in act.facts:
        lease = leases.get(tx, lease_id)
        if lease.state in RENTED:
            leases.note(tx, lease, fact)
    if act.incident is not None:
        incident = act.incident
        if act.opens:
            pools.insert_incident(tx, replace(incident, number=pools.next_number(tx, pool.id)))
        else:
            pools.save_incident(tx, incident)
    new = act.pool or pool
    if new.wanted == "disabled" and pool.wanted == "gone":
        new = _ended(tx, new)
    if act.event is not None:
        tx.after_commit(
            lambda: log.info(
                "pool_changed", pool=pool.id, machine=pool.machine_id, event_name=act.event, why=act.reason
            )
        )
        return pools.advance(tx, pool, act.event, act.reason, new)
    return pools.save(tx, pool, new)


def _ended(tx: Tx, pool: Pool) -> Pool:
    """Close the pool's ledger, unless a volume that is kept is still in it."""
    if not pools.machines(tx, pool):
        conclusion.close(tx, pool.ledger, Reason.RELEASED)
        return replace(pool, ledger=ReservationId(""))
    return pool


def _note_try(tx: Tx, scene: Scene, tried: Tried, require: Callable[[Tx], None]) -> None:
    require(tx)
    pool = pools.get(tx, scene.pool.id)
    if tried.unshared and pool.spec.mode == "" and pool.mode == "shared":
        pools.save(tx, pool, replace(pool, mode="recreate", mode_why=tried.why, standby=None, tries=0, looked_at=None))
        return
    if tried.unshared and pool.state is PoolState.FAILOVER:  # the volume is not free yet; a time limit ends the wait
        later = tx.now() + timedelta(seconds=_VOLUME_AGAIN)
        pools.save(tx, pool, replace(pool, next_try_at=later, error=tried.why, progress="waiting for the volume"))
        return
    tries = pool.tries + 1
    wait = 0.0 if tried.offer is not None else min(
        scene.limits.retry_seconds * 2 ** (tries - 1), scene.limits.retry_most
    )  # fmt: skip
    if pool.state is PoolState.FAILOVER:
        wait = min(wait, 5.0)
    later = tx.now() + timedelta(seconds=wait)
    degraded = tried.degraded if pool.state in (PoolState.DEGRADED, PoolState.PROVISIONING) else pool.degraded
    pools.save(tx, pool, replace(pool, tries=tries, next_try_at=later, error=tried.why, degraded=degraded))


def _stop_committed(tx: Tx, scene: Scene, lease_id: LeaseId, require: Callable[[Tx], None]) -> None:
    require(tx)
    lease = leases.get(tx, lease_id)
    if lease.state in RENTED:
        leases.note(tx, lease, StopDue(tx.now() + STOP_AGAIN))
    incident = pools.open_incident(tx, scene.pool.id)
    if incident is not None and incident.stop_sent_at is None:
        pools.save_incident(tx, replace(incident, stop_sent_at=tx.now()))


def _start_committed(tx: Tx, scene: Scene, act: Start, require: Callable[[Tx], None]) -> None:
    """Record that a start is about to be sent. Until it is accepted, the machine is still one that is to be stopped."""
    require(tx)
    tx.before_spending()
    pool = pools.get(tx, scene.pool.id)
    if pool.version != scene.pool.version:
        raise Conflict(f"pool {pool.id} changed while a start was decided")
    lease = leases.get(tx, act.lease.id)
    if lease.state not in RENTED:
        raise Conflict(f"machine {lease.instance_id} can't be started: {lease.state}")
    lease = leases.note(tx, lease, StopDue(tx.now() + _UNDER_WAY))
    leases.note(tx, lease, BootsAgain())
    if act.role == "successor":
        incident = pools.open_incident(tx, pool.id)
        if incident is None:
            raise Conflict(f"pool {pool.id} has no incident")
        pools.save_incident(tx, replace(incident, successor=lease.id, start_sent_at=tx.now(), running_at=None))
        pools.save(tx, pool, replace(pool, progress=f"starting machine {lease.instance_id}", step_began_at=tx.now()))


def _start_withdrawn(tx: Tx, scene: Scene, act: Start, why: str, require: Callable[[Tx], None]) -> None:
    """The machine must stay stopped. The proof that it is follows before anything else is started."""
    require(tx)
    lease = leases.get(tx, act.lease.id)
    if lease.state in RENTED:
        leases.note(tx, lease, StopDue(tx.now()))
    pool = pools.get(tx, scene.pool.id)
    if act.role == "successor":
        incident = pools.open_incident(tx, pool.id)
        if incident is not None:
            again = replace(incident, successor=None, start_sent_at=None, rung=incident.rung + 1, reason=why)
            pools.save_incident(tx, again)
        pools.save(tx, pool, replace(pool, error=why, tries=0, next_try_at=None, step_began_at=tx.now()))
        return
    later = tx.now() + timedelta(seconds=scene.limits.retry_seconds)
    pools.save(tx, pool, replace(pool, error=why, tries=pool.tries + 1, next_try_at=later))


def _may_run(tx: Tx, scene: Scene, act: Start, require: Callable[[Tx], None]) -> None:
    """The start was accepted. It is not sent again before a listing could show the machine boot."""
    require(tx)
    lease = leases.get(tx, act.lease.id)
    if lease.state in RENTED:
        leases.note(tx, lease, StopDue(None))
    if act.role == "primary":
        pool = pools.get(tx, scene.pool.id)
        pools.save(tx, pool, replace(pool, next_try_at=tx.now() + timedelta(seconds=scene.limits.retry_seconds)))
