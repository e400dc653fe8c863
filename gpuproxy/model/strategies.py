"""The load balancing strategies: each is a pure function that scores a host. The host with the lowest score wins.

The function's name is the strategy's name in the API, and its docstring is shown to users. Scores are integers. Some
strategies take turns: besides the hosts' counters, they use a `TurnState`, which is stored between calls as a
`Rotation`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import median

from gpuproxy.model.errors import InvalidArgument, Violation
from gpuproxy.model.load import HostLoad, Rotation
from gpuproxy.model.offers import HostKey

_WEIGHTS = ((80, 30), (40, 20), (24, 15), (0, 10))
"""(nominal GB per GPU, weight in tenths): the first pair whose size is reached applies."""
_PRIOR_SAMPLES = 3
"""The number of a host's own samples that have as much weight as the median of similar hosts."""
_PRIOR_MS = 120_000
"""The expected time from create to ready if no similar host was measured, in milliseconds."""
_CHEAP = 1_000_000
"""Micro-dollars per GPU-hour. Below this price, the weight is multiplied by 6/5."""


@dataclass(frozen=True, slots=True)
class Target:
    """One host as a strategy sees it."""

    key: HostKey
    load: HostLoad
    last_pick: int
    """A number that is higher for a later last pick; 0: never picked."""
    expected_ms: int
    """The expected time from create to ready, from the host's samples and those of similar hosts."""
    picks: int = 0
    """The number of picks by this call so far."""


class TurnState:
    """The rotation during one call. `last` isn't changed by the call's own picks."""

    def __init__(self, rotation: Rotation) -> None:
        self.last = rotation.last
        self.level = rotation.level
        self.standing = dict(rotation.standing)


class PeerTimes:
    """The times of similar hosts: those with the same GPU model at the marketplace, or all hosts there."""

    def __init__(self, load: Mapping[HostKey, HostLoad]) -> None:
        known: dict[tuple[str, str], list[int]] = {}
        for key, each in load.items():
            if each.samples:
                provider = key.partition("/")[0]
                known.setdefault((provider, each.gpu_model), []).append(each.response_ms)
                known.setdefault((provider, ""), []).append(each.response_ms)
        self._median = {like: int(median(values)) for like, values in known.items()}

    def expected(self, load: HostLoad, provider: str, gpu_model: str) -> int:
        """The expected milliseconds from create to ready."""
        found = self._median.get((provider, gpu_model)) or self._median.get((provider, "")) or _PRIOR_MS
        return (load.samples * load.response_ms + _PRIOR_SAMPLES * found) // (load.samples + _PRIOR_SAMPLES)


Score = Callable[[Target, TurnState], int]
Turn = Callable[[TurnState, HostKey, int, int], None]
"""Updates the turn state after a pick: takes the state, the host, its score and the GPUs picked."""


def round_robin(target: Target, course: TurnState) -> int:
    """Hosts in turn, ordered by name."""
    return 2 * target.picks + (course.last is not None and target.key <= course.last)


def equal_weighted(target: Target, course: TurnState) -> int:
    """The host with the fewest GPUs rented by us so far; new hosts start at the level of the others."""
    return max(course.standing.get(target.key, 0), course.level)


def weighted_round_robin(target: Target, course: TurnState) -> int:
    """Hosts in turn; hosts with more memory per GPU, or below $1 per GPU-hour, come more often."""
    return -course.standing.get(target.key, 0)


def least_connections(target: Target, _course: TurnState) -> int:
    """The host with the fewest live leases, including pending and unknown creates."""
    return target.load.live + target.picks


def least_response_time(target: Target, _course: TurnState) -> int:
    """The host whose machines become ready soonest after the create, with the fewest machines still starting."""
    return target.expected_ms * (target.load.starting + target.picks + 1)


def lowest_price(_target: Target, _course: TurnState) -> int:
    """The lowest price per GPU-hour, including disk."""
    return 0


def weight(vram_gb: int, price: int, num_gpus: int) -> int:
    """The weight for weighted_round_robin, in tenths. `price` is in micro-dollars per hour for all GPUs."""
    tenths = _tenths(vram_gb)
    return tenths * 6 // 5 if price < _CHEAP * num_gpus else tenths


@lru_cache(maxsize=1024)
def _tenths(vram_gb: int) -> int:
    return next(tenths for least, tenths in _WEIGHTS if vram_gb >= least)


def _take_level(course: TurnState, host: HostKey, score: int, gpus: int) -> None:
    course.level = score
    course.standing[host] = score + gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """A scoring function and its options."""

    score: Score
    then: Score | None = None
    """A second score that decides between equal scores."""
    by_name: bool = False
    """True: equal hosts are ordered by name instead of price."""
    weighted: bool = False
    """True: each pick adds every host's weight to its standing and subtracts the sum from the picked host."""
    turn: Turn | None = None
    rotates: bool = False
    """True: the strategy has a rotation that is stored between calls."""


STRATEGIES: Mapping[str, Strategy] = {
    "round_robin": Strategy(score=round_robin, by_name=True, rotates=True),
    "equal_weighted": Strategy(score=equal_weighted, by_name=True, turn=_take_level, rotates=True),
    "weighted_round_robin": Strategy(score=weighted_round_robin, weighted=True, rotates=True),
    "least_connections": Strategy(score=least_connections),
    "least_response_time": Strategy(score=least_response_time, then=least_connections),
    "lowest_price": Strategy(score=lowest_price),
}


def strategy_by_name(name: str) -> Strategy:
    """The strategy with this name; raises InvalidArgument if there is none."""
    if name not in STRATEGIES:
        raise InvalidArgument([Violation("strategy", f"must be one of {', '.join(STRATEGIES)}, not {name!r}")])
    return STRATEGIES[name]
