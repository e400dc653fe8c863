"""The outside effects of a pass: destroy, stop, read one machine, probe it, prepare it, release a stray.

Each effect records its result in a unit of work of its own. There is at most one task for each lease and kind of
effect. Nothing here retries: the next pass repeats what failed.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import structlog

from gpuproxy.model import lease_ends
from gpuproxy.model.bookings import ended_by_itself
from gpuproxy.model.errors import ClaimLost, ProviderError, RateLimited, Unavailable
from gpuproxy.model.labels import Signer
from gpuproxy.model.lease_events import Ended, Gone, Ready, Reappeared, Vanished
from gpuproxy.model.lease_facts import DestroyAnswer, DestroySent, Missing, StopDue
from gpuproxy.model.leases import RENTED, TERMINAL, InstanceId, Lease, LeaseId, LeaseKind, LeaseState, SshAddress
from gpuproxy.outcomes import pool_owned, record
from gpuproxy.outcomes.sweep import Stray
from gpuproxy.ports import Clock, Database, ListedInstance, Probe, Provider, Tx
from gpuproxy.ports.pacing import MARGIN
from gpuproxy.reconcile.boots import Boots
from gpuproxy.reconcile.doubts import Probes
from gpuproxy.reconcile.extending import Extending
from gpuproxy.reconcile.labels import Labels, plain
from gpuproxy.reconcile.steps import (
    Confirm,
    Destroy,
    Extend,
    ProbeReady,
    ReadBooking,
    ReadBoot,
    RegisterKeys,
    Relabel,
    Step,
    Stop,
)
from gpuproxy.reconcile.ways_in import WayIn
from gpuproxy.runtime import fencing
from gpuproxy.runtime.background import Background
from gpuproxy.runtime.limits import Limits
from gpuproxy.runtime.turns import FairTurns
from gpuproxy.store import claims, leases
from gpuproxy.store.claims import Claim

log = structlog.get_logger(__name__)

_CANARIES = 3
_PROMPTLY = 8
"""This many destroys that failed are repeated without a growing wait."""
STOP_AGAIN = timedelta(seconds=15)
"""The wait before a stop is repeated if the machine still runs."""
Effect = Destroy | Stop | Confirm | ProbeReady | RegisterKeys | ReadBoot | Relabel | Extend | ReadBooking


@dataclass(slots=True)
class _Asked:
    """Reads of a machine that listings do not show. Their interval grows until one gives a clear answer."""

    wait: float = 2.5
    next_at: datetime | None = None
    missed_at: datetime | None = None
    """When a read first answered that there is no such instance."""


class Effects:
    """The outside effects of one account. `changed` is called when the next pass should come soon."""

    def __init__(
        self,
        provider: Provider,
        db: Database,
        *,
        clock: Clock,
        probe: Probe,
        limits: Limits,
        probes: Probes,
        signer: Signer,
        changed: Callable[[], None],
        sure_of_key: Callable[[], bool],
        has: Callable[[Claim], bool],
        kind: LeaseKind = "machine",
    ) -> None:
        """`sure_of_key` returns whether the key is certainly of the account that the machines were rented with.

        `has` returns whether this process still has a claim, as far as it can know without asking the database.
        """
        self._has = has
        self._provider = provider
        self._db = db
        self._clock = clock
        self._probe = probe
        self._limits = limits
        self._probes = probes
        self._changed = changed
        self._sure_of_key = sure_of_key
        self._kind = kind
        self._signer = signer
        self._destroys = FairTurns(clock, provider.capabilities.destroy_interval * MARGIN)
        self._boots = Boots(provider, db, clock)
        self._extending = Extending(provider, db, clock, limits, changed)
        self._labels = Labels(provider, db, clock)
        self._asked: dict[LeaseId, _Asked] = {}
        self.read: list[ListedInstance] = []
        """Machines that a listing did not show but a read did. The next pass takes them."""
        self._background = Background("effect")

    def start(self, effect: Effect, claim: Claim) -> None:
        """Perform a step of whoever has the claim, unless the same step is running."""
        self._background.start_once(lambda: self._perform(effect, claim), f"{type(effect).__name__} {effect.lease.id}")

    def start_all(self, steps: Iterable[Step], claim: Claim) -> None:
        """Perform those steps that are effects."""
        for step in steps:
            if isinstance(step, Effect):
                self.start(step, claim)

    def release_stray(self, stray: Stray, claim: Claim) -> None:
        """Check that a stray machine is alive, and store it as one to be released."""
        self._background.start_once(lambda: self._release_stray(stray, claim), f"Stray {stray.instance.id}")

    def forget(self, missing: Collection[LeaseId], live: Collection[LeaseId]) -> None:
        """Forget the reads of leases that are not `missing` from listings, and all else about those not `live`."""
        self._asked = {lease_id: asked for lease_id, asked in self._asked.items() if lease_id in missing}
        self._boots.forget(live)
        self._extending.forget(live)
        self._labels.forget(live)

    def forget_reads(self) -> None:
        """Forget what reads have shown: another process has had the account since."""
        self._asked.clear()
        self.read.clear()

    async def done(self) -> None:
        """Return when no effect is running."""
        await self._background.finished()

    async def close(self) -> None:
        """Cancel running effects. The database has what is left to do."""
        await self._background.close()
        await self._destroys.close()

    async def _perform(self, effect: Effect, claim: Claim) -> None:
        try:
            await self._db.read(lambda tx: claims.require(tx, claim))
            with fencing.under(lambda: self._has(claim)):
                await self._performed(effect, claim)
        except ClaimLost:
            log.info("effect_left_to_another_process", effect=type(effect).__name__, lease=effect.lease.id)

    async def _performed(self, effect: Effect, claim: Claim) -> None:
        if isinstance(effect, Destroy):
            await self._destroy(effect.lease, claim)
        elif isinstance(effect, Stop):
            await self._stop(effect.lease, claim)
        elif isinstance(effect, Confirm):
            await self._confirm(effect, claim)
        elif isinstance(effect, ProbeReady):
            await self._probe_ready(effect, claim)
        elif isinstance(effect, RegisterKeys):
            await self._boots.register_keys(effect)
        elif isinstance(effect, Relabel):
            await self._labels.write(effect)
        elif isinstance(effect, Extend):
            await self._extending.extend(effect.lease, claim)
        elif isinstance(effect, ReadBooking):
            await self._extending.read(effect.lease, claim)
        else:
            await self._boots.read_report(effect.lease)

    async def _probe_ready(self, step: ProbeReady, claim: Claim) -> None:
        lease = step.lease
        if (found := await self._answering(step.ways_in)) is not None:
            self._probes.answered(lease)
            await self._write(lambda tx: _ready(tx, lease.id, found), claim, lease)
        elif step.late and self._probes.missed(lease, self._clock.now()):
            await self._suspect_own_network(lease)

    async def _answering(self, ways_in: Sequence[WayIn]) -> WayIn | None:
        """The first address that answers. All are probed at once."""
        answers = await asyncio.gather(
            *(
                self._probe.reachable(at.kind, at.host, at.port, self._limits.probe_timeout, user=at.user)
                for at in ways_in
            )
        )
        return next((at for at, answers_now in zip(ways_in, answers, strict=True) if answers_now), None)

    async def _suspect_own_network(self, lease: Lease) -> None:
        """Check our own network before a machine is given up: probe other machines that should answer."""
        others = await self._db.read(leases.reachable)
        answers = await asyncio.gather(*(
            self._probe.reachable("ssh", each.observed.ssh_host, each.observed.ssh_port, self._limits.probe_timeout)
            for each in others[:_CANARIES]
        ))  # fmt: skip
        suspected = not any(answers) and (bool(answers) or self._probes.elsewhere(lease.offered.host))
        if self._probes.suspect_network(lease, suspected=suspected):
            log.warning("own_network_suspected", lease=lease.id, contract=lease.instance_id, others=len(answers))

    async def _confirm(self, confirm: Confirm, claim: Claim) -> None:
        lease, now = confirm.lease, self._clock.now()
        asked = self._asked.setdefault(lease.id, _Asked())
        if lease.instance_id is None or (asked.next_at is not None and now < asked.next_at):
            return
        asked.wait = min(2 * asked.wait, self._limits.destroy_again_max)
        asked.next_at = now + timedelta(seconds=asked.wait)
        try:
            found = await self._provider.get(lease.instance_id)
        except ProviderError:
            return  # a later pass asks again
        if found is not None:
            self._asked.pop(lease.id, None)
            # What was paid for a booking is judged by two reads that agree.
            price = None if lease.is_prepaid else found.price
            self.read.append(replace(plain(found, self._signer), price=price))
            if await self._write(lambda tx: _still_there(tx, lease.id), claim):
                self._changed()
            return
        asked.missed_at = asked.missed_at or now
        if confirm.alone and now - asked.missed_at < timedelta(seconds=self._limits.gone_after):
            asked.next_at = asked.missed_at + timedelta(seconds=self._limits.gone_after)
            return
        used = await self._used(lease, lease.instance_id)
        if await self._write(lambda tx: _not_there(tx, lease.id, lease.state, used), claim, lease):
            self._asked.pop(lease.id, None)

    async def _used(self, lease: Lease, instance_id: InstanceId) -> timedelta | None:
        """How long a destroyed machine ran, if the refund depends on it and the first destroy was not what ended it."""
        at_once = lease.pending.destroy_accepted_at is not None and lease.pending.destroy_tries == 1
        if lease.state is not LeaseState.RELEASING or lease.prepaid.refund_after is None or at_once:
            return None
        try:
            return await self._provider.used(instance_id)
        except ProviderError as error:
            log.info("use_not_read", lease=lease.id, contract=instance_id, reason=error.reason, error=str(error))
            return None

    async def _destroy(self, lease: Lease, claim: Claim) -> None:
        """Destroy the machine. Projects take turns, so that no project waits for all releases of another."""
        if lease.instance_id is None:
            return
        async with self._destroys.turn(lease.project) as turn:
            turn.used = await self._db.read(lambda tx: _is_to_go(tx, lease.id, claim))
        if not turn.used:
            return
        tries = lease.pending.destroy_tries
        wait = min(self._limits.destroy_again * 2 ** min(tries, 10), self._limits.destroy_again_max)
        answer: DestroyAnswer = "error"
        try:
            answer = "none there" if await self._send_destroy(lease.instance_id) else "accepted"
        except RateLimited as error:
            wait = error.retry_after or self._limits.poll_seconds
        except ProviderError as error:
            log.info(
                "destroy_failed", lease=lease.id, contract=lease.instance_id, reason=error.reason, error=str(error)
            )
            wait = wait if tries >= _PROMPTLY else min(wait, self._limits.destroy_again)
        if answer == "none there":
            if not self._sure_of_key():  # another account's key never finds our machines
                answer = "error"
            self.read = [each for each in self.read if each.id != lease.instance_id]
        await self._write(lambda tx: _destroy_sent(tx, lease.id, tries + 1, wait, answer), None, lease)
        self._changed()

    async def _send_destroy(self, instance_id: InstanceId) -> bool:
        """Send one destroy and keep the pace of destroys. True: there is no such instance. Raises ProviderError."""
        try:
            none_there = await self._provider.destroy(instance_id)
        except RateLimited as error:
            self._destroys.slow_down(error.retry_after or self._limits.poll_seconds, error.interval)
            raise
        self._destroys.accepted()
        return none_there

    async def _stop(self, lease: Lease, claim: Claim) -> None:
        """Stop the machine, unless a start was requested in the meantime."""
        if lease.instance_id is None or not await self._write(lambda tx: _is_to_stop(tx, lease.id), claim):
            return
        log.info("instance_stopped_again", lease=lease.id, contract=lease.instance_id)
        try:
            await self._provider.stop(lease.instance_id)
        except ProviderError as error:
            log.info("stop_failed", lease=lease.id, contract=lease.instance_id, reason=error.reason, error=str(error))
        self._changed()

    async def _release_stray(self, stray: Stray, claim: Claim) -> None:
        with fencing.under(lambda: self._has(claim)), suppress(ClaimLost):
            await self._stray_released(stray, claim)

    async def _stray_released(self, stray: Stray, claim: Claim) -> None:
        try:
            alive = await self._provider.get(stray.instance.id)
        except ProviderError:
            return
        # A marketplace whose single reads tell no label identifies the machine by its id alone.
        if alive is None or plain(alive, self._signer).label not in (stray.instance.label, None):
            return
        if alive.booking is not None:
            stray = replace(stray, instance=replace(stray.instance, booking=alive.booking))
        account = (self._provider.name, self._provider.account)
        lease = await self._write(lambda tx: record.release_stray(tx, stray, account, self._kind), claim)
        if lease is not None and lease.account != self._provider.account:
            await self._destroy_here(lease, stray)
        if lease is not None:
            self._changed()  # otherwise it is being released already, and another pass would find the same

    async def _destroy_here(self, lease: Lease, stray: Stray) -> None:
        """Destroy a machine that this account lists although it was rented under the name of another one.

        The other account's key does not find it. A listing that shows it again repeats this.
        """
        log.warning("machine_under_wrong_name", lease=lease.id, contract=stray.instance.id, name=lease.account)
        try:
            async with self._destroys.turn(lease.project) as turn:
                turn.used = True
            await self._send_destroy(stray.instance.id)
        except ProviderError as error:
            log.info(
                "destroy_failed", lease=lease.id, contract=stray.instance.id, reason=error.reason, error=str(error)
            )

    async def _write(self, unit: Callable[[Tx], Any], claim: Claim | None, lease: Lease | None = None) -> Any:
        """Write a unit under the claim; None: it records what was sent, whoever has the claim now. Raises ClaimLost.

        `lease`: what the unit changes, so that all that it needs is read at once.
        """

        def claimed(tx: Tx) -> Any:
            if lease is not None:
                leases.event_ahead(tx, lease)
            if claim is not None:
                claims.require(tx, claim)
            return unit(tx)

        try:
            return await self._db.write(claimed)
        except Unavailable as error:
            log.warning("database_unavailable", account=self._provider.account, error=str(error.__cause__))
            return None


def _ready(tx: Tx, lease_id: LeaseId, found: WayIn) -> None:
    lease = leases.get(tx, lease_id)
    if lease.state is LeaseState.STARTING:
        ssh = None if found.container_port else SshAddress(found.host, found.port, found.user)
        leases.advance(tx, lease, Ready(tx.now(), found.evidence, ssh))


def _not_there(tx: Tx, lease_id: LeaseId, was: LeaseState, used: timedelta | None) -> bool:
    """Neither a listing nor a read shows the machine: record how it ended, unless the lease has changed since."""
    lease = leases.get(tx, lease_id)
    if lease.state is was is LeaseState.RELEASING:
        leases.advance(tx, lease, Gone(used=used))
    elif lease.state is was:
        leases.advance(tx, lease, Ended() if ended_by_itself(lease, tx.now()) else Vanished())
    return True


def _still_there(tx: Tx, lease_id: LeaseId) -> bool:
    """Record that a read shows the machine. True when it had been recorded as gone and must be destroyed again."""
    lease = leases.get(tx, lease_id)
    if lease.state in TERMINAL:
        leases.advance(tx, lease, Reappeared(tx.now()))
        return True
    leases.note(tx, lease, Missing(None))
    return False


def _is_to_stop(tx: Tx, lease_id: LeaseId) -> bool:
    """True when a stop is due now; also schedules the next one."""
    lease, now = leases.get(tx, lease_id), tx.now()
    if lease.state not in RENTED or lease.pending.stop_at is None or lease.pending.stop_at > now:
        return False
    if pool_owned.was_started(tx, lease):
        leases.note(tx, lease, StopDue(None))
        return False
    leases.note(tx, lease, StopDue(now + STOP_AGAIN))
    return True


def _is_to_go(tx: Tx, lease_id: LeaseId, claim: Claim) -> bool:
    """False when the lease is over, or when its end was moved while the destroy waited for its turn.

    Raises ClaimLost when another process supervises the account now.
    """
    claims.require(tx, claim)
    lease = leases.get(tx, lease_id)
    ended = lease_ends.is_over(lease, tx.now())
    return lease.state is LeaseState.RELEASING or (lease.state in RENTED and ended)


def _destroy_sent(tx: Tx, lease_id: LeaseId, tries: int, wait: float, answer: DestroyAnswer) -> None:
    lease, now = leases.get(tx, lease_id), tx.now()
    if lease.state is LeaseState.RELEASING:
        leases.note(tx, lease, DestroySent(now, answer, tries, now + timedelta(seconds=wait)))
