"""Schedules of `make fairness`, and a negative twin in which projects do not take turns. They run in `make seeds`."""

import pytest

from gpuproxy.runtime.turns import FairTurns
from tests.simulation.crowd import run
from tests.simulation.logs import errors_logged


@pytest.mark.seeds(0, 3)
def test_a_flood_of_one_project_is_hardly_noticed_by_another(seed: int):
    with errors_logged() as errors:
        waits = run(seed)
    assert waits.fair, waits
    assert waits.flooded > 50
    assert errors == []


@pytest.mark.sampled(0)
def test_without_turns_between_projects_it_is_noticed(monkeypatch: pytest.MonkeyPatch):
    take = FairTurns._take
    monkeypatch.setattr(FairTurns, "_take", lambda turns, _project: take(turns, "all"))
    with errors_logged():
        assert not run(0).fair
