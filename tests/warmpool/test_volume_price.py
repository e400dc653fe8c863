"""A new volume whose listed price is above its limit is released before anything is rented for it, and never later."""

from dataclasses import replace
from typing import Any

import pytest

from gpuproxy.model.errors import Refusal
from gpuproxy.model.leases import LeaseState, Observed
from gpuproxy.model.money import Micro
from gpuproxy.model.pools import Degraded, PoolEvent, PoolState
from gpuproxy.model.reasons import Reason
from gpuproxy.ports.http import HttpRequest, HttpResponse
from gpuproxy.warmpool.deciding import decide
from gpuproxy.warmpool.scene import Change, RentMachine, RentVolume, Rest, Scene
from tests.scenes import NOON, Account, lease_of, reasons, row
from tests.warmpool.scenes import VOLUME, S, at, lease, scene
from tests.warmpool.test_deciding import event, reason, released
from tests.warmpool.test_life import provisioned, status
from tests.warmpool.test_recreate import volumes
from tests.world import World, in_world

P = PoolState


def first_provision(volume: LeaseState, primary: LeaseState | None = None, seconds: float = 5) -> Scene:
    """A pool that is provisioned for the first time; its volume exists for so many seconds."""
    ended = {"ended_at": at(1), "reason": Reason.PRICE_MOVED} if volume is S.RELEASED else {}
    made = lease("volume", volume, kind="volume", instance=VOLUME, started_at=at(seconds), **ended)
    facts = {"founded": False, "looked_at": None}
    return scene(state=P.PROVISIONING, primary=primary, standby=None, others=(made,), pool=facts)


@pytest.mark.parametrize("volume", [S.STARTING, S.RELEASING])
def test_no_machine_is_rented_for_a_volume_that_may_be_released_for_its_price(volume: LeaseState):
    assert decide(first_provision(volume)) == Rest(1.0)
    assert decide(first_provision(S.ACTIVE)) == RentMachine("primary")


def test_provisioning_fails_if_no_listing_shows_the_new_volume_in_time():
    assert decide(first_provision(S.STARTING, seconds=419)) == Rest(1.0)
    act = decide(first_provision(S.STARTING, seconds=421))
    assert (event(act), reason(act), released(act)) == (PoolEvent.FAILED, Degraded.PROVISION_FAILED, ["volume"])


@pytest.mark.parametrize(("seconds", "fails"), [(419, False), (421, True)])
def test_provisioning_fails_if_a_volume_that_is_released_is_not_deleted_in_time(seconds: float, fails: bool):
    waiting = first_provision(S.RELEASING)
    act = decide(replace(waiting, pool=replace(waiting.pool, step_began_at=at(seconds))))
    assert event(act) is PoolEvent.FAILED if fails else act == Rest(1.0)


def test_a_volume_that_was_released_for_its_price_is_a_failed_try():
    act = decide(first_provision(S.RELEASED))
    assert isinstance(act, Change)
    assert act.pool is not None
    assert (act.pool.tries, act.pool.error) == (1, "volume 1 was released: PRICE_MOVED")


@pytest.mark.parametrize("volume", [S.RELEASING, S.RELEASED, S.LOST])
@pytest.mark.parametrize("primary", [S.STARTING, S.ACTIVE, S.UNKNOWN])
def test_a_first_primary_does_not_outlive_its_volume(volume: LeaseState, primary: LeaseState):
    assert released(decide(first_provision(volume, primary))) == ["primary"]
    assert released(decide(first_provision(S.ACTIVE, primary))) == []


def test_another_volume_is_rented_while_the_primary_of_the_first_one_is_being_released():
    assert decide(first_provision(S.LOST, S.RELEASING)) == RentVolume()


@pytest.mark.parametrize("priced", [True, False])
@pytest.mark.parametrize("kind", ["machine", "volume"])
def test_a_volume_that_is_in_use_is_never_released_for_its_price(kind: Any, *, priced: bool):
    """A machine is if no listing has shown its price before."""
    old = lease_of(state=LeaseState.ACTIVE, ready_at=NOON)
    old = replace(old, kind=kind, observed=replace(old.observed, priced_at=NOON if priced else None))
    dear = row(price=Micro(old.creation.ceiling + 2))
    assert reasons(Account(old).sees(10, dear)) == (["PRICE_MOVED"] if kind == "machine" and not priced else [])


def test_a_new_volume_is_judged_by_the_first_price_that_is_listed():
    new = replace(lease_of(), kind="volume", observed=Observed(price=Micro(8), disk_price=Micro(8)))
    assert reasons(Account(new).sees(0, row(price=Micro(new.creation.ceiling + 2)))) == ["PRICE_MOVED"]
    assert reasons(Account(new).sees(0, row(price=new.creation.ceiling))) == []


def dearer(world: World, times: int) -> None:
    """The host raises the price of so many volumes as soon as they are rented."""
    left = [times]

    def raise_price(request: HttpRequest, _: HttpResponse) -> None:
        if request.method == "PUT" and request.url.rstrip("/").endswith("/volumes") and left[0]:
            left[0] -= 1
            newest = max(world.sandbox.market.volumes.all.values(), key=lambda each: each.id)
            newest.storage = int(newest.storage * 1.5)

    world.overhear_answers.append(raise_price)


def test_a_pool_gets_another_volume_if_the_price_of_the_first_one_has_moved():
    async def story(world: World) -> None:
        await world.sleep(5)
        dearer(world, 1)
        view = await provisioned(world)
        assert view.pool.state is P.ACTIVE
        assert view.volume is not None
        assert view.volume.state is LeaseState.ACTIVE
        first, second = volumes(world)
        assert (first[0], first[1] is None) == (0, False), "it was deleted, and nothing had it"
        assert second == (1, None)
        assert len(world.market["instances"]) == 2
        await world.sleep(3600)
        assert (await status(world)).pool.state is P.ACTIVE

    in_world(story, boot_time=(3.0, 5.0))


def test_provisioning_fails_and_costs_nothing_more_if_the_price_of_every_volume_moves():
    async def story(world: World) -> None:
        await world.sleep(5)
        dearer(world, 20)
        with pytest.raises(Refusal, match="PRICE_MOVED"):
            await provisioned(world)
        assert (await status(world)).pool.degraded is Degraded.PROVISION_FAILED
        await world.sleep(60)
        assert [(writers, deleted is None) for writers, deleted in volumes(world)] == [(0, False)] * 3
        assert world.market["instances"] == []

    in_world(story, boot_time=(3.0, 5.0))
