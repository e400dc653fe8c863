"""The load balancing strategies: one pure function each that scores a host, the least score wins.

A strategy's name is its name on the wire, its docstring is what users read. Integers only. Some of them take turns:
what the next pick follows from, besides the counters of the hosts, is their `Course`, which is kept between calls as
a `Rotation`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

from gpuproxy.model.errors import InvalidArgument, Violation
from gpuproxy.model.load import HostLoad, Rotation
from gpuproxy.model.offers import HostKey

_WEIGHTS = ((80, 30), (40, 20), (24, 15), (0, 10))
"""Tenths by the nominal GB of a GPU, from this size on."""
_PRIOR_SAMPLES = 3
"""How many measurements of its own it takes for a host to count as much as its like."""
_PRIOR_MS = 120_000
"""From create to ready, where nothing like it was measured."""
_CHEAP = 1_000_000
"""Micro-dollars per GPU-hour, below which a weight counts 6/5."""


@dataclass(frozen=True, slots=True)
class Target:
    """One host as a strategy sees it."""

    key: HostKey
    load: HostLoad
    last_pick: int
    """On a scale on which later is more; 0: never."""
    expected_ms: int
    """From create to ready; a guess from the host's like, as far as it is not measured itself."""
    picks: int = 0
    """By this call so far."""


class Course:
    """A rotation under way. `last` stays as it was when the call began."""

    def __init__(self, rotation: Rotation) -> None:
        self.last = rotation.last
        self.level = rotation.level
        self.standing = dict(rotation.standing)


class Like:
    """What a host is expected to do from what its like did: its model at its marketplace, or all there."""

    def __init__(self, load: Mapping[HostKey, HostLoad]) -> None:
        known: dict[tuple[str, str], list[int]] = {}
        for key, each in load.items():
            if each.samples:
                provider = key.partition("/")[0]
                known.setdefault((provider, each.gpu_model), []).append(each.response_ms)
                known.setdefault((provider, ""), []).append(each.response_ms)
        self._median = {like: int(median(values)) for like, values in known.items()}

    def expected(self, load: HostLoad, provider: str, gpu_model: str) -> int:
        """Milliseconds from create to ready."""
        found = self._median.get((provider, gpu_model)) or self._median.get((provider, "")) or _PRIOR_MS
        return (load.samples * load.response_ms + _PRIOR_SAMPLES * found) // (load.samples + _PRIOR_SAMPLES)


Score = Callable[[Target, Course], int]
Turn = Callable[[Course, HostKey, int, int], None]
"""What a pick does to the course: the host, the score it had, the GPUs it gives."""


def round_robin(target: Target, course: Course) -> int:
    """One host after the other, in the order of their names."""
    return 2 * target.picks + (course.last is not None and target.key <= course.last)


def equal_weighted(target: Target, course: Course) -> int:
    """The host that has had the fewest GPUs of ours so far; newcomers start level with the others."""
    return max(course.standing.get(target.key, 0), course.level)


def weighted_round_robin(target: Target, course: Course) -> int:
    """In turn, but hosts with more memory per GPU, and those below a dollar per GPU-hour, more often."""
    return -course.standing.get(target.key, 0)


def least_connections(target: Target, _course: Course) -> int:
    """Where the fewest of our leases are live; creates in flight and unknown ones count."""
    return target.load.live + target.picks


def least_response_time(target: Target, _course: Course) -> int:
    """Where machines were ready soonest after their create, and fewest are still starting."""
    return target.expected_ms * (target.load.starting + target.picks + 1)


def lowest_price(_target: Target, _course: Course) -> int:
    """The cheapest GPU-hour, disk included."""
    return 0


def weight(vram_gb: int, price: int, num_gpus: int) -> int:
    """What weighted_round_robin weighs machines with, in tenths; `price` per hour of all GPUs, in micro-dollars."""
    tenths = next(tenths for least, tenths in _WEIGHTS if vram_gb >= least)
    return tenths * 6 // 5 if price < _CHEAP * num_gpus else tenths


def _take_level(course: Course, host: HostKey, score: int, gpus: int) -> None:
    course.level = score
    course.standing[host] = score + gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """A score and what goes with it."""

    score: Score
    then: Score | None = None
    """Decides between equal scores."""
    by_name: bool = False
    """What is equal goes by name, not by price."""
    weighted: bool = False
    """Each pick adds its weight to everybody's standing and takes the sum of them from the winner."""
    turn: Turn | None = None
    rotates: bool = False
    """It has a rotation that must be kept."""


STRATEGIES: Mapping[str, Strategy] = {
    "round_robin": Strategy(score=round_robin, by_name=True, rotates=True),
    "equal_weighted": Strategy(score=equal_weighted, by_name=True, turn=_take_level, rotates=True),
    "weighted_round_robin": Strategy(score=weighted_round_robin, weighted=True, rotates=True),
    "least_connections": Strategy(score=least_connections),
    "least_response_time": Strategy(score=least_response_time, then=least_connections),
    "lowest_price": Strategy(score=lowest_price),
}


def strategy_named(name: str) -> Strategy:
    """The strategy; raises InvalidArgument for a word that is none."""
    if name not in STRATEGIES:
        raise InvalidArgument([Violation("strategy", f"{name!r} is none of {', '.join(STRATEGIES)}")])
    return STRATEGIES[name]
