"""What holds for all tests: a log of their own, their order, and how much of them runs.

--unit       without the tests that start processes or tell long stories: those of `_LONG_ROOMS`, and marked `long`
--all-seeds  a test marked `seeds(few, all)` gets the argument `seed` from range(all) instead of range(few);
             of a test marked `sampled(n)`, all cases run instead of every n-th (of `sampled(0)`: none)
--every N    of the tests that remain, every N-th, from the first one
--begin K    with --every: from the K-th one (0 is the first); without K a random one, which is said
--shuffle N  modules, and the tests of each, in an order that depends on N alone; without N a random one, which is said

With TEST_STORE=postgres in the environment (make test STORE=postgres), stories in virtual time use PostgreSQL.
With LOOP=uvloop in the environment, tests on real time, and the servers that they start, run on uvloop.
"""

import asyncio
import gc
import os
import random
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog

from gpuproxy.adapters import logs

_TESTS = Path(__file__).resolve().parent
_LONG_ROOMS = frozenset({"system", "simulation", "vastai_cli"})
_ANY = -1
_DRAWN = {"shuffle": 1_000_000, "begin": 1_000}
"""Options whose value may be drawn, and below which number."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--unit", action="store_true", help="without tests of processes and long stories")
    parser.addoption("--all-seeds", action="store_true", help="tests that repeat a rule over seeds or cases, all of it")
    parser.addoption("--every", type=int, default=1, metavar="N", help="every N-th test only, the same ones each time")
    parser.addoption("--begin", nargs="?", type=int, const=_ANY, default=0, metavar="K", help="--every: from which on")
    parser.addoption(
        "--shuffle", nargs="?", type=int, const=_ANY, metavar="SEED", help="modules and tests in another order"
    )


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts what runs in the background like this
        signal.signal(signal.SIGINT, signal.default_int_handler)  # what the tests start would ignore Ctrl-C too
    _use_loop(os.environ.get("LOOP", "asyncio"))
    gc.set_threshold(20_000)  # the collected tests stay: looking for garbage among them is slow
    config.addinivalue_line("markers", "long: it takes a second or more, or starts a process; --unit leaves it out")
    config.addinivalue_line("markers", "seeds(few, all): the rule is tried with so many seeds")
    config.addinivalue_line("markers", "sampled(n): every n-th case of the test runs (0: none); with --all-seeds, each")
    for name, below in _DRAWN.items():
        if getattr(config.option, name) == _ANY:  # a worker reads the command line again, and gets what was drawn
            shared = getattr(config, "workerinput", {}).get(name)
            setattr(config.option, name, random.SystemRandom().randrange(below) if shared is None else shared)


def _use_loop(name: str) -> None:
    if name not in ("asyncio", "uvloop"):
        raise pytest.UsageError(f"LOOP must be asyncio or uvloop, not {name!r}")
    if name == "uvloop":
        import uvloop

        with warnings.catch_warnings():  # newer Pythons will do without policies
            warnings.simplefilter("ignore", DeprecationWarning)
            asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """All workers of pytest-xdist must collect the same tests in the same order."""
    node.workerinput |= {name: getattr(node.config.option, name) for name in _DRAWN}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for mark in metafunc.definition.iter_markers("seeds"):
        few, every = mark.args
        metafunc.parametrize("seed", range(every if metafunc.config.option.all_seeds else few))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.unit:
        kept = [item for item in items if not _is_long(item)]
        config.hook.pytest_deselected(items=[item for item in items if _is_long(item)])
        items[:] = kept
    if not config.option.all_seeds:
        kept, left = _sample(items)
        config.hook.pytest_deselected(items=left)
        items[:] = kept
    if config.option.every > 1:
        kept = items[config.option.begin % config.option.every :: config.option.every]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept
    if config.option.shuffle is not None:
        _shuffle(items, config.option.shuffle)
    else:
        items[:] = _long_ones_first(items, getattr(config, "workerinput", {}).get("workercount", 1))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not config.option.all_seeds:
        terminalreporter.write_line("a fixed sample of the tests marked `seeds` or `sampled`; make seeds runs all")
    if config.option.every > 1:
        chosen = f"--every {config.option.every} --begin {config.option.begin % config.option.every}"
        terminalreporter.write_line(f"a part of the tests: {chosen}")
    if config.option.shuffle is not None:
        terminalreporter.write_line(f"in the order of --shuffle {config.option.shuffle}")


def pytest_sessionfinish() -> None:
    if (postgres := sys.modules.get("tests.postgres")) is not None:
        postgres.at_end.close()


@pytest.fixture(autouse=True)
def _a_log_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What one of them configures, or a command that it runs, is undone after it."""
    configure = structlog.configure

    def without_cache(**settings: Any) -> None:
        """A logger that keeps its first configuration would pass by every later one, and by capture_logs."""
        configure(**{**settings, "cache_logger_on_first_use": False})

    monkeypatch.setattr(structlog, "configure", without_cache)
    yield
    structlog.reset_defaults()
    logs._write_fast = None


@pytest.fixture(autouse=True)
def _databases_of_its_own() -> Iterator[None]:
    """The databases of PostgreSQL that a test was given are the next one's after it."""
    yield
    if (postgres := sys.modules.get("tests.postgres")) is not None:
        postgres.release()


def _sample(items: Sequence[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """The tests that run, and the cases of sampled ones that do not. The same ones each time, in whatever order."""
    seen: Counter[str] = Counter()
    kept, left = [], []
    for item in items:
        mark = item.get_closest_marker("sampled")
        if mark is not None:
            test = item.nodeid.partition("[")[0]
            seen[test] += 1
            every: int = mark.args[0]
            if not every or (seen[test] - 1) % every:
                left.append(item)
                continue
        kept.append(item)
    return kept, left


def _is_long(item: pytest.Item) -> bool:
    room = item.path.relative_to(_TESTS).parts[0]
    return room in _LONG_ROOMS or item.get_closest_marker("long") is not None


def _long_ones_first(items: Sequence[pytest.Item], workers: int) -> list[pytest.Item]:
    """Each worker begins with an equal part of the tests: the first ones of each part are long ones, in whole modules.

    A long one that begins last keeps one worker busy while the others are done.
    """
    modules: dict[Path, list[pytest.Item]] = {}
    for item in items:
        if _is_long(item):
            modules.setdefault(item.path, []).append(item)
    short = [item for item in items if not _is_long(item)]
    ordered: list[pytest.Item] = []
    for worker in range(workers):
        long = [item for module in [*modules.values()][worker::workers] for item in module]
        number = max(0, len(items) // workers - len(long))
        ordered += [*long, *short[:number]]
        short = short[number:]
    return ordered + short


def _shuffle(items: list[pytest.Item], seed: int) -> None:
    """Modules stay whole: what a module starts once, it would otherwise start again and again."""
    dice = random.Random(seed)
    modules: dict[Path, list[pytest.Item]] = {}
    for item in items:
        modules.setdefault(item.path, []).append(item)
    chosen = list(modules.values())
    dice.shuffle(chosen)
    for tests in chosen:
        dice.shuffle(tests)
    items[:] = [item for tests in chosen for item in tests]
