"""`make bite`: mutation tests. Known mistakes are planted one by one in a copy of the project; each must be caught.

The catchers run in turn, cheapest first, until one fails: some random stories, the tests of the mistake's own room,
more stories, the tests of all rooms, crash points.
ONLY=text selects the mistakes whose names contain it. Exit code 0: every mistake was caught.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from scripts.mistakes import MISTAKES
from scripts.planting import Mistake

ROOT = Path(__file__).resolve().parent.parent
_COPIED = ("gpuproxy", "scripts", "tests", "proto", "docs")
_FEW, _MANY = "60", "300"
_ROOMS = (
    "model", "store", "providers", "runtime", "outcomes", "reconcile", "catalog", "billing", "loadbalancer", "health",
    "rental", "reservations", "instances", "warmpool", "webhooks",
)  # fmt: skip
_TESTS = ("-m", "pytest", "-x", "-q")
_STORIES = ("-m", "scripts.simulate")
_MINUTES = 20.0


def main() -> int:
    """The exit code: the number of mistakes that were not caught."""
    if (error := _broken_without_mistakes()) is not None:
        print(f"the copy without any mistake can't be tested: {error}")
        return 1
    chosen = [mistake for mistake in MISTAKES if os.environ.get("ONLY", "") in mistake.name]
    caught = sum(_bites(mistake) for mistake in chosen)
    print(f"{caught} of {len(chosen)} planted mistakes were caught")
    return len(chosen) - caught


def _broken_without_mistakes() -> str | None:
    """Why the tests can't even be collected in a copy without a mistake; then every mistake would seem to be caught."""
    with tempfile.TemporaryDirectory() as folder:
        _copy_to(Path(folder))
        return _complaint(Path(folder), (*_TESTS, "--collect-only", *_folders(_ROOMS)))


def _copy_to(copy: Path) -> None:
    for name in _COPIED:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)


def _bites(mistake: Mistake) -> bool:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        _copy_to(copy)
        mistake.plant(copy)
        for catcher, command, stories in _catchers(mistake):
            if (said := _complaint(copy, command, stories)) is not None:
                seconds = time.monotonic() - began
                print(f"caught  {mistake.name}\n        by {catcher} in {seconds:.0f} s: {said}", flush=True)
                return True
    print(f"MISSED  {mistake.name}", flush=True)
    return False


def _catchers(mistake: Mistake) -> Iterator[tuple[str, Sequence[str], str]]:
    """Name, command and number of stories of each catcher."""
    yield "stories", _STORIES, _FEW
    room = mistake.file.partition("/")[0]
    if (ROOT / "tests" / room).is_dir():
        yield f"tests/{room}", (*_TESTS, *_folders([room])), _FEW
    yield "more stories", _STORIES, _MANY
    yield "tests", (*_TESTS, "-n", "2", *_folders(_ROOMS)), _FEW
    yield "crash points", (*_TESTS, "--all-seeds", "tests/simulation/test_crash_points.py"), _FEW


def _folders(rooms: Iterable[str]) -> list[str]:
    return [f"tests/{room}" for room in rooms]


def _complaint(copy: Path, command: Sequence[str], stories: str = _FEW) -> str | None:
    """The failure that a catcher reports for the copy; None if it reports none."""
    settings = {"PYTHONPATH": str(copy), "PYTHONHASHSEED": "0", "SEEDS": stories, "FIRST": "1"}
    ended = subprocess.run(
        [sys.executable, *command],
        cwd=copy,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
        timeout=_MINUTES * 60,
    )
    if ended.returncode == 0:
        return None
    telling = [line for line in ended.stdout.splitlines() if line.startswith(("seed ", "FAILED", "ERROR"))]
    return (telling or ended.stderr.splitlines() or ["it failed"])[-1][:160]


if __name__ == "__main__":
    sys.exit(main())
