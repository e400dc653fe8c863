"""A failed machine is replaced on another host, unless another machine would fail too."""

from dataclasses import replace
from datetime import timedelta

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import CreationFailed, Unavailable
from gpuproxy.model.leases import Lease, LeaseState
from gpuproxy.model.offers import HostKey
from gpuproxy.rental.replacements import Replacement, failed_hosts, replacement
from tests.scenes import NOON, lease_of
from tests.world import KEYS, World, in_world

_SOON = timedelta(seconds=60)


def _failed(number: int, reason: str = "NOT_READY", **facts: object) -> Lease:
    return lease_of(number, state=LeaseState.RELEASED, reason=reason, **facts)


def _kept(number: int, **facts: object) -> Lease:
    return lease_of(number, **facts)


def test_missing_gpus_are_replaced():
    assert replacement(2, [_kept(1), _failed(2)], 2.0) == Replacement(gpus=1)


def test_gpus_that_the_owner_destroyed_are_not_missing():
    assert replacement(2, [_kept(1), _failed(2, "DESTROYED")], 2.0) == Replacement()


@pytest.mark.parametrize("reason", ["NOT_READY", "HOST_BROKEN", "IMAGE_UNUSABLE"])
def test_with_release_a_machine_that_is_not_ready_is_not_replaced(reason: str):
    rows = [_kept(1), _failed(2, reason)]
    assert replacement(2, rows, 2.0, "release") == Replacement()
    assert replacement(2, [_kept(1), _failed(2, "NOT_READY")], 2.0, "keep") == Replacement(gpus=1)


@pytest.mark.parametrize("reason", ["WRONG_GPU", "PRICE_MOVED", "OFFER_GONE"])
def test_with_release_other_failures_are_replaced(reason: str):
    assert replacement(2, [_kept(1), _failed(2, reason)], 2.0, "release") == Replacement(gpus=1)


def test_three_hosts_that_fail_in_the_same_way_stop_renting():
    rows = [_failed(number) for number in (1, 2, 3)]
    assert replacement(4, rows, 2.0) == Replacement(stopped="COMMON_CAUSE")


@pytest.mark.parametrize(
    "rows",
    [
        [_failed(1), _failed(2)],
        [_failed(1), _failed(2), _failed(3, "WRONG_GPU")],
        [_failed(1), _failed(2), _failed(3, host=HostKey("vast.ai/1"))],
        [_failed(1), _failed(2), _failed(3, ready_at=NOON)],
    ],
    ids=["two hosts", "other reasons", "the same host twice", "one that was ready"],
)
def test_fewer_hosts_or_different_reasons_or_one_success_are_no_common_cause(rows: list[Lease]):
    assert replacement(4, rows, 2.0).stopped == ""


def test_an_unusable_image_stops_renting_at_once():
    assert replacement(4, [_failed(1, "IMAGE_UNUSABLE")], 2.0) == Replacement(stopped="IMAGE_UNUSABLE")


def test_an_image_that_works_on_another_host_is_not_at_fault():
    rows = [_failed(1, "IMAGE_UNUSABLE"), _kept(2, state=LeaseState.ACTIVE, ready_at=NOON)]
    assert replacement(2, rows, 2.0) == Replacement(gpus=1)


def test_a_reservation_never_rents_more_than_twice_its_gpus():
    rows = [_failed(1, num_gpus=2), _failed(2, "WRONG_GPU", num_gpus=2), _failed(3, "PRICE_MOVED", num_gpus=2)]
    assert replacement(4, rows, 2.0) == Replacement(gpus=2)
    rows.append(_failed(4, "HOST_BROKEN", num_gpus=2))
    assert replacement(4, rows, 2.0) == Replacement(stopped="REPLACEMENT_LIMIT")
    assert replacement(4, rows, 3.0) == Replacement(gpus=4)


def test_refused_creates_count_nothing_and_unknown_creates_count_towards_the_limit():
    refused = [replace(_failed(n, "OFFER_GONE"), instance_id=None, state=LeaseState.FAILED) for n in range(9)]
    assert replacement(1, refused, 2.0) == Replacement(gpus=1)
    unknown = lease_of(1, instance_id=None, state=LeaseState.UNKNOWN, num_gpus=3)
    assert replacement(4, [unknown, _failed(2, num_gpus=4)], 2.0) == Replacement(gpus=1)


def test_failed_hosts_include_no_host_that_refused_or_worked():
    gone = replace(_failed(3, "OFFER_GONE"), instance_id=None, state=LeaseState.FAILED)
    rows = [_failed(1), lease_of(2, state=LeaseState.LOST), gone, _kept(4), _failed(5, "DESTROYED")]
    assert failed_hosts(rows) == {"vast.ai/1", "vast.ai/2"}


# -- in a world


def test_a_common_cause_ends_a_call_with_at_most_twice_its_gpus():
    async def story(world: World) -> None:
        world.arm("create", "never_ready", times=0)
        with pytest.raises(CreationFailed, match="failed in the same way on several hosts") as failed:
            await world.reserve(4, wait_for="ready", ready_timeout=_SOON, seconds=1800, request_id="a")
        assert failed.value.metadata["stopped"] == "COMMON_CAUSE"
        assert world.created() <= 8
        await world.sleep(300)
        assert world.alive() == {}

    in_world(story)


def test_one_bad_host_is_replaced_by_another_and_the_reservation_is_filled():
    async def story(world: World) -> None:
        world.arm("create", "never_ready", times=1)
        made = await world.reserve(4, wait_for="ready", ready_timeout=_SOON, seconds=1800)
        assert sum(lease.offered.num_gpus for lease in made.kept) == 4
        failed = {lease.offered.host for lease in made.leases if lease.reason == "NOT_READY"}
        assert len(failed) == 1
        assert failed.isdisjoint(lease.offered.host for lease in made.kept)
        assert world.created() == 5

    in_world(story)


def test_a_replacement_never_goes_to_a_host_that_failed_this_reservation():
    async def story(world: World) -> None:
        world.arm("create", "never_ready", times=2)
        made = await world.reserve(3, wait_for="ready", ready_timeout=_SOON, seconds=3600, strategy="lowest_price")
        hosts = [lease.offered.host for lease in made.leases if lease.reason == "NOT_READY"]
        assert len(hosts) == len(set(hosts)) == 2
        assert set(hosts).isdisjoint(lease.offered.host for lease in made.kept)

    in_world(story)


def test_the_message_says_that_the_limit_was_reached():
    async def story(world: World) -> None:
        world.arm("create", "never_ready", times=0)
        with pytest.raises(CreationFailed, match="GPUPROXY_REPLACEMENT_FACTOR"):
            await world.reserve(1, wait_for="ready", ready_timeout=_SOON, seconds=1800)
        assert world.created() == 2

    in_world(story)


# -- a create that the marketplace wants later


def test_a_rate_limited_create_waits_and_is_no_failed_attempt():
    async def story(world: World) -> None:
        world.arm("create", "rate_limited", times=2, retry_after=5)
        made = await world.reserve(2, request_id="a")
        assert [(lease.state, lease.reason) for lease in made.leases] == [(LeaseState.STARTING, "")] * 2
        assert world.created() == 2
        assert world.calls("create") == 4
        await world.books_agree()

    in_world(story)


def test_a_waiting_create_is_shown_as_waiting():
    async def story(world: World) -> None:
        world.arm("create", "rate_limited", times=1, retry_after=30)
        made = await world.reserve(1, wait=False)
        await world.sleep(5)
        [lease] = (await world.view(made.reservation.id)).leases
        assert lease.state is LeaseState.REQUESTED
        assert lease.creation.call_started_at is None
        assert "wants fewer creates" in lease.observed.status_message
        await world.sleep(60)
        assert len((await world.view(made.reservation.id)).kept) == 1

    in_world(story)


def test_a_waiting_create_that_its_owner_releases_is_never_sent():
    async def story(world: World) -> None:
        world.arm("create", "rate_limited", times=1, retry_after=30)
        made = await world.reserve(1, wait=False)
        await world.sleep(5)
        await world.engine.reservations.release(Caller(project="p1"), made.reservation.id)
        await world.sleep(120)
        assert world.calls("create") == 1
        assert (await world.live()) == []

    in_world(story)


def test_a_crash_while_a_create_waits_sends_nothing_more():
    async def story(world: World) -> None:
        world.arm("create", "rate_limited", times=1, retry_after=30)
        made = await world.reserve(1, wait=False)
        await world.sleep(5)
        await world.restart()
        await world.sleep(60)
        [lease] = (await world.view(made.reservation.id)).leases
        assert (lease.state, lease.reason) == (LeaseState.FAILED, "INTERRUPTED")
        assert world.created() == 0

    in_world(story)


def test_a_crash_before_any_create_was_sent_leaves_the_request_id_free_for_a_repeat():
    async def story(world: World) -> None:
        world.arm("create", "rate_limited", times=1, retry_after=30)
        first = await world.reserve(1, request_id="mine", wait=False)
        await world.sleep(5)
        await world.restart()
        await world.sleep(60)
        assert (await world.view(first.reservation.id)).reservation.failure is not None
        again = await world.reserve(1, request_id="mine")
        assert len(again.kept) == world.created() == 1
        assert again.reservation.id != first.reservation.id

    in_world(story)


def test_a_crash_after_a_create_was_sent_keeps_the_request_id():
    async def story(world: World) -> None:
        world.arm("create", "hang_after", times=1, seconds=50)
        first = await world.reserve(1, request_id="mine", wait=False)
        await world.sleep(5)
        await world.restart()
        again = await world.reserve(1, request_id="mine")
        await world.sleep(120)
        assert again.reservation.id == first.reservation.id
        assert world.created() == 1

    in_world(story)


# -- what is held against whom


@pytest.mark.parametrize("fault", ["insufficient_credit", "auth_error"])
def test_refusals_of_one_account_do_not_exclude_the_marketplace(fault: str):
    async def story(world: World) -> None:
        body = {"provider": "vast.ai", "account": KEYS[0], "call": "create", "fault": fault, "times": 0}
        world.control("POST", "faults", body)
        made = await world.reserve(4)
        assert sum(lease.offered.num_gpus for lease in made.kept) == 4
        assert {lease.account for lease in made.kept} == {"vast-2"}

    in_world(story, accounts=2)


def test_refusals_of_the_request_itself_exclude_the_marketplace():
    async def story(world: World) -> None:
        world.arm("create", "status_before", times=0, status=400, msg="bad request", error="invalid_args")
        with pytest.raises(CreationFailed):
            await world.reserve(4)
        assert world.calls("create") <= 8

    in_world(story, accounts=2)


def test_a_create_that_would_wait_past_its_deadline_uses_another_account():
    async def story(world: World) -> None:
        body = {"provider": "vast.ai", "account": KEYS[0], "call": "create", "fault": "rate_limited", "times": 0}
        world.control("POST", "faults", {**body, "args": {"retry_after": 250}})
        made = await world.reserve(2, seconds=60)
        assert sum(lease.offered.num_gpus for lease in made.kept) == 2
        assert {lease.account for lease in made.kept} == {"vast-2"}
        assert made.reservation.created_at + timedelta(seconds=10) > world.books_clock.now()

    in_world(story, accounts=2)


def test_a_call_that_would_wait_at_every_account_gets_the_wait_in_its_error():
    async def story(world: World) -> None:
        world.arm("create", "rate_limited", times=0, retry_after=250)
        with pytest.raises(Unavailable) as refused:
            await world.reserve(2, seconds=60)
        assert refused.value.reason == "CREATE_QUEUE"
        assert 200 < float(refused.value.metadata["queue_seconds"]) <= 260
        assert world.created() == 0

    in_world(story)


@pytest.mark.parametrize(("how", "kept", "attempts"), [("release", 1, 2), ("replace", 2, 3), ("keep", 2, 2)])
def test_what_becomes_of_a_machine_that_is_not_ready_is_what_the_caller_chose(how: str, kept: int, attempts: int):
    async def story(world: World) -> None:
        world.arm("create", "never_ready", times=1)
        wanted = {"on_not_ready": how, "wait_for": "ready", "ready_timeout": timedelta(seconds=300)}
        view = await world.reserve(2, seconds=2_000, request_id="one", **wanted)
        assert (len(view.kept), len(view.leases)) == (kept, attempts)
        await world.sleep(600)
        assert len(world.alive()) == kept

    in_world(story)
