"""One seed's story of warm pools: provision, incidents with faults and crashes, then a quiet time and the final checks.

All randomness comes from the seed, and all time is virtual. So the same seed gives the same story to the last event,
which `PoolReport.digest` shows.
"""

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from gpuproxy.app.wiring import Engine
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import Refusal
from gpuproxy.model.pool_calls import EnableDemand, HostQuery, ProvisionDemand
from gpuproxy.model.pools import PoolSpec
from gpuproxy.runtime.claims import CLAIM_SECONDS
from gpuproxy.sandbox.market.instances import HOLDS_GPU, Instance
from tests.mortal import Life
from tests.simulation.audit import Violation
from tests.simulation.logs import errors_logged
from tests.simulation.pools_audit import Outage, PoolAudit
from tests.simulation.pools_causes import allowed
from tests.simulation.pools_weather import LATE_BOUND, PoolWeather, weather_of
from tests.simulation.report import hits_of
from tests.simulation.takeover import _renews_too_late
from tests.simulation.weather import args_of
from tests.virtual_time import VirtualClock, run_virtual
from tests.world import VAST, World

QUIET = 3000.0
"""Seconds within which everything is at rest once the faults have stopped: a proof of absence and several tries."""
PRICE = 60.0
_STEP = 20.0
_RESTS = 3
_DOWN = ("list", "get", "search", "stop", "start")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolReport:
    """The result of one story."""

    seed: int
    incidents: int
    failovers: int
    crashes: int
    pauses: int
    faults: int
    unknowns: int
    ends: Counter[str]
    """How the pools ended: "active", "disabled", or the reason of `degraded`."""
    outages: tuple[Outage, ...]
    seconds: float
    digest: str


def run(seed: int, *, tell: bool = False) -> PoolReport:
    """Run the story of a seed. Raises Violation. `tell` prints what happens."""
    with errors_logged() as errors:
        try:
            return run_virtual(lambda clock: _Story(weather_of(seed), clock, tell=tell).run(errors))
        except Violation as violation:
            violation.add_note(f"seed {seed}")
            raise


class _Story:
    def __init__(self, weather: PoolWeather, clock: VirtualClock, *, tell: bool) -> None:
        self.weather, self.clock, self.tell = weather, clock, tell
        self.dice = random.Random(f"pool story {weather.seed}")
        self.world = World(
            clock, paced=False, accounts=1, seed=weather.seed, machines=weather.machines, boot_time=weather.boot_time,
            create_latency=weather.create_latency, list_lag=weather.list_lag, misreport_share=weather.shyness,
            volume_sharing=weather.sharing,
        )  # fmt: skip
        self.world.shared = weather.paused
        self.world.delay = lambda: self.dice.uniform(0.0, weather.delay) if weather.delay else 0.0
        self.audit = PoolAudit(self.world)
        self.hits = hits_of(self.world)
        self.calls: list[asyncio.Task[Any]] = []
        self.processes: list[tuple[Engine, Life]] = []
        self.incidents = self.crashes = self.pauses = 0
        self.hosts: list[int] | None = None

    async def run(self, errors: list[str]) -> PoolReport:
        self.say("weather", self.weather)
        await self._live()
        await self._found()
        for _ in range(self.weather.steps):
            await self._step()
            await self._pass(self.dice.uniform(0.0, self.weather.pause))
        await self._calm()
        ends = await self._rest()
        self.audit.final()
        for engine, _ in self.processes:
            await engine.stop()
        if errors:
            raise Violation("broken", f"the program logged errors: {errors[:3]}")
        return self._report(ends)

    # -- the beginning

    async def _found(self) -> None:
        """Provision the pools."""
        while self.hosts is None:
            await self._pass(15.0)
            self._call(self._find_hosts())
        if not self.weather.calm_start:
            self._arm()
        for machine_id in range(1, 1 + min(self.weather.pools, len(self.hosts))):
            self._call(self._provision(machine_id))
        await self._pass(self.dice.choice((20.0, 240.0)) if not self.weather.calm_start else 240.0)

    async def _find_hosts(self) -> None:
        query = HostQuery(max_price=PRICE, provider=VAST, verified_only=False)
        found = await self.world.engine.pools.hosts(self._caller(), query)
        self.hosts = [each.machine_id for each in found if each.fits]

    async def _provision(self, machine_id: int) -> None:
        spec = PoolSpec(max_price=PRICE, keep_failed=timedelta(hours=self.weather.keep_failed), verified_only=False)
        demand = ProvisionDemand(
            machine_id=machine_id, host_machine_id=self.dice.choice(self.hosts or [0]), provider=VAST, spec=spec
        )
        await self.world.engine.pools.provision(self._caller(), demand)

    def _caller(self) -> Caller:
        return Caller(project="p1", key_id="k1", deadline=self.clock.monotonic() + self.dice.choice((30.0, 600.0)))

    def _call(self, work: Coroutine[Any, Any, Any]) -> None:
        """A call of an owner. Refusals do not matter here, nor does a crash during the call."""

        async def called() -> None:
            try:
                await work
            except Refusal as refusal:
                self.say("refused", refusal.reason, str(refusal)[:120])

        self.calls.append(asyncio.create_task(called()))

    # -- incidents

    async def _step(self) -> None:
        for _ in range(int(self.weather.fault_rate) + (self.dice.random() < self.weather.fault_rate % 1)):
            self._arm()
        if self.dice.random() < self.weather.crash_rate:
            self._crash()
        if self.weather.paused and self.dice.random() < 0.25:
            await self._pause_and_resume()
        what = self.dice.choices(self.weather.incidents, self.weather.weights)[0]
        found = self.audit.pools()
        if not found:
            return
        pool = self.dice.choice(found)
        if pool.get("degraded") == "stopped_outside" and self.dice.random() < 0.7:
            what = "failover"
        primary = self.audit.instance(pool.get("primary"))
        self.say("incident", what, pool["machine_id"], pool["state"], pool.get("degraded"), primary and primary.id)
        if await self._happen(what, pool, primary):
            self.incidents += 1
        self.audit.look()

    async def _happen(self, what: str, pool: dict[str, Any], primary: Instance | None) -> bool:
        """Let it happen; False if the pool has nothing that it could happen to."""
        pools, machine_id = self.world.engine.pools, pool["machine_id"]
        calls: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
            "test": lambda: pools.test(self._caller(), machine_id, allow_destroy=True),
            "failover": lambda: pools.failover(self._caller(), machine_id, allow_unfenced=False),
            "disable": lambda: self._off_and_on(machine_id),
            "cleanup": lambda: self._clean_and_provision(machine_id),
            "move": lambda: self._move(machine_id),
            "delete volume": lambda: self._delete_volume(pool),
        }
        if what in calls:
            self._call(calls[what]())
        elif what == "outage":
            self._outage()
        elif what == "slow":
            self.world.arm("any", "slow_trickle", times=self.dice.choice((3, 30)), seconds=0.002)
        elif what == "occupied":
            return self._occupy(pool)
        elif primary is not None:
            self._hurt(what, primary)
        return primary is not None or what in calls or what in ("outage", "slow")

    def _hurt(self, what: str, primary: Instance) -> None:
        """Make something happen to a primary."""
        market = self.world.sandbox.market
        if what == "container":
            market.container_dies(primary, "container exited with code 137")
        elif what == "gpu":
            market.troubles.gpu_dies(primary)
        elif what == "stopped outside":
            market.stop(primary)
        elif what == "host":
            self._disconnect(primary.machine_id)
        else:
            self._flap(primary)

    def _disconnect(self, number: int) -> None:
        market = self.world.sandbox.market
        market.set_online(market.machines[number], online=False)
        if self.dice.random() < self.weather.returns:
            self._later(self.dice.choice((5.0, 40.0, 300.0)), lambda: self._reconnect(number))

    def _reconnect(self, number: int) -> None:
        machine = self.world.sandbox.market.machines[number]
        if not machine.online:
            self.say("reconnect", number)
            self.world.sandbox.market.set_online(machine, online=True)

    def _flap(self, primary: Instance) -> None:
        """Nothing answers for a moment, although the machine runs."""
        self.world.sandbox.market.troubles.mute(primary, self.dice.choice((3.0, 12.0, 60.0, 240.0)))

    def _occupy(self, pool: dict[str, Any]) -> bool:
        """A stranger rents the standby's GPUs or, without a standby, whatever the host has."""
        market = self.world.sandbox.market
        standby = self.audit.instance(pool.get("standby"))
        number = int(pool["host"].rpartition("/")[2] or 0) if standby is None else standby.machine_id
        machine = market.machines.get(number)
        if machine is None:
            return False
        mask = standby.mask if standby is not None and standby.phase not in HOLDS_GPU else (1 << machine.gpus) - 1
        leaves = self.dice.random() < self.weather.returns
        market.hold(machine, mask & ~machine.held, leave_after=self.dice.choice((30.0, 200.0)) if leaves else None)
        return True

    def _outage(self) -> None:
        """The marketplace's API fails, for 10 to 200 seconds."""
        fault = self.dice.choice(("refuse_connection", "status_503_before", "hang_before", "html_502", "rate_limited"))
        for call in _DOWN:
            self.world.arm(call, fault, times=0, seconds=20)
        self._later(self.dice.uniform(10.0, 200.0), lambda: self.world.control("DELETE", "faults"))

    async def _off_and_on(self, machine_id: int) -> None:
        await self.world.engine.pools.disable(self._caller(), machine_id)
        await self.world.sleep(self.dice.choice((0.0, 5.0, 60.0)))
        await self.world.engine.pools.enable(self._caller(), EnableDemand(machine_id=machine_id))

    async def _clean_and_provision(self, machine_id: int) -> None:
        await self.world.engine.pools.cleanup(self._caller(), machine_id, keep_volume=self.dice.random() < 0.3)
        await self._provision(machine_id)

    async def _move(self, machine_id: int) -> None:
        await self.world.engine.pools.disable(self._caller(), machine_id)
        await self._provision(machine_id)

    async def _delete_volume(self, pool: dict[str, Any]) -> None:
        rows = self.audit.rows(
            "SELECT id, instance_id FROM leases WHERE kind = 'volume' AND reservation_id = ?", pool["ledger"]
        )
        retained = [row["instance_id"] for row in rows if row["instance_id"] and row["id"] != pool.get("volume")]
        if retained:
            volume = self.dice.choice(retained)
            self.audit.may_delete.add(int(volume.rpartition(".")[2]))
            await self.world.engine.pools.delete_retained_volume(self._caller(), pool["machine_id"], volume)

    def _arm(self) -> None:
        call, fault = self.dice.choice(self.weather.faults)
        late = fault == "late_effect"
        seconds = self.dice.uniform(0, LATE_BOUND - 60) if late else self.dice.choice((1, 20, 60))
        times = self.dice.choice((1, 1, 2, 4))
        name, args = args_of(fault, seconds)
        self.world.arm(call, name, times=times, **args)
        self.say("fault", call, fault, times, seconds)

    def _later(self, seconds: float, happen: Callable[[], object]) -> None:
        def happens() -> None:
            self.world.sandbox.tick()
            happen()
            self.audit.look()

        asyncio.get_running_loop().call_later(seconds, happens)

    # -- crashes and pauses

    def _crash(self) -> None:
        """Crash now or a moment later, during some work."""
        if self.dice.random() < 0.3:
            self.world.life.end()
        else:
            self.world.life.die_after(self.dice.randint(1, 60))

    async def _pass(self, seconds: float) -> None:
        """Let time pass. A process that dies meanwhile is started again."""
        until = self.clock.monotonic() + seconds
        while self.clock.monotonic() < until:
            await self.world.sleep(min(5.0, until - self.clock.monotonic()))
            await self._alive_again()
        self.audit.safety()

    async def _alive_again(self) -> None:
        if self.world.life.dead:
            self.crashes += 1
            self.say("crashed")
            await self.world.kill()
            await self.world.sleep(self.dice.choice((0.0, 0.0, 5.0, 60.0)))
            await self._live()

    async def _live(self) -> None:
        """Start the process, perhaps after crashes during its start."""
        again = self.dice.random() < self.weather.crash_rate
        while True:
            try:
                die_after = self.dice.randint(1, 8) if again else None
                again = False
                await asyncio.create_task(self.world.start(die_after=die_after))
            except asyncio.CancelledError:
                if not self.world.life.dead:
                    raise
            else:
                self.processes.append((self.world.engine, self.world.life))
                return

    async def _pause_and_resume(self) -> None:
        """Pause the process, start another one, and let the first go on after the loss of its claims."""
        engine, life = self.processes[-1]
        life.pause()
        if self.dice.random() < 0.7:
            _renews_too_late(engine)
        self.pauses += 1
        self.say("pause")
        await self._live()
        until = self.dice.uniform(0.5, 6.0) * CLAIM_SECONDS
        self._later(until, life.resume)

    # -- the end

    async def _calm(self) -> None:
        """Stop the faults. Lost hosts and strangers remain in some stories."""
        self.world.control("DELETE", "faults")
        self.world.life.spare()
        market = self.world.sandbox.market
        if self.weather.returns == 1.0 or self.dice.random() < 0.5:
            for machine in market.machines.values():
                self._reconnect(machine.id)
                market.vacate(machine)
        self.say("calm")
        await self._alive_again()

    async def _rest(self) -> Counter[str]:
        """Wait until everything is at rest and every pool's state is explained. It must not take long, and it lasts."""
        began, rests = self.clock.monotonic(), 0
        while rests < _RESTS:
            if self.clock.monotonic() - began > QUIET:
                raise Violation("rest", f"after {QUIET:.0f} s of quiet: {self._unrest() or 'it does not last'}")
            await self.world.sleep(_STEP)
            await self._alive_again()
            self.audit.safety()
            rests = rests + 1 if not self._unrest() else 0
        return Counter(_word(pool) for pool in self.audit.pools())

    def _unrest(self) -> str:
        if any(not call.done() for call in self.calls):
            return "a call hangs"
        if told := self.audit.unfinished():
            return told
        pools = self.audit.pools()
        kept = [found for each in pools if (found := self.audit.instance(each.get("standby"))) is not None]
        for pool in pools:
            word = _word(pool)
            primary, standby = self.audit.instance(pool.get("primary")), self.audit.instance(pool.get("standby"))
            right = allowed(self.world.sandbox.market, pool, primary, standby, kept)
            if word != "disabled" and word not in right and "no_primary" not in right:
                return f"pool {pool['machine_id']} is {word}, and the market explains {sorted(right)}: {pool}"
        return ""

    def _report(self, ends: Counter[str]) -> PoolReport:
        for call in self.calls:
            if not call.cancelled() and (error := call.exception()) is not None:
                raise Violation("broken", f"a call ended with {error!r}")
        counted = self.audit.rows("SELECT count(*) AS n FROM events WHERE event = 'reply_lost'")[0]["n"]
        return PoolReport(
            seed=self.weather.seed, incidents=self.incidents, crashes=self.crashes, pauses=self.pauses,
            failovers=sum(pool.get("failover_count", 0) for pool in self.audit.pools()), faults=self.hits.total(),
            unknowns=counted, ends=ends, outages=tuple(self.audit.outages()), seconds=self.clock.monotonic(),
            digest=hashlib.blake2b(repr(self.audit.digest()).encode(), digest_size=12).hexdigest(),
        )  # fmt: skip

    def say(self, *words: object) -> None:
        if self.tell:
            print(f"{self.clock.monotonic():9.2f}", *words, flush=True)  # noqa: T201


def _word(pool: dict[str, Any]) -> str:
    return pool.get("degraded") or "degraded" if pool["state"] == "degraded" else pool["state"]
