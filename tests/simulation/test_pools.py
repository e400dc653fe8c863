"""Some stories of `make pools`, forty with --all-seeds; and checks of the simulation."""

import pytest

from tests.simulation.audit import Violation
from tests.simulation.drill import run as drilled
from tests.simulation.pools import run
from tests.simulation.pools_weather import weather_of


@pytest.mark.seeds(3, 40)
def test_no_volume_has_two_writers_and_every_pool_comes_to_rest(seed: int):
    try:
        report = run(seed)
    except Violation as violation:
        pytest.fail(f"seed {seed}: {violation}\nreplay: make pools SEED={seed}")
    assert report.incidents > 0


@pytest.mark.seeds(0, 3)
def test_the_same_seed_gives_the_same_story(seed: int):
    assert run(seed) == run(seed)


def test_stories_share_or_do_not_share_volumes_and_have_crashes_pauses_and_faults():
    weathers = [weather_of(seed) for seed in range(100)]
    assert {each.sharing for each in weathers} == {"allow", "refuse"}
    assert {each.paused for each in weathers} == {True, False}
    assert {each.crash_rate > 0 for each in weathers} == {True, False}
    assert max(each.pools for each in weathers) > 1
    assert min(each.returns for each in weathers) < 1.0


def test_a_drill_fails_over_to_the_standby_every_time():
    drills = drilled(0, 2)
    assert (drills.failed, drills.most_writers, len(drills.outages)) == (0, 1, 2)
    assert all(0 < ours < outage for ours, outage in zip(drills.ours, drills.outages, strict=True))
