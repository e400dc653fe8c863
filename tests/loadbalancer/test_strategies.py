"""The strategies on a running deployment: turns, measurements, ejections and exhausted places are stored."""

from typing import Any

import pytest

from gpuproxy.loadbalancer.choice import ejection
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import Advice, InvalidRequest, NoCapacity, Refusal, Refused, Scope
from gpuproxy.model.leases import LeaseState
from gpuproxy.model.reservations import Decision, ReservationView
from gpuproxy.model.strategies import STRATEGIES
from gpuproxy.store import counters, measured, rotations
from gpuproxy.store.rows import micros
from tests.markets import offer
from tests.world import LIVELY, World, demand, in_world

pytestmark = pytest.mark.long

BOOKS = {
    "hosts": "SELECT * FROM hosts ORDER BY host",
    "measured": "SELECT * FROM measured ORDER BY host",
    "rotations": "SELECT * FROM rotations ORDER BY strategy",
}


async def books(world: World) -> dict[str, list[Any]]:
    return await world.db.read(lambda tx: {name: tx.fetch(query) for name, query in BOOKS.items()})


def hosts(view: ReservationView) -> list[str]:
    return [lease.offered.host for lease in view.leases]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_the_state_of_a_strategy_survives_a_restart_and_follows_from_the_events(strategy: str) -> None:
    async def story(world: World) -> None:
        world.arm("create", "no_capacity", times=1, after=1)
        world.arm("create", "never_ready", times=1, after=3)
        for _ in range(3):
            await world.reserve(2, strategy=strategy)
            await world.sleep(400)
        before = await books(world)
        assert before["measured"]
        await world.restart()
        assert await books(world) == before
        await world.db.write(counters.recount)
        assert await books(world) == before

    in_world(story)


def test_turns_continue_after_a_restart() -> None:
    async def go(world: World, *, restart: bool) -> list[str]:
        taken = []
        for _ in range(4):
            taken += hosts(await world.reserve(2, strategy="round_robin"))
            if restart:
                await world.restart()
        return taken

    taken = in_world(lambda world: go(world, restart=True))
    assert taken == in_world(lambda world: go(world, restart=False))
    assert taken == sorted(set(taken))


def test_a_dry_run_takes_no_turn() -> None:
    async def story(world: World) -> None:
        await world.reserve(2, strategy="round_robin", dry_run=True)
        assert (await world.db.read(lambda tx: rotations.read(tx, "round_robin"))).last is None

    in_world(story)


def test_a_turn_that_another_process_took_is_chosen_anew() -> None:
    async def story(world: World) -> None:
        first = await world.reserve(1, strategy="round_robin")
        read = world.db.read
        others: list[int] = []

        async def read_then_lose(fn: Any) -> Any:
            found = await read(fn)
            if not others:
                others.append(1)
                await world.db.write(lambda tx: tx.execute("UPDATE rotations SET version = version + 1"))
            return found

        world.engine.reserver._context.chooser._db.read = read_then_lose  # type: ignore[method-assign]
        second = await world.reserve(1, strategy="round_robin")
        assert others
        assert hosts(second) > hosts(first)

    in_world(story)


def test_a_refused_pick_does_not_count() -> None:
    async def story(world: World) -> None:
        world.arm("create", "no_capacity")
        view = await world.reserve(1, strategy="equal_weighted")
        refused, kept = view.leases
        loads = await world.db.read(counters.loads)
        assert (loads[refused.offered.host].picks, loads[refused.offered.host].live) == (0, 0)
        assert (loads[kept.offered.host].picks, loads[kept.offered.host].live) == (1, 1)
        standing = (await world.db.read(lambda tx: rotations.read(tx, "equal_weighted"))).standing
        assert (standing[kept.offered.host], standing.get(refused.offered.host, 0)) == (1, 0)

    in_world(story)


def refuse_once(world: World, refusal: Refused) -> None:
    """Make the marketplace refuse the next create. vast.ai itself only answers that an offer is gone."""
    provider = next(iter(world.engine.watches)).provider
    create = provider.create

    async def once(*asked: Any) -> Any:
        provider.create = create  # type: ignore[method-assign]
        raise refusal

    provider.create = once  # type: ignore[method-assign]


async def decided(world: World) -> Decision:
    decision = (await world.reserve(1, strategy="lowest_price", dry_run=True)).reservation.decision
    assert decision is not None
    return decision


@pytest.mark.parametrize("scope", [Scope.HOST, Scope.REGION])
def test_a_place_without_capacity_is_not_used_for_three_minutes(scope: Scope) -> None:
    async def story(world: World) -> None:
        refuse_once(world, NoCapacity("none left", scope=scope))
        empty, kept = (await world.reserve(1, strategy="lowest_price")).leases
        assert empty.reason == "NO_CAPACITY"
        assert kept.offered.host != empty.offered.host
        decision = await decided(world)
        assert dict(decision.rejected)["no_capacity"] >= 1
        assert empty.offered.host not in {pick.host for pick in decision.top}
        await world.restart()
        assert dict((await decided(world)).rejected)["no_capacity"] >= 1
        await world.sleep(181)
        decision = await decided(world)
        assert "no_capacity" not in dict(decision.rejected)
        assert empty.offered.host in {pick.host for pick in decision.top}

    in_world(story)


def test_an_accounts_own_quota_says_nothing_about_the_market() -> None:
    async def story(world: World) -> None:
        refuse_once(world, NoCapacity("enough for you", scope=Scope.ACCOUNT))
        with pytest.raises(Refusal):
            await world.reserve(1)
        assert "no_capacity" not in dict((await decided(world)).rejected)

    in_world(story)


def test_a_refusal_caused_by_the_host_has_its_own_reason() -> None:
    async def story(world: World) -> None:
        refuse_once(world, InvalidRequest("not on this machine", scope=Scope.HOST, advice=Advice.TRY_NEXT))
        refused, _ = (await world.reserve(1)).leases
        assert refused.reason == "HOST_REFUSED"
        record = await world.db.read(lambda tx: measured.find(tx, refused.offered.host))
        assert record is not None
        assert (record.failures, record.samples, record.response_ms) == (1, 1, 600_000)

    in_world(story)


async def eject(world: World, host: str) -> None:
    await world.db.write(
        lambda tx: tx.execute(
            "INSERT OR REPLACE INTO measured VALUES (?, 'vast.ai', 'RTX 4090', 600000.0, ?, 3, 3, 1, ?)",
            (host, micros(tx.now()), micros(tx.now()) + 30_000_000),
        )
    )
    await world.db.write(
        lambda tx: tx.execute("INSERT OR IGNORE INTO hosts VALUES (?, 'vast.ai', 0, 3, ?)", (host, micros(tx.now())))
    )


def test_an_ejected_host_is_left_out_until_its_time_is_over() -> None:
    async def story(world: World) -> None:
        best = hosts(await world.reserve(1, strategy="lowest_price"))[0]
        for lease in await world.leases():
            await world.engine.instances.destroy(Caller(project="p1"), lease.provider, lease.instance_id or "")
        await world.sleep(120)
        await eject(world, best)
        decision = await decided(world)
        assert dict(decision.rejected)["ejected"] >= 1
        assert decision.picks[0].host != best
        await world.sleep(60)
        decision = await decided(world)
        assert decision.picks[0].host == best

    in_world(story, settings=LIVELY)


def test_ejected_hosts_are_used_if_nothing_else_fits_and_the_decision_says_so() -> None:
    async def story(world: World) -> None:
        await world.engine.catalog.first_snapshot()
        wanted = demand(1).filter
        for host in {each.host for each in (await world.engine.catalog.market(wanted)).select(wanted).offers}:
            await eject(world, host)
        decision = await decided(world)
        assert decision.notes[0].startswith("ejected, but used: vast.ai/")

    in_world(story)


@pytest.mark.parametrize(("count", "gone", "out"), [(1, 1, 0), (2, 1, 1), (4, 2, 2), (4, 3, 0), (5, 2, 2), (5, 3, 0)])
def test_at_most_half_of_a_marketplace_is_ejected(count: int, gone: int, out: int) -> None:
    offers = [offer(number) for number in range(count)]
    left_out, kept = ejection(offers, {each.host for each in offers[:gone]})
    assert (len(left_out), len(kept)) == (out, gone - out)


def test_three_failures_eject_a_host() -> None:
    async def story(world: World) -> None:
        world.arm("create", "never_ready", times=3)
        for _ in range(3):
            await world.reserve(1, strategy="lowest_price", max_price=5.0)
            await world.sleep(1000)
        records = await world.db.read(measured.every)
        failed = [lease for lease in await world.leases() if lease.reason == "NOT_READY"]
        assert failed
        assert sum(record.failures for record in records.values()) == len(failed)

    in_world(story)


def test_load_info_has_the_measurements() -> None:
    async def story(world: World) -> None:
        await world.engine.strategies.choose(Caller(project="p1"), "weighted_round_robin", "project")
        await world.reserve(2)
        await world.sleep(300)
        report = await world.engine.load.report(Caller(project="p1"), "")
        ready = [lease for lease in await world.leases() if lease.state is LeaseState.ACTIVE]
        assert len(report.server) == len(ready) == 2
        for row, lease in zip(sorted(report.server, key=lambda row: row.id), sorted(ready, key=_id), strict=True):
            assert lease.observed.ready_at is not None
            assert lease.creation.call_started_at is not None
            assert (row.samples, row.connections, row.picks) == (1, 1, 1)
            response = lease.observed.ready_at - lease.creation.call_started_at
            assert row.response_ms == int(response.total_seconds() * 1000)
            assert row.gpus == lease.offered.host_gpus >= lease.offered.num_gpus
            assert row.weight in (1.0, 1.2, 1.5, 1.8, 2.0, 2.4, 3.0, 3.6)
        (provider,) = report.provider
        assert (provider.samples, provider.picks, provider.connections) == (2, 2, 2)
        low, high = sorted(row.response_ms for row in report.server)
        assert low <= provider.response_ms <= high

    in_world(story)


def _id(lease: Any) -> str:
    return str(lease.instance_id)
