"""Performing the acts of a pool, one at a time. Each is recorded before the next is decided.

Effects are sent only under the claim on the pool's account, which is checked in the unit of work before each of them. A
process that was paused past its claim therefore stops before its next effect.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial

import structlog

from gpuproxy.model.errors import (
    FailedPrecondition,
    NoCapacity,
    OutcomeUnknown,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    Refusal,
)
from gpuproxy.model.leases import InstanceId, Lease
from gpuproxy.model.pools import Degraded, LateStart, Pool, PoolEvent, PoolSecrets, PoolState
from gpuproxy.ports import Clock, Database, Provider, Tx
from gpuproxy.reconcile.watches import Watches
from gpuproxy.runtime import fencing
from gpuproxy.runtime.accounts import Accounts
from gpuproxy.runtime.persist import write_until_committed
from gpuproxy.store import claims
from gpuproxy.warmpool import writing
from gpuproxy.warmpool.hosts import Hosts
from gpuproxy.warmpool.limits import READS_APART
from gpuproxy.warmpool.memory import SENT_WITHIN, Memory
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

_LATE = timedelta(hours=1)
"""Where the marketplace has no known bound for late effects."""
_AGAIN = 1.0


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
    hold_ahead: timedelta = timedelta(hours=1)

    async def perform(self, act: Act, scene: Scene, memory: Memory) -> None:
        """Perform one act and record what became of it. Raises ClaimLost, Conflict and Unavailable."""
        require, watched = self._require(scene.pool, memory), self.watches.at((scene.pool.provider, scene.pool.account))
        with fencing.under(lambda: memory.claim is None or watched.claim.has(memory.claim)):
            await self._performed(act, scene, memory, require)

    async def _performed(self, act: Act, scene: Scene, memory: Memory, require: Callable[[Tx], None]) -> None:
        if isinstance(act, Change):
            await self.db.write(lambda tx: writing.change(tx, scene.pool, act, require))
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

    def _require(self, pool: Pool, memory: Memory) -> Callable[[Tx], None]:
        """What raises ClaimLost unless this process has supervised the account since the memory began.

        A claim that was lost and taken again does not count: somebody else may have started a machine in between.
        """
        if (claim := memory.claim) is None:
            return self.watches.at((pool.provider, pool.account)).claim.require
        return lambda tx: claims.require(tx, claim)

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
        is_first = isinstance(act, RentVolume) or act.role == "primary"
        degraded = Degraded.PROVISION_FAILED if is_first or not pool.founded else Degraded.NO_STANDBY
        try:
            if isinstance(act, RentVolume):
                tried = await self.renting.volume(pool, require)
            else:
                refused = frozenset(memory.refused)
                tried = await self.renting.machine(pool, act.role, self._secrets(pool), refused, require)
        except ProviderError as error:
            tried = Tried(str(error), degraded)
        except SecretsUnavailable as error:
            tried = Tried(str(error), Degraded.SECRETS_UNAVAILABLE)
        except FailedPrecondition as error:  # a spending limit or a quota
            tried = Tried(error.message, degraded)
        self.watches.nudge()
        self.volume_watches.nudge()
        if tried is None:
            memory.refused.clear()
            return
        if tried.offer is not None:
            memory.refused.add(tried.offer)
        else:
            memory.refused.clear()
        await self.db.write(lambda tx: writing.note_try(tx, scene, tried, require))

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
            later = scene.now + timedelta(seconds=scene.limits.wait_after(tries))
            new = replace(pool, tries=tries, next_try_at=later, degraded=Degraded.NO_HOST, error=why)
            event = PoolEvent.NO_HOST if pool.state is PoolState.SEARCHING else None
            act = Change(event=event, reason=why, pool=new)
        await self.db.write(lambda tx: writing.change(tx, pool, act, require))

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
        try:
            async with self.clock.timeout(SENT_WITHIN * self.clock.scale):
                await self.db.write(lambda tx: writing.stop_committed(tx, scene, lease.id, require))
                await provider.stop(InstanceId(lease.instance_id or ""))
        except (ProviderError, TimeoutError) as error:
            log.info("fence_stop_failed", lease=lease.id, error=str(error) or "no answer")
            memory.stop_failed(lease.id, self.clock.now())
        else:
            memory.stopped_at.setdefault(lease.id, self.clock.now())

    async def _start(self, act: Start, scene: Scene, memory: Memory, require: Callable[[Tx], None]) -> None:
        """Start a machine. A start that is refused or queued is stopped before anything else happens.

        One without a clear answer may be carried out later, so it is repeated: nothing else may run until its bound.
        """
        lease, pool = act.lease, scene.pool
        memory.started(lease.id)
        late = (lease.id, self.clock.now() + self._late(pool))
        try:
            async with self.clock.timeout(SENT_WITHIN * self.clock.scale):
                await self.db.write(
                    lambda tx: writing.start_committed(tx, scene, act, late, require=require, horizon=self.hold_ahead)
                )
                await self._provider(pool).start(InstanceId(lease.instance_id or ""))
        except (ProviderError, FailedPrecondition, TimeoutError) as error:
            outcome = self._not_started(act, scene, late, error, require)
        else:
            outcome = partial(writing.may_run, scene=scene, act=act, late=late, require=require)
        await write_until_committed(self.db, self.clock, outcome, lease.id)
        self.watches.nudge()

    def _not_started(
        self, act: Start, scene: Scene, late: LateStart, error: Exception, require: Callable[[Tx], None]
    ) -> Callable[[Tx], None]:
        """What is recorded after a start that failed. If a repeat was not sent, the first one still has no answer."""
        lease, pool = act.lease, scene.pool
        unsent = isinstance(error, (ProviderUnavailable, RateLimited))
        earlier = any(each == lease.id and until > self.clock.now() for each, until in pool.late_starts)
        if isinstance(error, (OutcomeUnknown, TimeoutError)) or (unsent and earlier):
            log.info("pool_start_unknown", pool=pool.id, lease=lease.id, error=str(error) or "no answer")
            return partial(writing.start_unknown, scene=scene, act=act, require=require)
        why = str(error)
        if isinstance(error, NoCapacity):
            why = "its GPUs are rented to another customer"
        log.info("pool_start_failed", pool=pool.id, lease=lease.id, error=why)
        text = f"machine {lease.instance_id} could not be started: {why}"
        return partial(writing.start_withdrawn, scene=scene, act=act, late=late, why=text, require=require)

    def _late(self, pool: Pool) -> timedelta:
        """How long after its intent a start may be carried out."""
        bound = self._provider(pool).capabilities.late_seconds
        until_sent = timedelta(seconds=SENT_WITHIN * self.clock.scale)
        return until_sent + (_LATE if bound is None else timedelta(seconds=bound))

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
