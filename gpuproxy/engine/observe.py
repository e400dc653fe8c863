"""One watch for each account: list what exists, plan, write, and do what the plan asks for outside.

A pass reads the provider first and our rows after it, plans and writes in one unit of work, and only then starts the
outside effects; those record what they learn as units of their own. Nothing depends on a pass being whole: the next
one sees what is left to do.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog

from gpuproxy.engine import record
from gpuproxy.engine.limits import Limits
from gpuproxy.engine.reconcile import Adopt, Advance, Confirm, Destroy, Knock, Listing, Note, Scene, Step, plan
from gpuproxy.model.errors import ProviderError, RateLimited, Unavailable
from gpuproxy.model.leases import Lease, LeaseEvent, LeaseId, LeaseState
from gpuproxy.ports import Clock, Database, Probe, Provider, Tx
from gpuproxy.store import leases, reservations

log = structlog.get_logger(__name__)

Effect = Destroy | Confirm | Knock
_MOVING = frozenset({LeaseState.REQUESTED, LeaseState.STARTING, LeaseState.RELEASING})


@dataclass(frozen=True, slots=True)
class _Pass:
    """What one unit of work decided."""

    effects: tuple[Effect, ...]
    live: tuple[Lease, ...]


class AccountWatch:
    """Looks after every live lease of one account."""

    def __init__(self, provider: Provider, db: Database, clock: Clock, probe: Probe, limits: Limits) -> None:
        self.provider = provider
        self._key = (provider.name, provider.account)
        self._db = db
        self._clock = clock
        self._probe = probe
        self._limits = limits
        self._current: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None
        self._effects: dict[tuple[str, LeaseId], asyncio.Task[None]] = {}
        self._nudged = asyncio.Event()
        self._live: tuple[Lease, ...] = ()
        self.last_pass_at: datetime | None = None
        self.silent_since: datetime | None = None

    def nudge(self) -> None:
        """Something changed: look soon."""
        self._nudged.set()

    async def look(self) -> None:
        """Return after a pass that began after this call; callers share passes."""
        if self._next is None:
            self._next = asyncio.create_task(self._pass_after(self._current))
            self._next.add_done_callback(_retrieve)
        await asyncio.shield(self._next)

    async def step(self) -> None:
        """One pass and all of its outside effects."""
        await self.look()
        while self._effects:
            await asyncio.wait(self._effects.values())

    async def wait(self) -> None:
        """Return when the next pass is due: soon while something is changing, else at the slow pace."""
        await self._sleep(self._limits.poll_seconds)
        if not self._restless():
            await self._sleep(self._limits.reconcile_seconds - self._limits.poll_seconds)
        self._nudged.clear()

    async def close(self) -> None:
        """End what is under way; the books know what is left to do."""
        tasks = [task for task in (self._current, self._next, *self._effects.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _sleep(self, seconds: float) -> None:
        try:
            async with self._clock.timeout(seconds):
                await self._nudged.wait()
        except TimeoutError:
            return

    def _restless(self) -> bool:
        fresh = self._clock.now() - timedelta(seconds=self._limits.unknown_fresh)
        return any(
            lease.state in _MOVING or (lease.state is LeaseState.UNKNOWN and lease.created_at > fresh)
            for lease in self._live
        )

    async def _pass_after(self, earlier: asyncio.Task[None] | None) -> None:
        if earlier is not None and not earlier.done():
            await asyncio.wait([earlier])
        self._current, self._next = self._next, None
        await self._pass()

    async def _pass(self) -> None:
        busy = await self._db.read(lambda tx: bool(leases.live(tx, *self._key)))
        if not busy:
            self._live = ()
            self.last_pass_at = self._clock.now()
            return
        listing = await self._listing()
        decided = await self._db.write(lambda tx: self._decide(tx, listing))
        self._live = decided.live
        self.last_pass_at = self._clock.now()
        for effect in decided.effects:
            self._start(effect)

    async def _listing(self) -> Listing | None:
        began = self._clock.now()
        try:
            instances = await self.provider.list()
        except ProviderError as error:
            if self.silent_since is None:
                self.silent_since = began
                log.info("provider_silent", account=self.provider.account, reason=error.reason, error=str(error))
            return None
        if self.silent_since is not None:
            log.info("provider_answers_again", account=self.provider.account)
            self.silent_since = None
        return Listing(began, instances)

    def _decide(self, tx: Tx, listing: Listing | None) -> _Pass:
        rows = leases.live(tx, *self._key)
        scene = Scene(
            reservations=reservations.of_live_leases(tx, [lease.reservation_id for lease in rows]),
            listing=listing,
            now=tx.now(),
            capabilities=self.provider.capabilities,
            limits=self._limits,
        )
        steps = plan(rows, scene)
        for step in steps:
            _write(tx, step)
        effects = tuple(step for step in steps if isinstance(step, Destroy | Confirm | Knock))
        return _Pass(effects, leases.live(tx, *self._key))

    def _start(self, effect: Effect) -> None:
        key = (type(effect).__name__, effect.lease.id)
        if key in self._effects:
            return
        task = asyncio.create_task(self._perform(effect))
        self._effects[key] = task
        task.add_done_callback(lambda _: self._effects.pop(key, None))

    def _perform(self, effect: Effect) -> Coroutine[Any, Any, None]:
        if isinstance(effect, Destroy):
            return self._destroy(effect.lease)
        if isinstance(effect, Confirm):
            return self._confirm(effect.lease)
        return self._knock(effect)

    async def _knock(self, knock: Knock) -> None:
        if await self._probe.reachable(knock.kind, knock.host, knock.port, self._limits.probe_timeout):
            await self._record(knock.lease.id, LeaseEvent.READY, (LeaseState.STARTING,), ready=True)

    async def _confirm(self, lease: Lease) -> None:
        if lease.instance_id is None:
            return
        try:
            found = await self.provider.get(lease.instance_id)
        except ProviderError:
            return  # no opinion; the next pass asks again
        if found is not None:
            await self._write_quietly(lambda tx: _still_there(tx, lease.id))
        elif lease.state is LeaseState.RELEASING:
            await self._record(lease.id, LeaseEvent.GONE, (LeaseState.RELEASING,))
        else:
            await self._record(lease.id, LeaseEvent.VANISHED, tuple({lease.state}))

    async def _destroy(self, lease: Lease) -> None:
        if lease.instance_id is None:
            return
        wait = min(self._limits.destroy_again * 2**lease.destroy_tries, self._limits.destroy_again_max)
        try:
            await self.provider.destroy(lease.instance_id)
        except RateLimited as error:
            wait = error.retry_after or self._limits.poll_seconds
        except ProviderError as error:
            log.info("destroy_not_accepted", lease=lease.id, reason=error.reason, error=str(error))
            wait = min(wait, self._limits.destroy_again)
        tries = lease.destroy_tries + 1
        await self._write_quietly(lambda tx: _destroy_sent(tx, lease.id, tries, wait))
        self.nudge()

    async def _record(
        self, lease_id: LeaseId, event: LeaseEvent, states: tuple[LeaseState, ...], *, ready: bool = False
    ) -> None:
        def write(tx: Tx) -> None:
            lease = leases.get(tx, lease_id)
            if lease.state in states:
                leases.advance(tx, lease, event, **({"ready_at": tx.now()} if ready else {}))

        await self._write_quietly(write)

    async def _write_quietly(self, write: Any) -> None:
        try:
            await self._db.write(write)
        except Unavailable as error:
            log.warning("books_unavailable", account=self.provider.account, error=str(error.__cause__))


def _retrieve(task: asyncio.Task[None]) -> None:
    """Whoever looked sees the error; when all of them have given up waiting, the next pass tells."""
    if not task.cancelled():
        task.exception()


def _write(tx: Tx, step: Step) -> None:
    """The part of a step that belongs into the books; the lease is re-read, for an earlier step may have changed it."""
    lease = leases.get(tx, step.lease.id)
    if isinstance(step, Advance):
        leases.advance(tx, lease, step.event, **step.facts)
    elif isinstance(step, Adopt):
        record.adopt(tx, lease, LeaseEvent.FOUND, step.instance_id)
    elif isinstance(step, Note):
        leases.note(tx, lease, **step.facts)


def _destroy_sent(tx: Tx, lease_id: LeaseId, tries: int, wait: float) -> None:
    lease = leases.get(tx, lease_id)
    if lease.state is LeaseState.RELEASING:
        leases.note(tx, lease, destroy_tries=tries, destroy_at=tx.now() + timedelta(seconds=wait))


def _still_there(tx: Tx, lease_id: LeaseId) -> None:
    leases.note(tx, leases.get(tx, lease_id), missing_since=None)
