"""No machine is released because of a single listing or probe."""

from dataclasses import replace
from datetime import timedelta

import pytest

from gpuproxy.model.leases import LeaseEvent, LeaseState, SshAddress
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import HostKey
from gpuproxy.ports import Blame, InstanceStatus, ListedInstance
from gpuproxy.reconcile.doubts import Unanswered
from gpuproxy.reconcile.steps import ProbeReady
from tests.scenes import NOON, VAST, Account, events, lease_of, reasons, reservation_of, row

STOPPED, BROKEN = row(InstanceStatus.STOPPED), row(InstanceStatus.BROKEN)
RUNNING = row(InstanceStatus.RUNNING, ssh=(SshAddress("h", 22),))
OTHER = row(gpu_model="RTX 4090 D")
WRONG = [(STOPPED, "NOT_READY"), (BROKEN, "NOT_READY"), (OTHER, "WRONG_GPU")]


@pytest.mark.parametrize(("odd", "reason"), WRONG)
def test_a_new_machine_that_looks_wrong_for_forty_seconds_is_kept(odd: ListedInstance, reason: str):
    account = Account(lease_of())
    for seconds in range(0, 40, 2):
        steps = account.sees(seconds, odd)
        assert reasons(steps) == [], reason
        assert LeaseEvent.PARKED not in events(steps)
    assert any(isinstance(step, ProbeReady) for step in account.sees(40, RUNNING))


@pytest.mark.parametrize(("odd", "reason"), WRONG)
def test_a_new_machine_that_looks_wrong_in_every_listing_for_two_minutes_is_released(odd: ListedInstance, reason: str):
    account = Account(lease_of())
    told = {seconds: reasons(account.sees(seconds, odd)) for seconds in range(0, 124, 2)}
    assert next(seconds for seconds, given in told.items() if given == [reason]) == 120


@pytest.mark.parametrize(("odd", "_"), WRONG)
def test_two_listings_far_apart_are_no_verdict(odd: ListedInstance, _: str):
    account = Account(lease_of())
    assert reasons(account.sees(0, odd)) == []
    assert reasons(account.sees(500, odd)) == []


@pytest.mark.parametrize(("odd", "_"), WRONG)
def test_one_listing_that_disagrees_restarts_the_count(odd: ListedInstance, _: str):
    account = Account(lease_of())
    for seconds in range(0, 600, 2):
        assert reasons(account.sees(seconds, RUNNING if seconds % 100 == 98 else odd)) == []


def test_listings_without_a_clear_status_neither_clear_nor_confirm_a_doubt():
    account = Account(lease_of())
    for seconds in range(0, 100, 2):
        account.sees(seconds, STOPPED)
    for seconds in range(100, 200, 2):
        offline = row(InstanceStatus.OFFLINE)
        assert reasons(account.sees(seconds, *([offline] if seconds % 4 else []))) == []
    assert reasons(account.sees(200, STOPPED)) == ["NOT_READY"]


def test_a_machine_of_another_model_is_not_ready_until_a_listing_clears_it():
    account = Account(lease_of())
    other = replace(RUNNING, gpu_model="RTX 4090 D")
    assert not any(isinstance(step, ProbeReady) for step in account.sees(0, other))
    assert any(isinstance(step, ProbeReady) for step in account.sees(2, RUNNING))


def test_a_machine_that_was_ready_gets_no_objections_any_more():
    account = Account(lease_of(state=LeaseState.ACTIVE, ready_at=NOON))
    for seconds in range(0, 300, 2):
        assert reasons(account.sees(seconds, OTHER)) == []


def test_too_high_a_price_is_judged_on_the_first_listing():
    dear = replace(RUNNING, price=Micro(500_002))
    assert reasons(Account(lease_of()).sees(0, dear)) == ["PRICE_MOVED"]
    assert reasons(Account(lease_of()).sees(0, replace(dear, price=Micro(500_000)))) == []


def test_a_price_at_the_limit_passes_although_the_listing_rounds_it_up_and_no_higher_one_does():
    limit = lease_of().creation.ceiling
    for price, expected in ((limit, []), (limit + 1, []), (limit + 2, ["PRICE_MOVED"])):
        assert reasons(Account(lease_of()).sees(0, row(price=Micro(price)))) == expected


@pytest.mark.parametrize(("blame", "reason"), [(Blame.IMAGE, "IMAGE_UNUSABLE"), (Blame.HOST, "HOST_BROKEN")])
def test_a_fault_in_the_status_message_releases_a_machine_early_but_not_after_one_listing(blame: Blame, reason: str):
    account = Account(lease_of())
    told = {s: reasons(account.sees(s, row(blame=blame, status_message="pull access denied"))) for s in range(0, 14, 2)}
    assert [seconds for seconds, given in told.items() if given] == [10, 12]
    assert told[10] == [reason]


def test_a_fault_that_is_not_repeated_releases_nothing():
    account = Account(lease_of())
    for seconds in range(0, 60, 2):
        blamed = row(blame=Blame.HOST if seconds % 10 == 0 else None)
        assert reasons(account.sees(seconds, blamed)) == []


@pytest.mark.parametrize("odd", [STOPPED, row(blame=Blame.IMAGE), row()])
def test_a_machine_that_does_not_get_ready_is_kept_if_its_owner_wants_that(odd: ListedInstance):
    account = Account(lease_of(), reservation_of(replace_unready=False))
    for seconds in range(0, 2000, 10):
        assert reasons(account.sees(seconds, odd)) == []


def test_a_stopped_machine_that_is_to_be_kept_counts_as_stopped_after_the_same_time():
    account = Account(lease_of(), reservation_of(replace_unready=False))
    told = {seconds: events(account.sees(seconds, STOPPED)) for seconds in range(0, 124, 2)}
    assert next(seconds for seconds, given in told.items() if given) == 120
    assert told[120] == [LeaseEvent.PARKED]


# -- at the deadline


@pytest.mark.parametrize("status", [InstanceStatus.PENDING, InstanceStatus.OFFLINE, InstanceStatus.UNSURE])
def test_a_machine_that_does_not_run_at_its_ready_timeout_is_checked_three_times(status: InstanceStatus):
    account = Account(lease_of())
    told = {seconds: reasons(account.sees(seconds, row(status))) for seconds in (899, 900, 902, 928, 930)}
    assert [seconds for seconds, given in told.items() if given] == [930]


def test_after_a_long_time_without_answers_one_listing_releases_no_machine():
    account = Account(lease_of())
    assert reasons(account.hears_nothing(2000)) == []
    assert reasons(account.sees(2002, row())) == []


def _unanswered(probes: int, seconds: float, **facts: bool) -> Unanswered:
    first = NOON + timedelta(seconds=900)
    return Unanswered(
        (VAST, "vast-1"), HostKey("vast.ai/1"), first, first + timedelta(seconds=seconds), probes, first, **facts
    )


@pytest.mark.parametrize(
    ("probes", "seconds", "given"),
    [(1, 0, False), (2, 40, False), (9, 20, False), (3, 30, True)],
)
def test_an_unanswering_machine_is_probed_several_times_over_some_time(probes: int, seconds: float, given: bool):
    account = Account(lease_of())
    account.unanswered = {account.lease.id: _unanswered(probes, seconds)}
    assert reasons(account.sees(900 + seconds, RUNNING)) == (["NOT_READY"] if given else [])


@pytest.mark.parametrize(("seconds", "given"), [(30, False), (590, False), (600, True)])
def test_while_our_own_network_is_suspected_no_machine_is_released_for_ten_minutes(seconds: float, given: bool):
    account = Account(lease_of())
    account.unanswered = {account.lease.id: _unanswered(30, seconds, network_suspected=True)}
    assert reasons(account.sees(900 + seconds, RUNNING)) == (["NOT_READY"] if given else [])


def test_unanswered_probes_count_only_after_the_ready_timeout():
    account = Account(lease_of())
    late = [[step.late for step in account.sees(s, RUNNING) if isinstance(step, ProbeReady)] for s in (2, 899, 900)]
    assert late == [[False], [False], [True]]
