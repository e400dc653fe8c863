"""Regression tests for ways to lose money that were found by attacking the server."""

import json
from contextlib import suppress
from datetime import timedelta

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import Refusal
from gpuproxy.model.leases import LeaseState, SshAddress
from gpuproxy.model.money import Micro
from gpuproxy.ports import Blame, HttpRequest, InstanceStatus
from tests.scenes import Account, lease_of, reasons, reservation_of, row
from tests.world import World, in_world

pytestmark = pytest.mark.long

LOADING = row(InstanceStatus.PENDING)
REFUSED_PULL = row(InstanceStatus.PENDING, blame=Blame.IMAGE, status_message="pull access denied")


def test_a_machine_with_alternating_objections_is_released_at_its_ready_timeout():
    account = Account(lease_of(), reservation_of(ready_timeout_s=120.0))
    told = [reasons(account.sees(s, REFUSED_PULL if s % 4 else LOADING)) for s in range(0, 1200, 2)]
    assert any(told)


def test_a_machine_that_never_runs_and_changes_its_gpu_name_is_released_at_its_ready_timeout():
    account = Account(lease_of(), reservation_of(ready_timeout_s=120.0))
    other = row(InstanceStatus.PENDING, gpu_model="RTX 4090 D")
    told = [reasons(account.sees(s, other if s % 4 else LOADING)) for s in range(0, 1200, 2)]
    assert any(told)


def test_the_first_listed_price_is_checked_also_for_a_ready_machine():
    account = Account(lease_of(price=Micro(300_000), ceiling=Micro(500_000)))
    steps = account.sees(2, row(InstanceStatus.RUNNING, ssh=(SshAddress("h", 22),), price=None))
    account.applies(steps)
    account.lease = lease_of(state=LeaseState.ACTIVE, ready_at=lease_of().created_at + timedelta(seconds=3))
    assert reasons(account.sees(60, row(InstanceStatus.RUNNING, price=Micro(5_000_000)))) == ["PRICE_MOVED"]


def test_a_create_is_not_sent_again_while_the_market_lists_a_machine_under_its_label():
    async def story(world: World) -> None:
        world.arm("create", "status_429_after", times=0, msg="API requests too frequent")
        again: list[str] = []

        def hear(request: HttpRequest) -> None:
            if request.method == "PUT" and "/asks/" in request.url:
                label = json.loads(request.body or b"{}")["label"]
                if any(each["label"] == label for each in world.market["instances"]):
                    again.append(label)

        world.overhear.append(hear)
        with suppress(Refusal):
            await world.reserve(4, seconds=600, request_id="a")
        assert again == []

    in_world(story, paced=True)


def test_a_machine_hidden_from_listings_is_released_at_its_ready_timeout():
    async def story(world: World) -> None:
        world.arm("list", "empty_list", times=0)
        made = await world.reserve(1, request_id="a", ready_timeout=timedelta(seconds=60))
        await world.sleep(900)
        lease = (await world.view(made.reservation.id)).leases[0]
        assert lease.state in (LeaseState.ACTIVE, LeaseState.RELEASING, LeaseState.RELEASED), lease.state

    in_world(story)


def test_a_destroyed_machine_that_reads_report_as_not_found_in_text_is_released():
    async def story(world: World) -> None:
        made = await world.reserve(1, request_id="a")
        await world.sleep(90)
        for call in ("get", "destroy"):
            world.arm(call, "gone_as", times=0, form="plain_404")
        contract = (await world.view(made.reservation.id)).leases[0].instance_id
        await world.engine.reservations.release(Caller(project="p1"), made.reservation.id)
        await world.sleep(1200)
        assert str(contract) not in world.alive()
        assert (await world.view(made.reservation.id)).leases[0].state is LeaseState.RELEASED

    in_world(story)


def test_a_machine_listed_twice_does_not_hide_others():
    async def story(world: World) -> None:
        made = await world.reserve(1, request_id="a")
        await world.sleep(90)
        world.arm("list", "odd_row", times=0, kind="null_fields", whose="mine")
        await world.engine.reservations.release(Caller(project="p1"), made.reservation.id)
        await world.sleep(120)
        assert (await world.view(made.reservation.id)).leases[0].state is LeaseState.RELEASED

    in_world(story)


def test_after_a_restart_machines_are_reconciled_although_the_account_can_not_be_identified():
    async def story(world: World) -> None:
        made = await world.reserve(1, request_id="a")
        await world.sleep(60)
        world.arm("user", "status_502_before", times=0)
        await world.restart()
        await world.sleep(30)
        assert next(iter(world.engine.watches)).silent_since is None
        await world.engine.reservations.release(Caller(project="p1"), made.reservation.id)
        await world.sleep(120)
        assert world.alive() == {}

    in_world(story)


def test_a_machine_that_only_a_read_shows_makes_a_listing_no_more_believable():
    async def story(world: World) -> None:
        await world.reserve(1, request_id="known")
        await world.sleep(90)
        world.arm("list", "empty_list", times=0)
        world.arm("create", "late_effect", seconds=290)
        made = await world.reserve(1, request_id="a")
        await world.sleep(285)
        assert (await world.view(made.reservation.id)).leases[0].state is LeaseState.UNKNOWN
        await world.sleep(1200)
        assert (await world.view(made.reservation.id)).leases[0].state is LeaseState.UNKNOWN
        world.control("DELETE", "faults")
        await world.sleep(60)
        assert (await world.view(made.reservation.id)).leases[0].state in (LeaseState.STARTING, LeaseState.ACTIVE)

    in_world(story)


def test_a_machine_found_after_a_429_is_destroyed_when_its_reservation_is_released():
    async def story(world: World) -> None:
        world.arm("create", "status_429_after", times=1, msg="API requests too frequent")
        made = await world.reserve(1, request_id="a", wait=False)
        await world.sleep(20)
        [lease] = (await world.view(made.reservation.id)).leases
        assert lease.state is LeaseState.STARTING
        world.arm("list", "empty_list", times=0)
        await world.engine.reservations.release(Caller(project="p1"), made.reservation.id)
        await world.sleep(30)
        assert world.alive() == {}
        assert world.created() == 1

    in_world(story)
