"""The findings of `gpuproxy doctor`: each has the present cost and a remedy."""

import pytest

from gpuproxy.app import figures
from gpuproxy.app.metrics import Metrics
from gpuproxy.health.checkup import SUMMARY_SECONDS, Finding, findings, gpu_failures
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import Unavailable, UnreadableRows
from gpuproxy.model.lease_facts import Suspected
from gpuproxy.model.leases import Lease
from gpuproxy.model.money import dollars
from gpuproxy.model.offers import ProviderName
from gpuproxy.providers.vast.status import GPU_FAILURE
from gpuproxy.store import account_problems, leases
from gpuproxy.store.rows import micros
from tests.world import VAST, World, in_world

CALLER = Caller(project="p1")
Accounts = set[tuple[str, str]]


async def found(world: World) -> list[Finding]:
    providers = [watch.provider for watch in world.engine.watches]
    failures = gpu_failures((each.name, each.capabilities) for each in providers)
    accounts = {(each.name, each.account) for each in providers}
    return list(await world.db.read(lambda tx: findings(tx, accounts, failures)))


async def ready(world: World) -> str:
    """Rent a machine, wait until it is ready, and return its contract id."""
    contract = str((await world.reserve(1, wait_for="ready", seconds=900)).leases[0].instance_id)
    await world.sleep(10)
    return contract


def kill(world: World, contract: str, how: str) -> None:
    world.control("POST", f"instances/{contract}/kill", {"how": how})


async def lease_of(world: World) -> Lease:
    (lease,) = await world.live()
    return lease


async def measured(world: World) -> str:
    return Metrics().render(await figures.read(world.db, world.engine.watches, world.clock)).decode()


DEAD = 'gpuproxy_dead_machines{provider="vast.ai"}'


# -- machines that died


def test_a_machine_whose_container_ended_is_reported_with_its_present_cost() -> None:
    async def story(world: World) -> None:
        contract = await ready(world)
        kill(world, contract, "container")
        await world.sleep(200)
        (dead,) = await found(world)
        lease = await lease_of(world)
        assert (dead.kind, dead.subject) == ("dead_machine", lease.id)
        assert dead.text.startswith(f"3 min: vast.ai {contract} of {lease.reservation_id} was ready and no longer runs")
        assert f"only its disk is billed, {dollars(lease.observed.disk_price)}/h" in dead.text
        assert "container exited with code 137" in dead.text
        assert f"gpuproxy destroy {contract}" in dead.advice
        assert await world.engine.health.summary() == "dead_machine 1"

    in_world(story)


def test_a_machine_whose_host_is_offline_costs_nothing_and_may_come_back() -> None:
    async def story(world: World) -> None:
        kill(world, await ready(world), "host")
        await world.sleep(200)
        (dead,) = await found(world)
        assert dead.kind == "dead_machine"
        assert "nothing is billed" in dead.text
        assert dead.advice.startswith("Its host may come back")

    in_world(story)


def test_a_machine_that_stopped_running_a_moment_ago_is_not_dead_yet() -> None:
    async def story(world: World) -> None:
        kill(world, await ready(world), "container")
        await world.sleep(100)
        assert (await lease_of(world)).observed.faltered_at is not None
        assert await found(world) == []

    in_world(story)


def test_a_machine_that_recovered_is_not_dead() -> None:
    async def story(world: World) -> None:
        contract = await ready(world)
        kill(world, contract, "host")
        await world.sleep(200)
        world.control("POST", f"machines/{world.alive()[contract]['machine_id']}/reconnect", {})
        await world.sleep(200)
        assert (await lease_of(world)).state == "active"
        assert await found(world) == []

    in_world(story)


def test_a_machine_that_its_owner_stopped_is_not_dead() -> None:
    async def story(world: World) -> None:
        contract = await ready(world)
        await world.engine.machines.stop(CALLER, VAST, contract)
        await world.sleep(400)
        assert await found(world) == []

    in_world(story)


def test_a_machine_that_was_never_ready_is_not_dead() -> None:
    async def story(world: World) -> None:
        world.arm("create", "never_ready")
        await world.reserve(1)
        await world.sleep(400)
        assert (await lease_of(world)).observed.ready_at is None
        assert await found(world) == []

    in_world(story)


def test_a_machine_with_a_failed_gpu_is_dead_although_its_status_is_running() -> None:
    async def story(world: World) -> None:
        contract = await ready(world)
        kill(world, contract, "gpu")
        await world.sleep(60)
        lease = await lease_of(world)
        assert lease.state == "active"
        (dead,) = await found(world)
        assert (dead.kind, dead.subject) == ("dead_machine", lease.id)
        assert f"it costs {dollars(lease.observed.price)}/h" in dead.text
        assert "fallen off the bus" in dead.text
        assert f"gpuproxy destroy {contract}" in dead.advice

    in_world(story)


@pytest.mark.parametrize(
    ("words", "dead"),
    [
        ("NVRM: Xid (PCI:0000:01:00): 79, pid=1234, GPU has fallen off the bus.", True),
        ("NVRM: Xid (PCI:0000:01:00): 79", True),
        ("NVRM Xid 79", True),
        ("GPU error, machine needs a restart", True),
        ("the gpu has fallen off the bus", True),
        ("NVRM: Xid (PCI:0000:79:00): 31, pid=1234", False),
        ("NVRM Xid 13", False),
        ("success, running pytorch/pytorch:latest", False),
        ("", False),
    ],
)
def test_only_clear_status_messages_make_a_running_machine_dead(words: str, dead: bool) -> None:
    async def story(world: World) -> None:
        contract = await ready(world)
        world.sandbox.market.instances[int(contract)].status_msg = words
        lease = await lease_of(world)
        await world.db.write(lambda tx: leases.note(tx, lease, Suspected(words)))
        assert [finding.kind for finding in await found(world)] == ["dead_machine"] * dead
        assert await world.engine.health.summary() == ("dead_machine 1" if dead else "ok")
        assert f"{DEAD} {float(dead)}" in await measured(world)

    in_world(story)


def test_the_gpu_failure_pattern_of_a_marketplace_applies_only_there() -> None:
    async def story(world: World) -> None:
        await ready(world)
        lease = await lease_of(world)
        await world.db.write(lambda tx: leases.note(tx, lease, Suspected("GPU error")))
        accounts = {(lease.provider, lease.account)}
        assert not await world.db.read(lambda tx: findings(tx, accounts, {ProviderName("io.net"): GPU_FAILURE}))
        assert await world.db.read(lambda tx: findings(tx, accounts, {VAST: GPU_FAILURE}))

    in_world(story)


# -- the metric


def test_dead_machines_are_counted_by_provider() -> None:
    async def story(world: World) -> None:
        contract = await ready(world)
        assert f"{DEAD} 0.0" in await measured(world)
        kill(world, contract, "container")
        await world.sleep(200)
        assert f"{DEAD} 1.0" in await measured(world)
        await world.engine.instances.destroy(CALLER, VAST, contract)
        await world.sleep(100)
        assert f"{DEAD} 0.0" in await measured(world)

    in_world(story)


# -- releases that do not end, and listings that can't be read


@pytest.mark.parametrize(
    ("how", "words"), [(None, "it costs"), ("container", "only its disk is billed"), ("host", "nothing is billed")]
)
def test_a_release_that_does_not_end_is_reported_with_its_present_cost(how: str | None, words: str) -> None:
    async def story(world: World) -> None:
        contract = await ready(world)
        world.arm("destroy", "destroy_ignored", times=0)
        await world.engine.instances.destroy(CALLER, VAST, contract)
        await world.sleep(60)
        if how:
            kill(world, contract, how)
        await world.sleep(900)
        (stuck,) = await found(world)
        lease = await lease_of(world)
        rate = {"all": lease.observed.price, "disk": lease.observed.disk_price, "nothing": 0}[lease.observed.billed]
        assert stuck.kind == "stuck_release"
        assert words in stuck.text
        assert rate == 0 or f"{dollars(rate)}/h" in stuck.text

    in_world(story)


def test_unreadable_rows_are_reported_with_their_account_and_pause_nothing() -> None:
    async def story(world: World) -> None:
        await world.db.write(
            lambda tx: tx.execute(
                "INSERT INTO troubles (provider, account, reason, said, since, until) VALUES (?, ?, ?, ?, ?, NULL)",
                (VAST, "vast-1", UnreadableRows.reason, "row 3: no id", micros(tx.now())),
            )
        )
        (finding,) = await found(world)
        assert (finding.kind, finding.subject) == ("unreadable", "vast.ai vast-1")
        assert finding.text.startswith("0 min: ")
        assert "row 3: no id" in finding.text
        assert "absent" in finding.text
        assert "provider's console" in finding.advice
        assert await world.db.read(account_problems.paused) == {}

    in_world(story)


def test_the_advice_for_a_refused_key_covers_an_expired_login_session() -> None:
    async def story(world: World) -> None:
        world.arm("list", "auth_error", times=0)
        await world.sleep(40)
        (paused,) = await found(world)
        assert "does not expire with a login session or a two-factor session" in paused.advice

    in_world(story)


# -- what HealthCheck says


def test_the_summary_is_read_once_a_second_however_many_ask() -> None:
    async def story(world: World) -> None:
        reads = 0
        read = world.engine.health._read

        async def counted():
            nonlocal reads
            reads += 1
            return await read()

        world.engine.health._read = counted
        for _ in range(50):
            assert await world.engine.health.summary() == "ok"
        assert reads == 1
        await world.sleep(SUMMARY_SECONDS)
        assert await world.engine.health.summary() == "ok"
        assert reads == 2

    in_world(story)


def test_the_summary_shows_a_problem_within_a_second() -> None:
    async def story(world: World) -> None:
        contract = await ready(world)
        assert await world.engine.health.summary() == "ok"
        kill(world, contract, "container")
        while not await found(world):
            await world.sleep(1)
        await world.sleep(SUMMARY_SECONDS)
        assert await world.engine.health.summary() == "dead_machine 1"

    in_world(story)


def test_a_summary_that_could_not_be_read_is_no_summary() -> None:
    async def story(world: World) -> None:
        assert await world.engine.health.summary() == "ok"
        await world.sleep(SUMMARY_SECONDS)
        read = world.engine.health._read

        async def broken():
            raise Unavailable("no database")

        world.engine.health._read = broken
        with pytest.raises(Unavailable):
            await world.engine.health.summary()
        world.engine.health._read = read
        assert await world.engine.health.summary() == "ok"

    in_world(story)
