"""What an operator sees of the passes: the last one of each account, and the last ones that did something."""

from typing import get_args

from gpuproxy.model.demands import Caller
from gpuproxy.reconcile.passes import _WORDS, KEPT, Pass
from gpuproxy.reconcile.steps import Step
from tests.world import World, in_world


def of(world: World) -> tuple[Pass, list[Pass]]:
    (watch,) = world.engine.watches
    assert watch.passes.last is not None
    return watch.passes.last, list(watch.passes.with_steps)


def names(passes: list[Pass]) -> set[str]:
    return {name for each in passes for name, _ in each.steps}


def test_a_pass_says_what_it_listed_and_did() -> None:
    async def story(world: World) -> None:
        made = await world.reserve(2, wait_for="ready", seconds=900)
        await world.sleep(60)
        last, with_steps = of(world)
        assert (last.listed, last.leases, last.steps) == (len(made.leases), len(made.leases), [])
        assert (world.clock.now() - last.at).total_seconds() < 60
        assert "machine probed" in names(with_steps)
        assert [each.at for each in with_steps] == sorted((each.at for each in with_steps), reverse=True)
        world.control("POST", f"instances/{made.leases[0].instance_id}/kill", {"how": "container"})
        await world.sleep(60)
        assert "lease faltered" in names(of(world)[1])

    in_world(story)


def test_a_pass_without_an_answer_says_so_and_does_nothing_that_needs_one() -> None:
    async def story(world: World) -> None:
        await world.sleep(60)
        world.arm("list", "status_500_before", times=0)
        await world.sleep(120)
        last, with_steps = of(world)
        assert (last.listed, last.steps) == (None, [])
        assert with_steps == []

    in_world(story)


def test_only_the_last_passes_are_kept() -> None:
    async def story(world: World) -> None:
        for _ in range(3):
            view = await world.reserve(1, wait_for="ready", seconds=900)
            await world.engine.reservations.release(Caller(project="p1"), view.reservation.id)
            await world.sleep(60)
        assert 1 < len(of(world)[1]) <= KEPT

    in_world(story)


def test_every_step_has_words() -> None:
    assert {each.__name__ for each in get_args(Step)} - {each.__name__ for each in _WORDS} == {"Advance"}
