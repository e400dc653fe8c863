"""Several equal servers on one database: the work is spread, nothing is done twice, and callers may use any of them."""

import asyncio
from collections import Counter
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import DeadlineExceeded, FailedPrecondition
from gpuproxy.model.leases import LeaseState
from gpuproxy.model.limits import SpendingLimit, window
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import OfferFilter
from gpuproxy.runtime.claims import CLAIM_SECONDS
from gpuproxy.store import claims, limits, spend_limits
from tests.servers import SOON, Server, another, with_servers
from tests.world import LIVELY, VAST, World

P1 = Caller(project="p1")
ACCOUNT = (VAST, "vast-1")
ANY = OfferFilter(max_price=100.0, verified_only=False)
ONE = replace(ANY, num_gpus=1)
_SEARCH = "/bundles/"


async def owners(world: World, kind: str = "account:") -> Counter[str]:
    """How many claims of a kind each process has."""
    rows = await world.db.read(lambda tx: claims.with_prefix(tx, kind))
    return Counter(row.owner for row in rows)


def searches(server: Server) -> int:
    return sum(each.url.endswith(_SEARCH) for each in server.life.sent)


# -- the work is spread, and taken over


def test_each_server_supervises_its_share_of_the_accounts() -> None:
    async def story(world: World, servers: list[Server]) -> None:
        assert await owners(world) == {servers[0].name: 2, servers[1].name: 2}
        assert not servers[0].held("account:") & servers[1].held("account:")

    with_servers(2, story, accounts=4)


def test_a_server_that_joins_gets_a_share_and_machines_are_not_touched_by_the_move() -> None:
    async def story(world: World, servers: list[Server]) -> None:
        await servers[0].reserve(3, request_id="a")
        await world.sleep(60)
        third = await another(world)
        await world.sleep(SOON)
        assert len(third.held("account:")) == 1
        await world.sleep(300)
        assert len(world.alive()) == world.created() == 3
        await world.books_agree()

    with_servers(2, story, accounts=3)


def test_the_accounts_of_a_server_that_dies_are_supervised_by_another_within_20_s() -> None:
    async def story(world: World, servers: list[Server]) -> None:
        servers[0].life.end()
        await world.sleep(SOON)
        assert await owners(world) == {servers[1].name: 2}

    with_servers(2, story, accounts=2)


def test_the_call_of_a_server_that_dies_is_concluded_by_another_within_20_s() -> None:
    async def story(world: World, servers: list[Server]) -> None:
        world.arm("create", "hang_after", seconds=300)
        call = asyncio.ensure_future(servers[0].reserve(1, request_id="a", seconds=600))
        await world.sleep(5)
        servers[0].life.end()
        await world.sleep(SOON)
        [row] = await world.db.read(lambda tx: tx.fetch("SELECT settled_at FROM reservations"))
        assert row["settled_at"] is not None
        call.cancel()
        with suppress(asyncio.CancelledError):
            await call

    with_servers(2, story)


def test_a_server_that_ends_in_order_gives_its_work_up_at_once() -> None:
    async def story(world: World, servers: list[Server]) -> None:
        await servers[0].engine.drain(1.0)
        await world.sleep(CLAIM_SECONDS / 3 + 1)
        assert await owners(world) == {servers[1].name: 2}

    with_servers(2, story, accounts=2)


# -- the marketplace is asked as by one


@pytest.mark.parametrize("number", [2, 3])
def test_several_servers_ask_the_marketplace_no_more_than_one(number: int) -> None:
    async def asked(world: World, _servers: list[Server]) -> Counter[str]:
        before = Counter(world.market["calls"]["vast.ai"])
        await world.sleep(600)
        return Counter(world.market["calls"]["vast.ai"]) - before

    one = with_servers(1, asked, accounts=2)
    several = with_servers(number, asked, accounts=2)
    assert set(several) == set(one)
    assert all(several[call] <= one[call] + 1 for call in one), (one, several)


def test_offers_that_one_server_reads_are_those_of_all_to_the_last_byte() -> None:
    async def story(world: World, servers: list[Server]) -> None:
        await world.sleep(60)
        assert sorted(map(searches, servers))[:2] == [0, 0]
        shown = [(await server.engine.catalog.market(ANY)).select(ANY) for server in servers]
        assert shown[0].total > 0
        assert [each.offers for each in shown] == [shown[0].offers] * 3
        for kind in ("grpc", "json"):
            assert [each.encoded(kind) for each in shown] == [shown[0].encoded(kind)] * 3

    with_servers(3, story)


def test_offers_are_read_by_another_server_when_the_reader_dies() -> None:
    async def story(world: World, servers: list[Server]) -> None:
        reader = next(each for each in servers if each.held("catalog:"))
        other = next(each for each in servers if each is not reader)
        reader.life.end()
        await world.sleep(SOON + 5)
        assert other.held("catalog:")
        assert searches(other) >= 1

    with_servers(2, story)


def test_a_marketplace_that_does_not_answer_its_reader_is_reported_by_all() -> None:
    async def story(world: World, servers: list[Server]) -> None:
        world.arm("search", "status_503_before", times=0)
        await world.sleep(60)
        for server in servers:
            assert [name for name, _ in server.engine.catalog.silent(ANY)] == [VAST]

    with_servers(2, story, settings=LIVELY)


def test_creates_of_two_servers_keep_the_interval_of_the_account() -> None:
    async def story(world: World, servers: list[Server]) -> None:
        times: list[float] = []
        world.overhear.append(
            lambda request: times.append(world.clock.monotonic()) if "/asks/" in request.url else None
        )
        await asyncio.gather(*(server.reserve(3, request_id=f"r{n}") for n, server in enumerate(servers)))
        interval = servers[0].engine.accounts.provider(ACCOUNT).capabilities.create_interval
        assert len(times) == 6
        assert min(b - a for a, b in pairwise(sorted(times))) >= interval

    with_servers(2, story, paced=True)


def test_a_pause_that_the_marketplace_asks_one_server_for_is_kept_by_the_other() -> None:
    async def story(world: World, servers: list[Server]) -> None:
        times: list[float] = []
        world.overhear.append(
            lambda request: times.append(world.clock.monotonic()) if "/asks/" in request.url else None
        )
        world.arm("create", "rate_limited", times=1, retry_after=30)
        first = asyncio.ensure_future(servers[0].reserve(1, request_id="a"))
        await world.sleep(1)
        await servers[1].reserve(1, request_id="b")
        await first
        assert len(times) == 3
        assert min(times[1:]) - times[0] >= 30

    with_servers(2, story)


def test_the_circuit_of_an_account_that_does_not_answer_one_server_rests_in_the_other() -> None:
    async def story(world: World, servers: list[Server]) -> None:
        circuits = [server.engine.accounts.circuit(ACCOUNT) for server in servers]
        for _ in range(3):
            circuits[0].failed(costly=True)
        await world.sleep(CLAIM_SECONDS)
        assert [circuit.state for circuit in circuits] == ["resting", "resting"]
        assert circuits[1].rest > circuits[0].rest or servers[1].engine.sharing.place == 0
        circuits[0].succeeded()
        await world.sleep(CLAIM_SECONDS)
        assert [circuit.state for circuit in circuits] == ["closed", "closed"]

    with_servers(2, story)


# -- one effect for one wish


@pytest.mark.parametrize("calls", [300, pytest.param(5000, marks=pytest.mark.long)])
def test_many_calls_with_one_request_id_at_three_servers_are_one_reservation(calls: int) -> None:
    async def story(world: World, servers: list[Server]) -> None:
        answers = await asyncio.gather(*(servers[n % 3].reserve(2, request_id="a", seconds=300) for n in range(calls)))
        assert len({answer.reservation.id for answer in answers}) == 1
        assert await world.reservations() == 1
        assert len(world.alive()) == world.created() == 2
        assert all(answer.reservation.settled_at is not None for answer in answers)
        await world.books_agree()

    with_servers(3, story, create_latency=5.0)


def test_a_copy_of_a_call_that_another_server_runs_is_not_answered_before_that_call() -> None:
    """An answer names the reservation for good. A call that rents nothing frees its request_id for another one."""

    async def story(world: World, servers: list[Server]) -> None:
        first = asyncio.ensure_future(servers[0].reserve(1, request_id="a"))
        await world.sleep(3)
        with pytest.raises(DeadlineExceeded, match="another server still runs"):
            await servers[1].reserve(1, request_id="a", seconds=4)
        rented = await first
        assert (await servers[1].reserve(1, request_id="a", seconds=4)).reservation.id == rented.reservation.id
        assert world.created() == 1

    with_servers(2, story, create_latency=20.0)


@pytest.mark.parametrize("number", [1, 3])
def test_fifty_callers_rent_exactly_what_their_money_is_enough_for(number: int) -> None:
    """Ten machines at one price, for an hour each."""

    async def story(world: World, servers: list[Server]) -> None:
        for chunk in world.sandbox.market.chunks.values():
            chunk.price = 400_000 * chunk.gpus
        await world.sleep(60)
        dearest = max(offer.price(50.0) for offer in (await servers[0].engine.catalog.market(ANY)).select(ONE).offers)
        limit = SpendingLimit(
            scope="project", subject="p1", window=window("24h"), amount=Micro(10 * dearest), policy="no_new"
        )
        await world.db.write(lambda tx: spend_limits.put(tx, limit))
        results = await asyncio.gather(
            *(
                servers[n % number].reserve(
                    1, request_id=f"r{n}", seconds=600, lease=3600.0, verified_only=False, num_gpus=1
                )
                for n in range(50)
            ),
            return_exceptions=True,
        )
        rented = [each for each in results if not isinstance(each, BaseException)]
        refused = [each for each in results if isinstance(each, FailedPrecondition)]
        assert (len(rented), len(refused)) == (10, 40)
        [usage] = await world.db.read(lambda tx: limits.usages(tx, spend_limits.listed(tx)))
        assert 0 <= usage.left < min(lease.observed.price for lease in await world.live())
        assert len(world.alive()) == world.created() == 10

    with_servers(number, story, settings=LIVELY, machines=80)


# -- events


async def read(server: Server, reservation_id: str, token: str, seen: list[str], most: int) -> str:
    """Read at most so many changes at a server. Returns the token of the last one."""
    async with aclosing(server.engine.reservations.watch(P1, reservation_id, token)) as changes:
        async for token_now, _ in changes:
            token = token_now
            seen.append(token)
            if len(seen) >= most:
                break
    return token


def test_a_watch_goes_on_at_another_server_without_a_gap() -> None:
    async def story(world: World, servers: list[Server]) -> None:
        made = await servers[0].reserve(3, request_id="a", wait=False)
        reservation_id, seen = str(made.reservation.id), []
        token = await read(servers[0], reservation_id, "", seen, 1)
        for turn in range(1, 30):
            if turn == 5:
                await servers[2].engine.reservations.release(P1, reservation_id)
            with suppress(TimeoutError):
                async with world.clock.timeout(60):
                    token = await read(servers[turn % 3], reservation_id, token, seen, len(seen) + 1)
        rows = await world.db.read(
            lambda tx: tx.fetch("SELECT seq FROM events WHERE reservation_id = ? ORDER BY seq", (reservation_id,))
        )
        stored = [row["seq"] for row in rows]
        assert [int(each) for each in seen] == [seq for seq in stored if seq >= int(seen[0])]
        assert len(seen) > 10

    with_servers(3, story)


def test_the_order_of_events_is_by_their_number_and_by_no_clock() -> None:
    """After a fail-over of the database, its clock may be behind."""

    async def story(world: World, servers: list[Server]) -> None:
        made = await servers[0].reserve(2, request_id="a")
        reservation_id, seen = str(made.reservation.id), []

        async def events() -> int:
            counted = "SELECT count(*) AS n FROM events WHERE reservation_id = ?"
            return (await world.db.read(lambda tx: tx.fetch(counted, (reservation_id,))))[0]["n"]

        await read(servers[0], reservation_id, "", seen, 1)
        before = await events()
        world.db.use_clock(lambda: world.clock.now() - timedelta(seconds=3))
        watching = asyncio.ensure_future(read(servers[1], reservation_id, seen[0], seen, 1000))
        await servers[1].engine.reservations.release(P1, reservation_id)
        await world.sleep(300)
        await watching
        numbers = [int(each) for each in seen]
        assert numbers == sorted(set(numbers))
        assert len(numbers) - 1 == await events() - before
        assert {lease.state for lease in await world.leases()} == {LeaseState.RELEASED}

    with_servers(2, story)


@pytest.mark.parametrize("skew", [300.0, -300.0])
def test_a_server_whose_clock_is_wrong_by_minutes_ends_no_lease_early_and_none_late(skew: float) -> None:
    async def story(world: World, servers: list[Server]) -> None:
        servers[0].life.end()
        wrong = await another(world, skew=skew)
        await world.sleep(SOON)
        assert wrong.held("account:")
        made = await wrong.reserve(1, request_id="a", lease=120.0)
        assert len(made.kept) == 1
        await world.sleep(100)
        assert len(world.alive()) == 1
        await world.sleep(80)
        assert world.alive() == {}

    with_servers(1, story)
