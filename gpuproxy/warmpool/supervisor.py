"""The supervision of all pools of this process: check the primaries, decide, act.

Every two seconds each primary is probed, and each account with pools is listed once, however many pools it has. What
the checks show is kept in memory; what follows from it is stored. Only the process that has the claim on an account
acts for its pools.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from math import inf
from urllib.parse import urlsplit

import structlog

from gpuproxy.model.errors import ClaimLost, Conflict, Unavailable
from gpuproxy.model.leases import RENTED, Lease, LeaseId
from gpuproxy.model.offers import AccountKey, HostKey
from gpuproxy.model.pools import Incident, Pool, PoolId, PoolState
from gpuproxy.ports import Clock, Database, Probe, Tx
from gpuproxy.reconcile.watches import Watches
from gpuproxy.runtime.accounts import Accounts
from gpuproxy.runtime.background import Background
from gpuproxy.runtime.lateness import Lateness
from gpuproxy.runtime.loops import guarded
from gpuproxy.store import leases, pools
from gpuproxy.warmpool import free_gpus
from gpuproxy.warmpool.acting import Acting
from gpuproxy.warmpool.credits import Credits
from gpuproxy.warmpool.deciding import decide
from gpuproxy.warmpool.free_gpus import FreeGpus
from gpuproxy.warmpool.limits import PoolLimits
from gpuproxy.warmpool.memory import Memory
from gpuproxy.warmpool.scene import Rest, Scene
from gpuproxy.warmpool.signals import Answer, Api, after_check, opinion

log = structlog.get_logger(__name__)

_ACTS = 200
"""Acts of one pool in a row. After that the next check comes first."""
_BREATH = 0.25
_CHECKED = frozenset({PoolState.ACTIVE, PoolState.FAILOVER, PoolState.DEGRADED})
_SHOULD_ANSWER = frozenset({Api.RUNNING, Api.BOOTING, Api.NO_OPINION})
"""What the marketplace says of machines whose silence it does not explain."""
_OLDEST_LISTING = 3
"""Intervals between checks: an older listing has no opinion."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One pool as it is stored."""

    pool: Pool
    leases: Mapping[LeaseId, Lease]
    incident: Incident | None

    @property
    def primary(self) -> Lease | None:
        return None if self.pool.primary is None else self.leases.get(self.pool.primary)


class Supervisor:
    """Supervises the pools whose accounts this process has claims on."""

    def __init__(
        self,
        acting: Acting,
        free: FreeGpus,
        *,
        db: Database,
        clock: Clock,
        probe: Probe,
        accounts: Accounts,
        watches: Watches,
        limits: PoolLimits,
        lateness: Lateness,
    ) -> None:
        self._acting = acting
        self._free = free
        self._db = db
        self._clock = clock
        self._probe = probe
        self._accounts = accounts
        self._watches = watches
        self._limits = limits
        self._lateness = lateness
        self._memories: dict[PoolId, Memory] = {}
        self._looked_at: dict[AccountKey, float] = {}
        """Readings of Clock.monotonic(): pools share the listings of their account."""
        self._credits = Credits(db, clock)
        self._work = Background("pool")
        self._looks = Background("pool-look")
        self._suspected_since: datetime | None = None
        """Since when our own network seems to be cut, so that no failed probe counts; None: it does not."""

    async def run(self) -> None:
        """Check and act until cancelled."""
        async with self._db.watch(pools.work_topic()) as wakeups:
            while True:
                await guarded(self.step, self._clock, "pools")
                await self._clock.sleep(_BREATH)
                with suppress(TimeoutError):
                    async with self._clock.timeout(self._limits.check_seconds - _BREATH):
                        await wakeups.wait()

    @property
    def check_seconds(self) -> float:
        """Seconds between two checks of a primary."""
        return self._limits.check_seconds

    def health_of(self, pool_id: PoolId) -> Memory | None:
        """What was seen of a pool; None if this process does not supervise it."""
        return self._memories.get(pool_id)

    async def step(self) -> None:
        """One check of all pools that are due. Work on pools goes on in the background."""
        rows = await self._db.read(self._rows)
        for gone in self._memories.keys() - {row.pool.id for row in rows}:
            del self._memories[gone]
        for row in rows:
            memory = self._memories.setdefault(row.pool.id, Memory())
            memory.primary_is(row.pool.primary)
        await self._check([row for row in rows if self._is_due(row)])
        self._look_for_free_gpus(rows)
        for account in {free_gpus.account_of(row.pool) for row in rows}:
            self._looks.start_once(partial(self._credits.look, self._accounts.provider(account)), f"credit {account}")
        for row in rows:
            self._work.start_once(partial(self._work_on, row.pool.id), row.pool.id)

    async def close(self) -> None:
        """Cancel the work. The database has what is left to do."""
        await self._work.close()
        await self._looks.close()

    # -- checking

    def _rows(self, tx: Tx) -> list[_Row]:
        return [row for pool in pools.at_work(tx) if (row := self._row(tx, pool)) is not None]

    def _row(self, tx: Tx, pool: Pool) -> _Row | None:
        if not self._is_mine(free_gpus.account_of(pool)):
            return None
        rows = {lease.id: lease for lease in pools.machines(tx, pool)}
        for named in (pool.primary, pool.standby, pool.volume, pool.failed):
            if named is not None and named not in rows and (lease := leases.find(tx, named)) is not None:
                rows[named] = lease
        incident = pools.open_incident(tx, pool.id)
        if incident is not None:
            for named in (incident.primary, incident.successor):
                if named is not None and named not in rows and (lease := leases.find(tx, named)) is not None:
                    rows[named] = lease
        return _Row(pool, rows, incident)

    def _is_mine(self, account: AccountKey) -> bool:
        try:
            return self._watches.at(account).claim.claim is not None
        except KeyError:
            return False

    def _is_due(self, row: _Row) -> bool:
        primary = row.primary
        if row.pool.state not in _CHECKED or primary is None or primary.state not in RENTED:
            return False
        checked = self._memories[row.pool.id].health.checked_at
        wait = timedelta(seconds=0.9 * self._limits.check_seconds)
        return checked is None or self._clock.now() - checked >= wait

    async def _check(self, rows: Sequence[_Row]) -> None:
        """Probe each primary, and hear what the last listing of its account says."""
        if not rows:
            return
        for account in {free_gpus.account_of(row.pool) for row in rows}:
            if self._clock.monotonic() - self._looked_at.get(account, -inf) >= 0.9 * self._limits.check_seconds:
                self._looked_at[account] = self._clock.monotonic()
                self._looks.start_once(self._watches.at(account).look_quietly, f"{account[0]} {account[1]}")
        found = await asyncio.gather(*(self._answer(row) for row in rows))
        now = self._clock.now()
        oldest = now - timedelta(seconds=_OLDEST_LISTING * self._limits.check_seconds)
        opinions = [self._opinion(row, oldest) for row in rows]
        answers = self._believable(rows, opinions, found)
        for row, api, answer in zip(rows, opinions, answers, strict=True):
            memory = self._memories[row.pool.id]
            memory.health = after_check(memory.health, api, answer, now)

    def _opinion(self, row: _Row, oldest: datetime) -> Api:
        if row.primary is None:
            return Api.NO_OPINION
        return opinion(row.primary, self._watches.at(free_gpus.account_of(row.pool)).listing, oldest)

    async def _answer(self, row: _Row) -> Answer:
        primary, health, timeout = row.primary, row.pool.spec.health, self._limits.probe_timeout
        if primary is None:
            return Answer.NOT_PROBED
        seen = primary.observed
        if health.startswith("http"):
            url = urlsplit(health)
            inside = url.port or 80
            at = next((each for each in seen.ports if each.container_port == inside), None)
            if at is None:
                return Answer.NOT_PROBED
            path = (url.path or "/") + (f"?{url.query}" if url.query else "")
            good = await self._probe.reachable("http", at.host, at.public_port, timeout, path=path)
        elif seen.ssh_port and health != "tcp":
            good = await self._probe.reachable("ssh", seen.ssh_host, seen.ssh_port, timeout)
        elif seen.ports or seen.ssh_port:
            at = seen.ports[0] if seen.ports else None
            host, port = (at.host, at.public_port) if at else (seen.ssh_host, seen.ssh_port)
            good = await self._probe.reachable("tcp", host, port, timeout)
        else:
            return Answer.NOT_PROBED
        return Answer.ANSWERS if good else Answer.SILENT

    def _believable(self, rows: Sequence[_Row], opinions: Sequence[Api], answers: Sequence[Answer]) -> Sequence[Answer]:
        """The answers, without those that our own fault may explain: a late event loop, or a cut network."""
        late = self._lateness.within(self._limits.check_seconds) > self._limits.check_seconds / 2
        silent: set[HostKey] = {
            row.pool.host
            for row, api, answer in zip(rows, opinions, answers, strict=True)
            if answer is Answer.SILENT and api in _SHOULD_ANSWER
        }
        if not (late or self._is_cut_off(silent, answers)):
            return answers
        return [Answer.NOT_PROBED if each is Answer.SILENT else each for each in answers]

    def _is_cut_off(self, silent: Collection[HostKey], answers: Sequence[Answer]) -> bool:
        """Whether our own network seems to be cut: several hosts are silent for no other reason, and none answers.

        After a while the silence counts, because several primaries may be unreachable at once.
        """
        if len(silent) < 2 or Answer.ANSWERS in answers:
            self._suspected_since = None
            return False
        now = self._clock.now()
        if self._suspected_since is None:
            log.warning("own_network_suspected_by_pools", hosts=len(silent), effect="no failover begins meanwhile")
            self._suspected_since = now
        return now - self._suspected_since < timedelta(seconds=self._limits.unreachable_seconds)

    def _look_for_free_gpus(self, rows: Sequence[_Row]) -> None:
        now = self._clock.now()
        wanted = free_gpus.due([(row.pool, row.leases) for row in rows], now, self._limits)
        for account in {free_gpus.account_of(each.pool) for each in wanted}:
            of_account = [each for each in wanted if free_gpus.account_of(each.pool) == account]
            provider = self._accounts.provider(account)
            self._looks.start_once(partial(self._free.look, provider, of_account), f"free {account}")

    # -- acting

    async def _work_on(self, pool_id: PoolId) -> None:
        """Decide and act until nothing is to be done now."""
        for _ in range(_ACTS):
            row = await self._db.read(lambda tx: self._found(tx, pool_id))
            if row is None:
                return
            memory = self._memories.setdefault(pool_id, Memory())
            memory.primary_is(row.pool.primary)
            scene = self._scene(row, memory)
            act = decide(scene)
            if isinstance(act, Rest):
                if act.seconds >= self._limits.check_seconds:
                    return
                await self._clock.sleep(act.seconds)
                continue
            try:
                await self._acting.perform(act, scene, memory)
            except Conflict as conflict:
                log.info("pool_changed_meanwhile", pool=pool_id, error=str(conflict))
            except ClaimLost:
                return
            except Unavailable as error:
                log.warning("pool_step_postponed", pool=pool_id, reason=error.reason)
                await self._clock.sleep(1.0)

    def _found(self, tx: Tx, pool_id: PoolId) -> _Row | None:
        pool = pools.find(tx, pool_id)
        return None if pool is None else self._row(tx, pool)

    def _scene(self, row: _Row, memory: Memory) -> Scene:
        return Scene(
            pool=row.pool,
            leases=row.leases,
            incident=row.incident,
            now=self._clock.now(),
            limits=self._limits,
            health=memory.health,
            at_rest=dict(memory.at_rest),
            gone=frozenset(memory.gone),
            credit_hours=self._credits.hours(free_gpus.account_of(row.pool)),
        )
