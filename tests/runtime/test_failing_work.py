"""Work that a process has and can't do, because it does not reach the marketplace: it goes to another process."""

import math
from itertools import pairwise

from gpuproxy.runtime.claims import CLAIM_SECONDS
from tests.runtime.test_sharing import _database, _Process
from tests.virtual_time import VirtualClock, run_virtual


async def _stepped(processes: list[_Process], failing: set[str], seconds: float) -> list[str]:
    """Let the processes share one part of the work; that it fails counts while they have it. Returns its owners."""
    owners = []
    for _ in range(int(seconds / 4)):
        for process in processes:
            name = process.sharing._claims.owner
            if name not in failing or not process.held():
                process.failing_since = None
            elif process.failing_since is None:
                process.failing_since = process.clock.monotonic()
            await process.sharing.step()
        owners.append(next((each.sharing._claims.owner for each in processes if each.held()), ""))
        await processes[0].clock.sleep(CLAIM_SECONDS / 3)
    return owners


def _longest_without_owner(owners: list[str]) -> float:
    return (
        max(
            len(run) for run in "".join(owner or "-" for owner in owners).replace("a", " ").replace("b", " ").split(" ")
        )
        * 4.0
    )


def test_work_that_fails_in_one_process_for_a_minute_goes_to_another_one_and_stays_there() -> None:
    async def story(clock: VirtualClock) -> None:
        db = _database(clock)
        processes = [_Process(db, clock, name, ["one"]) for name in ("a", "b")]
        owners = await _stepped(processes, {"a"}, 3600)
        assert owners[:15] == ["a"] * 15
        assert owners.index("b") * 4.0 <= 60 + 2 * CLAIM_SECONDS
        assert set(owners[owners.index("b") :]) == {"b"}
        assert set((await _stepped(processes, {"b"}, 200))[-10:]) == {"a"}, "the rest of the first one is over"

    run_virtual(story)


def test_work_that_fails_for_less_than_a_minute_stays_and_so_does_that_of_a_process_alone() -> None:
    async def story(clock: VirtualClock) -> None:
        processes = [_Process(_database(clock), clock, name, ["one"]) for name in ("a", "b")]
        for failing in ({"a"}, set[str](), {"a"}):
            assert set(await _stepped(processes, failing, 50)) == {"a"}
        alone = [_Process(_database(clock), clock, "a", ["one"])]
        assert set(await _stepped(alone, {"a"}, 3600)) == {"a"}

    run_virtual(story)


def test_work_that_fails_everywhere_moves_slowly_and_is_never_long_without_an_owner() -> None:
    async def story(clock: VirtualClock) -> None:
        db = _database(clock)
        processes = [_Process(db, clock, name, ["one"]) for name in ("a", "b")]
        owners = await _stepped(processes, {"a", "b"}, 4 * 3600)
        assert _longest_without_owner(owners) <= 4 * CLAIM_SECONDS
        assert owners.count("") <= len(owners) / 5
        moves = [1 for before, after in pairwise([owner for owner in owners if owner]) if before != after]
        assert len(moves) <= 80
        assert set((await _stepped(processes, {"a"}, 1200))[-10:]) == {"b"}

    run_virtual(story)


def test_work_that_fails_and_that_nobody_else_is_set_up_for_comes_back_and_stays_for_a_while() -> None:
    async def story(clock: VirtualClock) -> None:
        db = _database(clock)
        first, second = _Process(db, clock, "a", ["one"]), _Process(db, clock, "b", [])
        owners = await _stepped([first, second], {"a"}, 1200)
        assert _longest_without_owner(owners) <= 4 * CLAIM_SECONDS
        assert owners.count("") <= len(owners) / 10

    run_virtual(story)


def test_a_process_that_can_never_do_the_work_leaves_it_to_another_one_at_once() -> None:
    """It has no key for the account, say."""

    async def story(clock: VirtualClock) -> None:
        db = _database(clock)
        first, second = (_Process(db, clock, name, ["one"]) for name in ("a", "b"))
        first.failing_since = -math.inf
        await db.write(first.sharing.take_all)
        for _ in range(8):
            await first.sharing.step()
            await second.sharing.step()
            await clock.sleep(CLAIM_SECONDS / 3)
        assert second.held() == {"one"}
        second.life.books_gone = True
        for _ in range(20):
            await first.sharing.step()
            await clock.sleep(CLAIM_SECONDS / 3)
        assert first.held() == {"one"}, "nobody else lives"

    run_virtual(story)
