"""`make simulate`, `make pools` and `make drill`: what they take from the environment, and their exit codes."""

import runpy
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

import pytest

from scripts import drill, pools
from scripts.variables import seeds, whole
from tests.simulation.audit import Violation
from tests.simulation.drill import Drills
from tests.simulation.pools import PoolReport

VARIABLES = ("SEED", "SEEDS", "INCIDENTS", "FIRST", "COUNT")


class Here:
    """multiprocessing.Pool, in this process."""

    def __init__(self, _processes: int) -> None:
        self.asked: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def imap_unordered(self, work: Callable[[Any], Any], of: Iterable[Any], _chunk: int) -> Iterator[Any]:
        return map(work, of)

    def starmap(self, work: Callable[..., Any], of: Iterable[Any]) -> list[Any]:
        return [work(*each) for each in of]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pools.multiprocessing, "Pool", Here)


def report(seed: int, **facts: Any) -> PoolReport:
    made: dict[str, Any] = {
        "seed": seed, "incidents": 3, "failovers": 1, "crashes": 0, "pauses": 0, "faults": 0, "unknowns": 0,
        "ends": Counter({"active": 1}), "outages": (), "seconds": 1.0, "digest": "",
    }  # fmt: skip
    return PoolReport(**made | facts)


@pytest.mark.parametrize(
    ("text", "found"),
    [(None, range(9)), ("", range(9)), ("5", range(5)), ("3-7", range(3, 8)), ("7-7", range(7, 8)), (" 2 ", range(2))],
)
def test_seeds_are_a_number_or_a_range(monkeypatch: pytest.MonkeyPatch, text: str | None, found: range) -> None:
    if text is not None:
        monkeypatch.setenv("SEEDS", text)
    assert seeds("SEEDS", 9) == found


@pytest.mark.parametrize("text", ["all", "1-", "-3", "7-3", "0", "1.5", "1-2-3"])
def test_other_seeds_end_the_script_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    monkeypatch.setenv("SEEDS", text)
    with pytest.raises(SystemExit) as ended:
        seeds("SEEDS", 9)
    assert ended.value.code == 2
    assert "SEEDS" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "number"), [("", 7), ("1", 1), ("1000", 1000)])
def test_a_number_has_a_default(monkeypatch: pytest.MonkeyPatch, text: str, number: int) -> None:
    monkeypatch.setenv("COUNT", text)
    assert whole("COUNT", 7) == number


@pytest.mark.parametrize("text", ["0", "-1", "many", "2.5"])
def test_a_number_that_is_none_ends_the_script(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("COUNT", text)
    with pytest.raises(SystemExit):
        drill.main()


def test_pools_end_after_enough_incidents(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[int] = []
    monkeypatch.setattr(pools, "run", lambda seed: told.append(seed) or report(seed))
    monkeypatch.setenv("INCIDENTS", "10")
    assert pools.main() == 0
    assert sorted(set(told)) == [0, 1, 2, 3]
    assert "incidents   12 in 4 stories" in capsys.readouterr().out


def test_pools_run_the_seeds_that_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(pools, "run", lambda seed: told.append(seed) or report(seed))
    monkeypatch.setenv("SEEDS", "60-62")
    assert pools.main() == 0
    assert told == [60, 61, 62]


@pytest.mark.parametrize(("first", "seen"), [("", [1, 2, 3]), ("1", [1, 2])])
def test_a_broken_promise_is_told_with_its_replay(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], first: str, seen: list[int]
) -> None:
    told: list[int] = []

    def run(seed: int) -> PoolReport:
        told.append(seed)
        if seed == 2:
            raise Violation("writers", "two writers")
        return report(seed)

    monkeypatch.setattr(pools, "run", run)
    monkeypatch.setenv("SEEDS", "1-3")
    monkeypatch.setenv("FIRST", first)
    assert pools.main() == 1
    assert told == seen
    said = capsys.readouterr().out
    assert "FAILED seed 2: writers: two writers\n    replay: make pools SEED=2" in said
    assert "1           moments with two writers on one volume" in said


@pytest.mark.parametrize(("breaks", "code"), [(False, 0), (True, 1)])
def test_one_seed_is_replayed(monkeypatch: pytest.MonkeyPatch, breaks: bool, code: int) -> None:
    told: list[tuple[int, bool]] = []

    def run(seed: int, *, tell: bool = False) -> PoolReport:
        told.append((seed, tell))
        if breaks:
            raise Violation("rest", "no rest")
        return report(seed)

    monkeypatch.setattr(pools, "run", run)
    monkeypatch.setenv("SEED", "0")
    assert pools.main() == code
    assert told == [(0, True)]


def test_a_story_that_ends_in_two_ways_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = iter(range(9))
    monkeypatch.setattr(pools, "run", lambda seed: report(seed, digest=str(next(runs))))
    failed = pools.tell(50)
    assert isinstance(failed, pools.Failure)
    assert "two runs" in failed.text


@pytest.mark.parametrize(("count", "shares"), [(1, [1]), (20, [20]), (50, [20, 20, 10])])
def test_drills_are_shared_out(count: int, shares: list[int]) -> None:
    assert drill._shares(count) == shares


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({}, 0),
        ({"outages": [61.0]}, 1),
        ({"ours": [15.5]}, 1),
        ({"failed": 1}, 1),
        ({"most_writers": 2}, 1),
    ],
)
def test_a_drill_that_misses_a_target_fails(monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any], code: int) -> None:
    good: dict[str, Any] = {"outages": [42.0], "ours": [10.0], "most_writers": 1}
    monkeypatch.setattr(drill, "run", lambda _seed, _count: Drills(**good | facts))
    monkeypatch.setenv("COUNT", "1")
    assert drill.main() == code


SCRIPTS = ("simulate", "markets", "pools", "drill", "replay", "fairness", "chaos", "soak", "bench")


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_says_what_a_script_does_and_an_unknown_argument_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without this, both would run the whole proof for minutes or hours."""
    monkeypatch.delitem(sys.modules, f"scripts.{name}", raising=False)  # it is run anew, as `python -m` does
    for argument, code in (("--help", 0), ("--seeds=3", 2)):
        monkeypatch.setattr("sys.argv", [name, argument])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(f"scripts.{name}", run_name="__main__")
        assert ended.value.code == code
        said = capsys.readouterr()
        assert (f"make {name}" in said.out) if code == 0 else ("--seeds=3" in said.err)
