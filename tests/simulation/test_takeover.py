"""A process that is paused past its claims and resumes: some of the stories of `make simulate`, and checks of them."""

from contextlib import nullcontext

import pytest

from gpuproxy.runtime import fencing
from gpuproxy.store import claims
from tests.simulation import takeover
from tests.simulation.audit import Violation


@pytest.mark.seeds(4, 100)
def test_a_process_that_was_paused_past_its_claims_stops_before_its_next_effect(seed: int):
    try:
        takeover.run(seed)
    except Violation as violation:
        pytest.fail(f"seed {seed}: {violation}")


@pytest.mark.sampled(0)
def test_the_same_seed_gives_the_same_story_and_another_seed_another_one():
    first = takeover.run(1)
    assert takeover.run(1) == first
    assert takeover.run(2).digest != first.digest
    assert first.taken > 0
    assert first.faults > 0


def test_a_process_that_does_not_check_its_claims_is_noticed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(claims, "require", lambda _tx, _claim: None)
    monkeypatch.setattr(fencing, "under", lambda _holds: nullcontext())  # the second line: just before a request
    with pytest.raises(Violation):
        for seed in range(5, 35):  # 5 notices it
            takeover.run(seed)
