"""Random operations on the model and the store: spent + held <= limit at every commit."""

import pytest

from tests.store.spending.operations import run


@pytest.mark.parametrize("seed", range(6))
def test_no_commit_of_random_operations_exceeds_a_limit(seed: int):
    story = run(seed, 90)
    assert story.done["rent"] > 0
    assert story.done["tick"] > 3
    assert story.checks >= 90


@pytest.mark.parametrize(("seed", "operations"), [(23, 180), (53, 185)])
def test_a_booking_that_is_known_in_the_next_month_does_not_count_there(seed: int, operations: int):
    """Stories in which it did."""
    assert run(seed, operations).done["outcome"] > 3


def test_the_operations_fill_limits():
    assert max(run(seed, 80).fullest for seed in range(100, 104)) > 0.9
