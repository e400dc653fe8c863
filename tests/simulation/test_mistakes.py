"""The mistakes of `make bite` can still be planted, and one of them is caught here."""

import asyncio

import pytest

from gpuproxy.reconcile import absence
from scripts import bite
from scripts.bite import ROOT
from scripts.mistakes import MISTAKES
from scripts.planting import Mistake
from tests.simulation.audit import Violation
from tests.simulation.story import run


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_planted_mistake_is_valid_source(mistake: Mistake):
    source = (ROOT / "gpuproxy" / mistake.file).read_text()
    planted = mistake.applied(source)
    if mistake.file.endswith(".py"):
        compile(planted, mistake.file, "exec")
    else:
        assert planted != source


def test_there_are_at_least_twelve():
    assert len({mistake.name for mistake in MISTAKES}) >= 12


def test_a_mistake_that_does_not_apply_is_an_error():
    with pytest.raises(ValueError, match="0 times"):
        MISTAKES[0].applied("something else")


def test_proving_absence_without_a_listing_that_says_so_is_caught(monkeypatch):
    monkeypatch.setattr(absence, "may_be_proven", lambda lease, scene: True)
    monkeypatch.setattr(absence, "ABSENT_LISTINGS", 1)
    with pytest.raises(Violation):
        for seed in range(200):
            run(seed)


def test_a_process_that_dies_has_no_more_effects():
    from tests.mortal import Life

    life = Life(2)
    life.passes_point()
    with pytest.raises(asyncio.CancelledError):
        life.passes_point()
    with pytest.raises(asyncio.CancelledError):
        life.goes_on()


@pytest.mark.sampled(0)
def test_a_copy_without_mistakes_can_be_tested(tmp_path):
    """Otherwise every planted mistake would seem to be caught."""
    bite._copy_to(tmp_path)
    assert bite._complaint(tmp_path, (*bite._TESTS, "--collect-only", *bite._folders(bite._ROOMS))) is None
