"""Failovers at a marketplace's boot times, in virtual time and without other faults: how long each phase takes."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gpuproxy.model.demands import Caller
from gpuproxy.model.pool_calls import HostQuery, ProvisionDemand
from gpuproxy.model.pools import PHASES, PoolSpec, PoolState, PoolView
from tests.simulation.logs import errors_logged
from tests.world import LIVELY, VAST, World, in_world

BOOT_TIME = (20.0, 40.0)
"""Seconds that a start takes on vast.ai."""
_PRICE = 60.0
_LONGEST = 1800.0
_BREATH = 0.5
_LONGEST_WAIT = 10.0
"""Seconds for which an active pool is left alone, so that a primary dies at any moment between two checks."""


@dataclass(slots=True)
class Drills:
    """The seconds of each failover."""

    outages: list[float] = field(default_factory=list)
    """From the last good probe to the promotion."""
    ours: list[float] = field(default_factory=list)
    """Without the marketplace's start."""
    phases: dict[str, list[float]] = field(default_factory=lambda: {phase: [] for phase in PHASES})
    failed: int = 0
    """Failovers that did not end with the standby as the primary."""
    most_writers: int = 0

    def add(self, other: "Drills") -> None:
        """Take up the figures of other failovers."""
        self.outages += other.outages
        self.ours += other.ours
        for phase, values in other.phases.items():
            self.phases[phase] += values
        self.failed += other.failed
        self.most_writers = max(self.most_writers, other.most_writers)


def run(seed: int, failovers: int) -> Drills:
    """Kill the primary of one pool so many times, each time once the pool is active."""
    with errors_logged() as errors:
        dice = random.Random(f"drill {seed}")
        found = in_world(
            lambda world: _failovers(world, failovers, dice),
            seed=seed,
            settings=LIVELY,
            machines=16,
            boot_time=BOOT_TIME,
        )
    if errors:
        raise AssertionError(f"the program logged errors: {errors[:3]}")
    return found


def spread(values: Sequence[float], part: float) -> float:
    """A percentile; 0 of nothing."""
    found = sorted(values)
    return found[min(len(found) - 1, int(len(found) * part))] if found else 0.0


async def _failovers(world: World, count: int, dice: random.Random) -> Drills:
    drills = Drills()
    await world.sleep(5)
    view = await _provisioned(world)
    for _ in range(count):
        view = await _until(world, lambda now: now.pool.state is PoolState.ACTIVE)
        before = view.pool.failover_count
        assert view.primary is not None
        assert view.standby is not None
        standby = view.standby.id
        await world.sleep(dice.uniform(0.0, _LONGEST_WAIT))
        world.control("POST", f"instances/{view.primary.instance_id}/kill", {"how": "container"})
        view = await _until(world, lambda now, before=before: now.pool.failover_count > before)  # type: ignore[misc]
        drills.failed += view.pool.primary != standby
        _note(drills, view)
    drills.most_writers = max(row["most_writers"] for row in world.market["volumes"])
    return drills


def _note(drills: Drills, view: PoolView) -> None:
    outage, phases = view.pool.outage_s or 0.0, dict(view.failovers[-1].phases)
    drills.outages.append(outage)
    drills.ours.append(outage - phases.get("start", 0.0))
    for phase, seconds in phases.items():
        drills.phases[phase].append(seconds)


async def _provisioned(world: World) -> PoolView:
    caller = Caller(project="p1", key_id="k1", deadline=world.clock.monotonic() + 600)
    query = HostQuery(max_price=_PRICE, provider=VAST, verified_only=False)
    host = max(await world.engine.pools.hosts(caller, query), key=lambda each: (each.fits, each.available_gpus))
    spec = PoolSpec(max_price=_PRICE)
    demand = ProvisionDemand(machine_id=1, host_machine_id=host.machine_id, provider=VAST, spec=spec)
    return (await world.engine.pools.provision(caller, demand))[0]


async def _until(world: World, done: Any) -> PoolView:
    until = world.clock.monotonic() + _LONGEST
    while world.clock.monotonic() < until:
        view = await world.engine.pools.status(Caller(project="p1"), 1)
        assert view is not None
        if done(view):
            return view
        await world.sleep(_BREATH)
    raise AssertionError(f"the pool is {view.pool.state}, {view.pool.degraded}: {view.pool.error}")
