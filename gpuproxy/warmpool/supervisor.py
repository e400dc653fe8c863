"""The supervision of all pools of this process: check the primaries, decide, act.

Each pool has a loop of its own: it checks the primary every two seconds, and wakes when its pool has changed. The loops
are spread over the interval. Each account with pools is listed once an interval, however many pools it has. What the
checks show is kept in memory; what follows from it is stored. Only the process that has the claim on an account acts
for its pools.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import structlog

from gpuproxy.model.errors import ClaimLost, Conflict, Unavailable
from gpuproxy.model.leases import RENTED, Lease, LeaseId
from gpuproxy.model.offers import AccountKey
from gpuproxy.model.pools import Incident, Pool, PoolId, PoolState
from gpuproxy.ports import Clock, Database, Probe, Tx
from gpuproxy.reconcile.watches import Watches
from gpuproxy.runtime.accounts import Accounts
from gpuproxy.runtime.background import Background
from gpuproxy.runtime.lateness import Lateness
from gpuproxy.runtime.loops import repeat_when_due
from gpuproxy.store import leases, pools
from gpuproxy.store.claims import Claim
from gpuproxy.warmpool import free_gpus
from gpuproxy.warmpool.acting import Acting
from gpuproxy.warmpool.checking import Checks
from gpuproxy.warmpool.credits import Credits
from gpuproxy.warmpool.deciding import decide
from gpuproxy.warmpool.free_gpus import FreeGpus, account_of
from gpuproxy.warmpool.limits import PoolLimits
from gpuproxy.warmpool.memory import SENT_WITHIN, Memory
from gpuproxy.warmpool.scene import Rest, Scene

log = structlog.get_logger(__name__)

_ACTS = 200
"""Acts of one pool in a row. After that the next check comes first."""
_LONG = 3600.0
_IDLE = 60.0
"""Seconds between two looks while no pool is at work. A new one is announced."""
_CHECKED = frozenset({PoolState.ACTIVE, PoolState.FAILOVER, PoolState.DEGRADED})
_OLDEST_LISTING = 3
"""Intervals between checks: an older listing has no opinion."""
_GOLDEN = 0.618034
"""The fraction of an interval between the checks of pools that begin one after the other: any number is spread."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One pool as it is stored."""

    pool: Pool
    leases: Mapping[LeaseId, Lease]
    incident: Incident | None

    @property
    def checked(self) -> Lease | None:
        """The primary that is to be checked; None if there is nothing to check."""
        primary = None if self.pool.primary is None else self.leases.get(self.pool.primary)
        return primary if self.pool.state in _CHECKED and primary is not None and primary.state in RENTED else None


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
        self._accounts = accounts
        self._watches = watches
        self._limits = limits
        self._checks = Checks(clock=clock, probe=probe, limits=limits, lateness=lateness)
        self._credits = Credits(db, clock)
        self._memories: dict[PoolId, Memory] = {}
        self._listing_takes: dict[AccountKey, float] = {}
        """The seconds of the last listing of each account."""
        self._failing_over: set[AccountKey] = set()
        self._draining = False
        self._begun = 0
        """How many pools have been taken up. It spreads them over the interval."""
        self._loops = Background("pool")
        self._work = Background("pool-work")
        self._looks = Background("pool-look")

    async def run(self) -> None:
        """Check and act until cancelled."""
        await repeat_when_due(self.step, pools.work_topic(), self._db, self._clock, "pools")

    @property
    def check_seconds(self) -> float:
        """Seconds between two checks of a primary."""
        return self._limits.check_seconds

    def health_of(self, pool_id: PoolId) -> Memory | None:
        """What was seen of a pool; None if this process does not supervise it."""
        return self._memories.get(pool_id)

    async def step(self) -> float:
        """Take up the pools that nobody supervises yet, and look at their accounts. Returns the seconds until the next.

        Pools are supervised, and accounts looked at, in the background.
        """
        at_work = await self._db.read(pools.at_work)
        if self._draining:
            return _LONG
        found = [pool for pool in at_work if self._claim_of(account_of(pool)) is not None]
        for pool in found:
            self._loops.start_once(partial(self._supervise, pool.id), pool.id)
        for account in dict.fromkeys(account_of(pool) for pool in found):
            self._look_at(account, [pool for pool in found if account_of(pool) == account])
        self._failing_over = {account_of(pool) for pool in at_work if pool.state is PoolState.FAILOVER}
        return self._limits.check_seconds if at_work else _IDLE

    def is_failing_over(self, account: AccountKey) -> bool:
        """Whether a pool of the account is in a failover: another process would have to begin its proofs anew."""
        return account in self._failing_over

    async def drain(self, seconds: float) -> None:
        """Begin nothing new. Wait for creates, stops and starts in flight, for at most `seconds` real seconds."""
        self._draining = True
        await self._loops.close()
        self._acting.renting.withdraw()
        await self._work.drain(seconds)

    async def close(self) -> None:
        """Cancel the work. The database has what is left to do."""
        for each in (self._loops, self._work, self._looks):
            await each.close()

    def _claim_of(self, account: AccountKey) -> Claim | None:
        """The claim of this process on an account; None if it has none."""
        try:
            return self._watches.at(account).claim.claim
        except KeyError:
            return None

    # -- looking at accounts

    def _look_at(self, account: AccountKey, of_account: Sequence[Pool]) -> None:
        """What the pools of an account share: its listing, its credit, and searches for the GPUs of standbys."""
        name, provider = f"{account[0]} {account[1]}", self._accounts.provider(account)
        if any(pool.state in _CHECKED for pool in of_account):
            self._looks.start_once(partial(self._list, account), f"list {name}")
        self._looks.start_once(partial(self._credits.look, provider), f"credit {name}")
        due, claim = free_gpus.due(of_account, self._clock.now(), self._limits), self._claim_of(account)
        if due and claim is not None:
            self._looks.start_once(partial(self._free.look, provider, due, claim), f"free {name}")

    async def _list(self, account: AccountKey) -> None:
        """List an account. This takes almost an interval at least, so that there is one listing in each."""
        began = self._clock.monotonic()
        await self._watches.at(account).look_quietly()
        self._listing_takes[account] = self._clock.monotonic() - began
        ends = began + 0.9 * self._limits.check_seconds
        await self._clock.sleep(max(0.0, ends - self._clock.monotonic()))

    # -- one pool

    async def _supervise(self, pool_id: PoolId) -> None:
        """Check the primary at each interval, and decide then and whenever the pool has changed."""
        self._begun += 1
        due = self._clock.monotonic() + self._begun * _GOLDEN % 1 * self._limits.check_seconds
        late = timedelta(seconds=SENT_WITHIN * self._clock.scale)
        now = self._clock.now()
        memory = self._memories[pool_id] = Memory(now, trusted_from=None if self._db.exclusive else now + late)
        try:
            async with self._db.watch(pools.topic(pool_id)) as wakeups:
                while (row := await self._db.read(lambda tx: self._found(tx, pool_id, memory))) is not None:
                    memory.primary_is(row.pool.primary)
                    if (moment := self._clock.monotonic()) >= due:
                        due = max(due + self._limits.check_seconds, moment)
                        await self._check(row, memory)
                    if not self._rests(row, memory):
                        self._work.start_once(partial(self._work_on, pool_id), pool_id)
                    with suppress(TimeoutError):
                        async with self._clock.timeout(max(0.0, due - self._clock.monotonic())):
                            await wakeups.wait()
        finally:
            self._checks.forget(pool_id)
            del self._memories[pool_id]

    async def _check(self, row: _Row, memory: Memory) -> None:
        if (primary := row.checked) is None:
            memory.no_verdict()
        else:
            account = account_of(row.pool)
            # The listing of many machines has many pages: it is old when it is there, and the newest for as long again.
            age = _OLDEST_LISTING * self._limits.check_seconds + 2 * self._listing_takes.get(account, 0.0)
            watch = self._watches.at(account)
            health = await self._checks.check(
                row.pool, primary, memory.health, lambda: watch.listing, timedelta(seconds=age)
            )
            if memory.of == primary.id:  # no other machine was promoted meanwhile
                memory.health = health

    def _rests(self, row: _Row, memory: Memory) -> bool:
        """Whether nothing is to be done before the next check."""
        act = decide(self._scene(row, memory))
        return isinstance(act, Rest) and act.seconds >= self._limits.check_seconds

    def _found(self, tx: Tx, pool_id: PoolId, memory: Memory) -> _Row | None:
        """The pool; None if it is not at work, or if somebody else had the claim since the memory began."""
        pool = pools.find(tx, pool_id)
        if pool is None or not pools.is_at_work(pool) or not memory.is_under(self._claim_of(account_of(pool))):
            return None
        rows = {lease.id: lease for lease in pools.machines(tx, pool)}
        incident = pools.open_incident(tx, pool.id)
        of_incident = () if incident is None else (incident.primary, incident.successor)
        for named in (pool.primary, pool.standby, pool.volume, pool.failed, *of_incident):
            if named is not None and named not in rows and (lease := leases.find(tx, named)) is not None:
                rows[named] = lease
        return _Row(pool, rows, incident)

    # -- acting

    async def _work_on(self, pool_id: PoolId) -> None:
        """Decide and act until nothing is to be done now, or until the pool is not supervised any more."""
        conflicts = 0
        for _ in range(_ACTS):
            if (memory := self._memories.get(pool_id)) is None:  # a new one if the claim was lost meanwhile
                return
            row = await self._db.read(partial(self._found, pool_id=pool_id, memory=memory))
            if row is None:
                return
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
                await self._clock.sleep(min(1.0, 0.1 * conflicts))  # the first one says only that somebody was faster
                conflicts += 1
            except ClaimLost:
                return
            except Unavailable as error:
                log.warning("pool_step_postponed", pool=pool_id, reason=error.reason)
                await self._clock.sleep(1.0)

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
            seen_from=memory.began_at,
            credit_hours=self._credits.hours(account_of(row.pool)),
        )
