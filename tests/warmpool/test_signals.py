"""What one check says about a primary, and when several checks are a verdict."""

import itertools

import pytest

from gpuproxy.ports import InstanceStatus, ListedInstance
from gpuproxy.reconcile.listings import Listing
from gpuproxy.warmpool.signals import MATRIX, Answer, Api, Health, Signal, after_check, opinion
from tests.warmpool.scenes import NOW, S, at, lease

LOST = {(Api.ENDED, Answer.SILENT), (Api.MISSING, Answer.SILENT)}
"""Only these two count towards a failover."""


def listing(status: InstanceStatus | None, *, age: float = 1.0, unreadable: tuple[str, ...] = ()) -> Listing:
    shown = ListedInstance(
        id=lease("primary", S.ACTIVE).instance_id or "", label="primary", status=status or InstanceStatus.UNSURE,
        raw_status="",
    )  # type: ignore[call-arg]  # fmt: skip
    return Listing(at(age), () if status is None else (shown,), unreadable)


def test_every_pair_of_opinions_has_one_meaning():
    assert set(MATRIX) == set(Api)
    assert all(set(row) == set(Answer) for row in MATRIX.values())


@pytest.mark.parametrize(("api", "answer"), list(itertools.product(Api, Answer)))
def test_a_failover_needs_both_opinions(api: Api, answer: Answer):
    assert (MATRIX[api][answer] is Signal.LOST) == ((api, answer) in LOST)


@pytest.mark.parametrize("api", Api)
def test_a_machine_that_answers_is_healthy_whatever_the_marketplace_says(api: Api):
    assert MATRIX[api][Answer.ANSWERS] is Signal.HEALTHY


@pytest.mark.parametrize("api", Api)
def test_a_check_without_a_probe_does_not_count(api: Api):
    assert MATRIX[api][Answer.NOT_PROBED] is Signal.NONE


def test_a_silent_marketplace_is_no_opinion():
    assert MATRIX[Api.NO_OPINION][Answer.SILENT] is Signal.NONE


@pytest.mark.parametrize(
    ("status", "api"),
    [
        (InstanceStatus.RUNNING, Api.RUNNING),
        (InstanceStatus.PENDING, Api.BOOTING),
        (InstanceStatus.STOPPED, Api.STOPPED),
        (InstanceStatus.BROKEN, Api.ENDED),
        (InstanceStatus.OFFLINE, Api.OFFLINE),
        (InstanceStatus.UNSURE, Api.NO_OPINION),
        (None, Api.MISSING),
    ],
)
def test_the_opinion_of_a_fresh_listing(status: InstanceStatus | None, api: Api):
    assert opinion(lease("primary", S.ACTIVE), listing(status), at(6)) is api


def test_an_old_listing_has_no_opinion():
    assert opinion(lease("primary", S.ACTIVE), listing(InstanceStatus.BROKEN, age=7), at(6)) is Api.NO_OPINION


def test_no_listing_has_no_opinion():
    assert opinion(lease("primary", S.ACTIVE), None, at(6)) is Api.NO_OPINION


def test_a_listing_with_unreadable_rows_does_not_prove_that_a_machine_is_missing():
    assert opinion(lease("primary", S.ACTIVE), listing(None, unreadable=("row 1",)), at(6)) is Api.NO_OPINION


def checked(*signs: tuple[Api, Answer], checks_of_a_listing: int = 1) -> Health:
    """The health after checks every 2 s, of which so many have the same listing."""
    health = Health()
    for number, (api, answer) in enumerate(signs):
        listed_at = at(1000 - number // checks_of_a_listing)
        health = after_check(health, api, answer, at(2.0 * (len(signs) - number)), listed_at)
    return health


DEAD = (Api.ENDED, Answer.SILENT)
BLIND = (Api.NO_OPINION, Answer.SILENT)
GOOD = (Api.RUNNING, Answer.ANSWERS)


@pytest.mark.parametrize(
    ("signs", "verdict"),
    [
        ([DEAD, DEAD, DEAD], True),
        ([DEAD, DEAD], False),
        ([DEAD, DEAD, GOOD, DEAD], False),
        ([DEAD, DEAD, BLIND, DEAD], True),
        ([DEAD, BLIND, BLIND, BLIND], False),
        ([BLIND] * 9, False),
        ([(Api.RUNNING, Answer.SILENT)] * 9, False),
        ([(Api.OFFLINE, Answer.SILENT)] * 9, False),
        ([(Api.MISSING, Answer.SILENT), DEAD, DEAD], True),
    ],
)
def test_three_failures_in_a_row_are_a_verdict(signs: list[tuple[Api, Answer]], verdict: bool):
    assert checked(*signs).is_verdict(Signal.LOST, 3) is verdict


@pytest.mark.parametrize(("checks_of_a_listing", "verdict"), [(1, True), (2, True), (3, False)])
def test_three_checks_with_a_single_listing_are_no_verdict(checks_of_a_listing: int, verdict: bool):
    health = checked(DEAD, DEAD, DEAD, checks_of_a_listing=checks_of_a_listing)
    assert health.is_verdict(Signal.LOST, 3) is verdict


def test_a_machine_that_answers_is_healthy_without_a_second_listing():
    assert checked(GOOD, GOOD, checks_of_a_listing=2).is_verdict(Signal.HEALTHY, 2)


def test_a_check_without_an_opinion_still_shows_when_it_was_made():
    health = after_check(checked(GOOD), *BLIND, NOW, None)
    assert (health.signal, health.checks, health.checked_at) == (Signal.HEALTHY, 1, NOW)


def test_the_last_good_answer_is_kept():
    assert checked(GOOD, DEAD, DEAD).good_at == at(6)
