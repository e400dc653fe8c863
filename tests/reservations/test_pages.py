"""Lists in pages: entries that exist all the time are shown, whatever ends, begins or changes between two pages."""

import base64
import json
from typing import Any

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import InvalidArgument
from gpuproxy.model.leases import TRANSITIONS, LeaseState
from gpuproxy.reservations import pages
from gpuproxy.reservations.requests import ReservationPage
from tests.world import World, in_world

pytestmark = pytest.mark.long

P1 = Caller(project="p1")
OPEN = {LeaseState.REQUESTED, LeaseState.UNKNOWN}


async def page(world: World, token: str = "", **wanted: Any) -> ReservationPage:
    asked: dict[str, Any] = {"state": "active", "labels": {}, "page_size": 2, "page_token": token}
    return await world.engine.reservations.page(P1, **(asked | wanted))


def ids(shown: ReservationPage) -> list[str]:
    return [view.reservation.id for view in shown.views]


async def five(world: World) -> list[str]:
    """Five active reservations, newest first."""
    made = []
    for _ in range(5):
        made.append((await world.reserve(1)).reservation.id)
        await world.sleep(60)
    await world.sleep(120)
    return made[::-1]


def test_pages_hold_every_reservation_once_newest_first():
    async def story(world: World) -> None:
        made, seen, token = await five(world), [], ""
        while True:
            shown = await page(world, token)
            seen += ids(shown)
            if not (token := shown.next_page_token):
                break
        assert seen == made

    in_world(story)


@pytest.mark.parametrize("ended", [(1,), (0,), (0, 1), (1, 2), (0, 1, 2)])
def test_a_reservation_that_ends_between_two_pages_hides_no_other(ended: tuple[int, ...]):
    async def story(world: World) -> None:
        made = await five(world)
        first = await page(world)
        assert ids(first) == made[:2]
        for at in ended:
            await world.engine.reservations.release(P1, made[at])
        rest = await page(world, first.next_page_token, page_size=5)
        assert ids(rest) == [made[at] for at in (2, 3, 4) if at not in ended]
        assert not rest.next_page_token

    in_world(story)


def test_a_reservation_created_between_two_pages_moves_none():
    async def story(world: World) -> None:
        made = await five(world)
        first = await page(world, state="")
        await world.reserve(1)
        assert ids(await page(world, first.next_page_token, state="", page_size=5)) == made[2:]

    in_world(story)


def test_reservations_created_at_the_same_time_are_all_in_pages():
    async def story(world: World) -> None:
        made = {(await world.reserve(1)).reservation.id for _ in range(4)}
        await world.db.write(lambda tx: tx.execute("UPDATE reservations SET created_at = 1781265600000000", ()))
        first = await page(world, state="")
        second = await page(world, first.next_page_token, state="")
        assert {*ids(first), *ids(second)} == made

    in_world(story)


def test_a_list_by_labels_has_the_reservations_with_all_of_these_and_no_others():
    async def story(world: World) -> None:
        both = (await world.reserve(1, labels=(("team", "vision"), ("run", "7")))).reservation.id
        one = (await world.reserve(1, labels=(("team", "vision"),))).reservation.id
        await world.reserve(1, labels=(("vision", "team"),))
        assert ids(await page(world, state="", labels={"team": "vision"})) == [one, both]
        assert ids(await page(world, state="", labels={"team": "vision", "run": "7"})) == [both]
        assert ids(await page(world, state="", labels={"team": "7"})) == []

    in_world(story)


def test_a_token_is_valid_for_the_same_request_only():
    async def story(world: World) -> None:
        await five(world)
        token = (await page(world)).next_page_token
        for other in ({"state": ""}, {"state": "released"}, {"labels": {"team": "vision"}}):
            with pytest.raises(InvalidArgument, match="page_token: belongs to another request"):
                await page(world, token, **other)
        assert len((await page(world, token, page_size=3)).views) == 3

    in_world(story)


@pytest.mark.parametrize(
    "token", ["AAAA", "!", "é", "cmVzLTE=", "W10=", base64.urlsafe_b64encode(b'["", [1.5, 2]]').decode()]
)
def test_an_invalid_token_is_an_error_and_never_an_empty_page(token: str):
    async def story(world: World) -> None:
        with pytest.raises(InvalidArgument, match="page_token: is not a next_page_token"):
            await page(world, token)

    in_world(story)


def test_a_token_with_an_invalid_place_is_an_error():
    async def story(world: World) -> None:
        await five(world)
        of, _ = json.loads(base64.urlsafe_b64decode((await page(world)).next_page_token))
        forged = base64.urlsafe_b64encode(json.dumps([of, ["x", 1]]).encode()).decode()
        with pytest.raises(InvalidArgument, match="page_token"):
            await page(world, forged)

    in_world(story)


@pytest.mark.parametrize("place", [[2**63, "res-1"], [-(2**63) - 1, "res-1"], [10**400, "res-1"], [1, "a\0b"]])
def test_a_place_that_no_database_can_store_is_an_error(place: list[object]):
    token = pages.token("list", tuple(place))
    with pytest.raises(InvalidArgument, match="page_token: is not a next_page_token"):
        pages.after(token, "list", tuple[int, str])


def test_a_place_at_the_limits_of_the_database_is_read_in_any_depth():
    place = (2**63 - 1, (-(2**63), "res-1"))
    assert pages.after(pages.token("list", place), "list", tuple[int, tuple[int, str]]) == place
    with pytest.raises(InvalidArgument, match="page_token"):
        pages.after(pages.token("list", (1, (2**63, "res-1"))), "list", tuple[int, tuple[int, str]])


def test_machines_with_an_unresolved_create_come_first_and_no_place_ever_decreases():
    async def story(world: World) -> None:
        await world.reserve(1)
        await world.sleep(10)
        world.arm("create", "reset_after")
        found_later = (await world.reserve(1, request_id="r", wait=False)).leases[0].id
        places, states = [], []
        for _ in range(60):
            views = await world.engine.instances.rented(P1)
            assert [view.place for view in views] == sorted(view.place for view in views)
            [at] = [at for at, view in enumerate(views) if view.lease.id == found_later]
            assert (at == 0) == (views[at].lease.state in OPEN)
            places.append(views[at].place)
            states.append(views[at].lease.state)
            await world.sleep(2)
        assert states[0] in OPEN
        assert states[-1] is LeaseState.ACTIVE
        assert places == sorted(places)

    in_world(story)


def test_no_event_makes_a_create_unresolved_again():
    assert [state for state in set(LeaseState) - OPEN if OPEN & set(TRANSITIONS.get(state, {}).values())] == []
