"""No machine counts as absent without proof, and no machine with our label stays without an owner."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.leases import LeaseState
from gpuproxy.ports import HttpRequest, HttpResponse
from tests.world import World, in_world

pytestmark = pytest.mark.long

P1 = Caller(project="p1")


def rent_by_hand(world: World, label: str | None, key: str = "sandbox-key") -> str:
    """Rent the cheapest offer with the account's key, without GPU Proxy."""
    answer = call(world, "POST", "/api/v0/bundles/", {"verified": {}, "order": [["dph_total", "asc"]], "limit": 1}, key)
    offer = answer["offers"][0]["id"]
    body = {"client_id": "me", "image": "x/y", "disk": 10, "label": label, "runtype": "ssh"}
    return str(call(world, "PUT", f"/api/v0/asks/{offer}/", body, key)["new_contract"])


def call(world: World, method: str, path: str, body: Any, key: str = "sandbox-key") -> Any:
    request = HttpRequest(
        method=method,
        url=f"http://sandbox{path}",
        headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
        body=json.dumps(body).encode(),
    )
    response = world.sandbox.receive(request).response
    assert response is not None
    return json.loads(response.body)


async def state_of(world: World, reservation_id: str) -> LeaseState:
    return (await world.view(reservation_id)).leases[0].state


def test_a_create_that_never_happened_is_proven_absent_after_the_quarantine():
    async def story(world: World) -> None:
        await world.reserve(1)  # the canary
        await world.sleep(60)
        world.arm("create", "reset_before")
        made = await world.reserve(1, request_id="a")
        assert made.leases[0].state is LeaseState.UNKNOWN
        await world.sleep(290)
        assert await state_of(world, made.reservation.id) is LeaseState.UNKNOWN
        await world.sleep(150)
        over = await world.view(made.reservation.id)
        assert over.leases[0].state is LeaseState.FAILED
        assert over.leases[0].reason == "NEVER_CREATED"
        await world.books_agree()

    in_world(story)


def test_without_a_canary_absence_takes_twice_as_long_and_unchanged_credit():
    async def story(world: World) -> None:
        world.arm("create", "reset_before")
        made = await world.reserve(1, request_id="a")
        await world.sleep(590)
        assert await state_of(world, made.reservation.id) is LeaseState.UNKNOWN
        await world.sleep(200)
        assert await state_of(world, made.reservation.id) is LeaseState.FAILED

    in_world(story)


def test_without_a_canary_and_without_unchanged_credit_nothing_is_proven():
    async def story(world: World) -> None:
        world.arm("create", "reset_before")
        world.arm("user", "status_500_before", times=0)
        made = await world.reserve(1, request_id="a")
        await world.sleep(3600)
        assert await state_of(world, made.reservation.id) is LeaseState.UNKNOWN

    in_world(story)


def test_empty_listings_prove_nothing_while_the_credit_falls():
    async def story(world: World) -> None:
        world.arm("create", "reset_after")
        world.arm("list", "empty_list", times=0)
        made = await world.reserve(1, request_id="a")
        await world.sleep(3600)
        assert await state_of(world, made.reservation.id) is LeaseState.UNKNOWN
        world.control("DELETE", "faults")
        await world.sleep(120)
        assert len((await world.view(made.reservation.id)).kept) == 1
        await world.books_agree()

    in_world(story)


def test_listings_that_fail_prove_nothing():
    async def story(world: World) -> None:
        await world.reserve(1)
        world.arm("create", "reset_before")
        made = await world.reserve(1, request_id="a")
        world.arm("list", "missing_page", times=0)
        world.arm("list", "status_500_before", times=0)
        await world.sleep(3600)
        assert await state_of(world, made.reservation.id) is LeaseState.UNKNOWN

    in_world(story)


def test_listings_that_fail_prove_nothing_even_while_the_credit_is_unchanged():
    async def story(world: World) -> None:
        world.arm("create", "reset_before")
        world.arm("list", "status_500_before", times=0)
        made = await world.reserve(1, request_id="a")
        await world.sleep(3600)
        assert await state_of(world, made.reservation.id) is LeaseState.UNKNOWN
        world.control("DELETE", "faults")
        await world.sleep(300)
        assert await state_of(world, made.reservation.id) is LeaseState.FAILED

    in_world(story)


@pytest.mark.parametrize("behind", [0, 60])
def test_an_unlabelled_instance_on_the_machine_makes_absence_unprovable(behind: float):
    async def story(world: World) -> None:
        world.clock.jump(behind)
        await world.restart()
        await world.reserve(1, max_price=20, verified_only=False)
        world.arm("create", "reset_before")
        made = await world.reserve(1, request_id="a", max_price=20, verified_only=False)
        contract = rent_by_hand(world, None)
        machine = world.alive()[contract]["machine_id"]
        assert made.leases[0].offered.host == f"vast.ai/{machine}"
        await world.sleep(900)
        lease = (await world.view(made.reservation.id)).leases[0]
        assert lease.state is LeaseState.UNKNOWN
        assert contract in lease.observed.status_message
        call(world, "DELETE", f"/api/v0/instances/{contract}/", {})
        await world.sleep(300)
        assert await state_of(world, made.reservation.id) is LeaseState.FAILED

    in_world(story, machines=1, seed=6)


def test_our_own_machine_that_lost_its_label_does_not_prevent_a_proof():
    async def story(world: World) -> None:
        first = await world.reserve(1, max_price=20, verified_only=False)
        world.arm("create", "reset_before")
        made = await world.reserve(1, request_id="a", max_price=20, verified_only=False)
        assert made.leases[0].offered.host == first.leases[0].offered.host
        call(world, "PUT", f"/api/v0/instances/{first.leases[0].instance_id}/", {"label": ""})
        await world.sleep(900)
        assert await state_of(world, made.reservation.id) is LeaseState.FAILED

    in_world(story, machines=1, seed=6)


@pytest.mark.parametrize(("size", "suspected"), [(19, True), (25, True), (10, False)])
def test_a_label_that_begins_as_that_of_the_lease_makes_absence_unprovable(size: int, suspected: bool):
    async def story(world: World) -> None:
        await world.reserve(1, max_price=20, verified_only=False)
        world.arm("create", "reset_before")
        made = await world.reserve(1, request_id="a", max_price=20, verified_only=False)
        rent_by_hand(world, made.leases[0].label[:size])
        await world.sleep(900)
        state = await state_of(world, made.reservation.id)
        assert state is (LeaseState.UNKNOWN if suspected else LeaseState.FAILED)

    in_world(story, machines=1, seed=6)


@pytest.mark.parametrize("late", [330, 500, 900])
def test_a_create_executed_after_the_proof_is_destroyed_within_five_minutes(late: int):
    async def story(world: World) -> None:
        await world.reserve(1)
        await world.sleep(60)
        world.arm("create", "late_effect", seconds=late)
        made = await world.reserve(1, request_id="a")
        await world.sleep(late + 5)
        await world.sleep(295)
        view = await world.view(made.reservation.id)
        alive = [i for i in world.alive().values() if i["label"] == view.leases[0].label]
        assert len(alive) == len(view.kept)
        await world.books_agree()

    in_world(story)


def test_a_machine_whose_database_was_lost_is_released_after_two_sightings_and_the_orphan_age():
    async def story(world: World) -> None:
        signer = world.engine.signer
        contract = rent_by_hand(world, signer.label("aaaaaaaa", 1))
        await world.sleep(500)
        assert contract in world.alive()
        await world.sleep(300)
        assert contract not in world.alive()

    in_world(story)


def test_foreign_machines_are_never_touched():
    async def story(world: World) -> None:
        label = world.engine.signer.label("aaaaaaaa", 1)
        forged = label[:-6] + "aaaaaa"
        other = f"gpx-zzzzzz-{label.split('-', 2)[2]}"
        foreign = [rent_by_hand(world, text) for text in (None, "", "mine", forged, other)]
        await world.sleep(4000)
        assert set(foreign) <= set(world.alive())

    in_world(story)


def test_the_brake_lets_a_pass_release_only_a_few_orphans():
    async def story(world: World) -> None:
        contracts = [rent_by_hand(world, world.engine.signer.label("aaaaaaaa", n)) for n in range(1, 9)]
        await world.sleep(590)
        left = [len(set(contracts) & set(world.alive()))]
        for _ in range(8):
            await world.sleep(30)
            left.append(len(set(contracts) & set(world.alive())))
        assert left[0] == 8
        assert max(before - after for before, after in pairwise(left)) <= 3
        await world.sleep(300)
        assert not set(contracts) & set(world.alive())

    in_world(story)


def test_a_second_machine_under_one_label_is_released_as_surplus():
    async def story(world: World) -> None:
        made = await world.reserve(1, request_id="a")
        await world.sleep(60)
        twin = rent_by_hand(world, made.leases[0].label)
        await world.sleep(300)
        assert twin not in world.alive()
        view = await world.view(made.reservation.id)
        assert [lease.state for lease in view.leases] == [LeaseState.ACTIVE, LeaseState.RELEASED]
        assert view.leases[1].reason == "SURPLUS"
        assert str(made.leases[0].instance_id) in world.alive()

    in_world(story)


@pytest.mark.parametrize("kind", ["ORPHAN", "SURPLUS"])
def test_a_surplus_machine_or_orphan_that_reappears_is_released_again(kind: str):
    async def story(world: World) -> None:
        made = await world.reserve(1, request_id="a")
        label = made.leases[0].label if kind == "SURPLUS" else world.engine.signer.label("aaaaaaaa", 1)
        world.arm("destroy", "destroy_ignored")
        stray = rent_by_hand(world, label)
        while not world.calls("destroy"):
            await world.sleep(1)
        with _hidden(world, stray):
            await world.sleep(60)
        assert [lease.state for lease in await world.leases() if lease.reason == kind] == [LeaseState.RELEASED]
        assert stray in world.alive()
        await world.sleep(900)
        assert stray not in world.alive()
        await world.books_agree()

    in_world(story)


async def _two_active(world: World) -> str:
    """The reservation of two machines that are ready and no longer change."""
    made = await world.reserve(2, request_id="a")
    await world.sleep(400)
    assert {lease.state for lease in (await world.view(made.reservation.id)).leases} == {LeaseState.ACTIVE}
    return str(made.reservation.id)


def test_one_read_and_listings_without_a_machine_do_not_give_it_up():
    async def story(world: World) -> None:
        reservation = await _two_active(world)
        one, reads = next(iter(world.alive())), world.calls("get")
        with _hidden(world, one):
            while world.calls("get") == reads:
                await world.sleep(1)
            await world.sleep(2)
        await world.sleep(300)
        assert {lease.state for lease in (await world.view(reservation)).leases} == {LeaseState.ACTIVE}
        assert len(world.alive()) == 2

    in_world(story)


def test_two_reads_and_listings_without_a_machine_give_it_up():
    async def story(world: World) -> None:
        reservation = await _two_active(world)
        one, reads = next(iter(world.alive())), world.calls("get")
        with _hidden(world, one):
            while {lease.state for lease in (await world.view(reservation)).leases} == {LeaseState.ACTIVE}:
                await world.sleep(1)
        assert world.calls("get") == reads + 2
        assert {lease.state for lease in (await world.view(reservation)).leases} == {LeaseState.ACTIVE, LeaseState.LOST}

    in_world(story)


def test_the_brake_lets_a_pass_release_only_a_few_machines_that_were_lost_and_are_back():
    async def story(world: World) -> None:
        made = await world.reserve(8, request_id="a")
        await world.sleep(400)
        with _hidden(world, *world.alive()):
            await world.sleep(300)
        assert {lease.state for lease in (await world.view(made.reservation.id)).leases} == {LeaseState.LOST}
        left = [len(world.alive())]
        for _ in range(12):
            await world.sleep(15)
            left.append(len(world.alive()))
        assert left[0] == 8
        assert max(before - after for before, after in pairwise(left)) <= 2
        await world.sleep(300)
        assert not world.alive()
        await world.books_agree()

    in_world(story)


@contextmanager
def _hidden(world: World, *contracts: str) -> Iterator[None]:
    """Make the market answer that there are no such machines."""
    send = world.http.send

    async def hiding(request: HttpRequest) -> HttpResponse:
        response = await send(request)
        if request.method != "GET" or "/instances/" not in request.url:
            return response
        said = json.loads(response.body)
        if isinstance(said["instances"], list):
            said["instances"] = [row for row in said["instances"] if str(row["id"]) not in contracts]
            said["total_instances"] = len(said["instances"])
        elif any(f"/{contract}/" in request.url for contract in contracts):
            said["instances"] = None
        return HttpResponse(status=200, headers=response.headers, body=json.dumps(said).encode())

    world.http.send = hiding  # type: ignore[method-assign]
    yield
    world.http.send = send  # type: ignore[method-assign]
