"""GetSpendingInfo and CheckSpendingLimit agree with what a reservation would get, in random states of the database.

The states are those of the random operations: unknown creates, extensions, stopped machines, machines that are paid in
advance, months that end, and limits of all scopes.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any, TypeVar

import pytest

from gpuproxy.billing.limits import SpendingLimits
from gpuproxy.model.demands import Caller
from gpuproxy.model.limits import BudgetExceeded, Over, SpendingLimit, Usage, cost
from gpuproxy.model.money import Micro
from gpuproxy.outcomes import spending
from gpuproxy.store import leases, reservations
from tests.store.in_memory import MemoryTx
from tests.store.spending.operations import HORIZON, Story
from tests.store.spending.paid import KEYS, PROJECTS
from tests.store.spending.rows import made_lease, made_reservation

T = TypeVar("T")
SECOND = 1_000_000


class Asking:
    """The database of a story as SpendingLimits asks it. Its units run at once, so nothing waits."""

    def __init__(self, story: Story) -> None:
        self._story = story

    async def read(self, unit: Callable[[MemoryTx], T]) -> T:
        return self._story.unit(unit)

    write = read


def at_once(call: Awaitable[T]) -> T:
    """The result of a call that never waits."""
    assert isinstance(call, Coroutine)
    try:
        call.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise AssertionError("it waited")


def refused(story: Story, caller: Caller, rate: int, lasts: timedelta | None) -> Over | None:
    """The limit that would refuse a machine of this price. Nothing is left of the attempt."""
    wanted = made_reservation(10_000, caller.project, caller.key_id, story.now, lasts)
    lease = made_lease(wanted, 10_000, rate, prepaid=False)

    class Undone(Exception):
        pass

    def write(tx: MemoryTx) -> None:
        reservations.insert(tx, wanted)
        leases.insert(tx, lease)
        spending.admit_creates(tx, [lease], HORIZON)
        raise Undone

    try:
        story.unit(write)
    except BudgetExceeded as refusal:
        return refusal.over
    except Undone:
        return None
    raise AssertionError


def left_of(shown: list[Usage], limit: SpendingLimit) -> int:
    """What is left of a limit, as it is shown."""
    (found,) = [each for each in shown if each.limit.id == limit.id and each.limit.amount]
    return found.left


def compared(story: Story, asked: Counter[str]) -> None:
    """One random demand: the calls say before what the reservation gets."""
    chosen = story.random
    caller = Caller(project=chosen.choice(PROJECTS), key_id=chosen.choice(KEYS))
    calls: Any = SpendingLimits(Asking(story), "no_new")  # type: ignore[arg-type]
    shown = [each.usage for each in at_once(calls.windows(caller))[0]]
    strict = [each for each in story.limits if each.covers(caller.project, caller.key_id)]
    assert {each.limit.id for each in shown if each.limit.amount} == {each.id for each in strict}
    least = min([left_of(shown, each) for each in strict], default=story.random.randint(0, 10 * SECOND))
    # A quarter of an hour is as short as the shortest window, so it is held whole in each of them.
    lasts = timedelta(seconds=chosen.randint(1, 900))
    hours = lasts / timedelta(hours=1)
    rate = max(1, round(least / hours * chosen.choice((0.5, 0.999, 1.001, 2)))) if least > 0 else chosen.randint(1, 9)
    needs = cost(rate, lasts // timedelta(microseconds=1))
    answer = at_once(calls.check(caller, Micro(needs)))
    assert {each.limit.id for each in answer} == {each.id for each in strict if left_of(shown, each) < needs}
    over = refused(story, caller, rate, lasts)
    if (story.now + lasts).month == story.now.month:
        assert (None if over is None else over.limit.id) == (answer[0].limit.id if answer else None)
        asked["refused" if over else "admitted"] += 1
    elif over is not None and not answer:
        assert not over.limit.window.length, "only a later month refuses what is left now"


@pytest.mark.seeds(2, 200)
def test_a_check_says_of_any_amount_what_a_reservation_gets(seed: int) -> None:
    story, asked = Story(seed), Counter[str]()
    try:
        for _ in range(70):
            story.step()
            compared(story, asked)
    finally:
        story.close()
    assert asked["admitted"] > 5
    assert asked["refused"] > 5
