"""What a seed decides before its story of warm pools begins: the market, the possible faults, and what else may happen.

Swarm testing: each seed switches on a random subset of the faults and incidents, so that rare combinations get seeds of
their own.
"""

import random
from dataclasses import dataclass

from tests.simulation.weather import FAULTS as MACHINE_FAULTS

_READ = (
    "refuse_connection", "reset_before", "hang_before", "status_500_before", "status_503_before", "rate_limited",
    "malformed_json", "html_502", "truncated", "empty_body", "refused_200", "auth_error",
)  # fmt: skip
_LOST = ("reset_after", "status_500_after", "hang_after", "late_effect")
FAULTS: dict[str, tuple[str, ...]] = {
    **{call: faults for call, faults in MACHINE_FAULTS.items() if call != "ssh_key"},
    "create": (*MACHINE_FAULTS["create"], "volume_share_refused"),
    "stop": (*MACHINE_FAULTS["stop"], "stop_lies", "stop_lies"),
    "volume_search": (*_READ, "empty_list"),
    "volume_create": (*_READ, *_LOST, "offer_gone", "insufficient_credit"),
    "volume_list": (*_READ, "empty_list", "missing_page"),
    "volume_delete": (*_READ, *_LOST, "destroy_ignored"),
}
"""(call, fault) pairs that a story may arm."""
INCIDENTS = {
    "container": 14, "gpu": 1, "host": 3, "stopped outside": 1, "occupied": 4, "flap": 3, "outage": 3, "slow": 1,
    "test": 3, "failover": 2, "disable": 2, "cleanup": 1, "move": 1, "delete volume": 1,
}  # fmt: skip
"""What can happen to a pool, and how often."""
LATE_BOUND = 300
"""Seconds, as the adapter declares them. A story keeps to it."""
STORM = frozenset({"start", "stop", "get", "list"})
"""The calls of a failover. Some stories arm faults of these only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolWeather:
    """Everything that is constant during a seed's story. Times in seconds."""

    seed: int
    faults: tuple[tuple[str, str], ...]
    fault_rate: float
    """Faults armed for each incident."""
    calm_start: bool
    """The first provision meets no faults."""
    incidents: tuple[str, ...]
    weights: tuple[int, ...]
    steps: int
    pause: float
    """The longest between two incidents."""
    pools: int
    crash_rate: float
    paused: bool
    """Two processes share the database, and one is paused past its claims and resumes."""
    sharing: str
    machines: int
    boot_time: tuple[float, float]
    create_latency: float
    list_lag: float
    delay: float
    shyness: float
    returns: float
    """The share of lost hosts that come back, and of strangers that leave."""
    keep_failed: float
    """Hours for which a failed primary is kept."""


def weather_of(seed: int) -> PoolWeather:
    """The weather of a seed, always the same."""
    dice = random.Random(f"pool weather {seed}")
    everything = [(call, fault) for call, faults in FAULTS.items() for fault in faults]
    if dice.random() < 0.4:
        everything = [(call, fault) for call, fault in everything if call in STORM]
    share = dice.choice((0.1, 0.3, 0.6))
    chosen = [pair for pair in everything if dice.random() < share]
    happens = [name for name in INCIDENTS if name == "container" or dice.random() < 0.7]
    paused = seed % 5 == 4
    return PoolWeather(
        seed=seed,
        faults=tuple(chosen) or (("start", "reset_after"),),
        fault_rate=dice.choice((0.0, 0.5, 1.0, 2.0)),
        calm_start=dice.random() < 0.8,
        incidents=tuple(happens),
        weights=tuple(INCIDENTS[name] for name in happens),
        steps=dice.randint(8, 20),
        pause=dice.choice((10.0, 90.0, 240.0)),
        pools=dice.choice((1, 2, 3)),
        crash_rate=0.0 if paused else dice.choice((0.0, 0.2, 0.5)),
        paused=paused,
        sharing="refuse" if dice.random() < 0.25 else "allow",
        machines=dice.choice((12, 16)),
        boot_time=dice.choice(((3.0, 15.0), (20.0, 40.0))),
        create_latency=dice.choice((0.0, 0.0, 3.0)),
        list_lag=dice.choice((0.0, 0.0, 10.0)),
        delay=dice.choice((0.0, 0.0, 0.05, 1.0)),
        shyness=dice.choice((0.0, 0.0, 0.3)),
        returns=dice.choice((0.5, 1.0)),
        keep_failed=dice.choice((0.0, 0.05, 24.0)),
    )
