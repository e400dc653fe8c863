"""`--shuffle`: another order for another seed, the same for the same, and no test is lost. And samples of cases."""

import itertools
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import _sample, _shuffle

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Item:
    path: Path
    name: str


ITEMS = [Item(Path(f"test_{module}.py"), f"test_{number}") for module in range(10) for number in range(5)]


def shuffled(seed: int) -> list[Any]:
    items: list[Any] = list(ITEMS)
    _shuffle(items, seed)
    return items


def test_the_same_seed_gives_the_same_order_and_another_one_another() -> None:
    assert shuffled(1) == shuffled(1)
    assert len({tuple(shuffled(seed)) for seed in range(6)}) == 6


def test_every_test_is_run_once_and_a_module_stays_whole() -> None:
    items = shuffled(1)
    assert sorted(items, key=str) == sorted(ITEMS, key=str)
    changes = sum(before.path != after.path for before, after in itertools.pairwise(items))
    assert changes == 9


def test_modules_and_the_tests_in_them_change_places() -> None:
    items = shuffled(1)
    assert [item.path for item in items] != [item.path for item in ITEMS]
    assert any(
        [item.name for item in items if item.path == path] != [f"test_{number}" for number in range(5)]
        for path in {item.path for item in ITEMS}
    )


@dataclass(frozen=True, slots=True)
class Case:
    """A case of a test that is marked `sampled(every)`, or of one without the mark."""

    nodeid: str
    every: int | None = None

    def get_closest_marker(self, _name: str) -> pytest.Mark | None:
        return None if self.every is None else pytest.mark.sampled(self.every).mark


def test_of_a_sampled_test_every_nth_case_runs_and_no_other_test_is_left_out() -> None:
    cases: list[Any] = [Case(f"test_a[{number}]", 3) for number in range(7)]
    cases += [Case(f"test_b[{number}]") for number in range(2)] + [Case("test_c[only]", 3), Case("test_d", 0)]
    kept, left = _sample(cases)
    assert [case.nodeid for case in kept] == [
        "test_a[0]", "test_a[3]", "test_a[6]", "test_b[0]", "test_b[1]", "test_c[only]",
    ]  # fmt: skip
    assert sorted((*kept, *left), key=str) == sorted(cases, key=str)


@pytest.mark.long
def test_parallel_workers_agree_on_a_random_order():
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "tests/model/test_money.py", "--shuffle"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.long
def test_a_path_is_not_taken_for_the_seed():
    command = [sys.executable, "-m", "pytest", "--collect-only", "--shuffle", "tests/model/test_money.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200, check=False)
    assert "invalid int value: 'tests/model/test_money.py'" in done.stderr
