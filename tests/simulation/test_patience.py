"""Some stories of patient callers, a hundred with --all-seeds; `make simulate` tells ten thousand."""

import pytest

from gpuproxy.rental import replacements
from tests.simulation import patience
from tests.simulation.audit import Violation


@pytest.mark.seeds(12, 100)
def test_little_is_rented_where_all_fails_and_everything_is_filled_where_one_host_does(seed: int):
    try:
        patience.run(seed)
    except Violation as violation:
        pytest.fail(f"seed {seed}: {violation}\nreplay: make simulate SEED={seed}")


def test_every_cause_in_common_occurs():
    assert {patience.cause_of(seed) for seed in range(0, 90, 3)} == set(patience.CAUSES)


def test_without_a_bound_and_a_cause_in_common_the_stories_complain(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(replacements, "_ALIKE", 1000)
    unbound = replacements.replacement
    monkeypatch.setattr(replacements, "replacement", lambda count, rows, _factor: unbound(count, rows, 1000.0))
    with pytest.raises(Violation):
        for seed in range(0, 30, 3):
            patience.run(seed)
