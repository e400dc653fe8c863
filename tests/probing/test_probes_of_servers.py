"""Probes with several servers: one at a time for each account, all servers know of it, and none sends without claim."""

from typing import Any

import pytest

from gpuproxy.model.errors import FailedPrecondition, Unavailable
from gpuproxy.model.leases import LeaseState
from gpuproxy.model.probes import Probe
from gpuproxy.model.reasons import Reason
from tests import databases
from tests.probing.test_probes import ADMIN, MUCH, by_name, nothing_is_left
from tests.servers import Server, with_servers
from tests.world import World

SMALL: dict[str, Any] = {"machines": 20, "settled": 60.0}


async def started(server: Server) -> Probe:
    return await server.engine.prober.start(ADMIN, "vast.ai", "", MUCH)


async def shown(server: Server) -> Probe:
    return await server.engine.prober.last("vast.ai", "")


async def ends(world: World, server: Server) -> Probe:
    for _ in range(3000):
        if (now := await shown(server)).state not in ("running", "releasing"):
            return now
        await world.sleep(1)
    raise AssertionError(f"the probe does not end: {now}")


def supervisor_first(servers: list[Server]) -> list[Server]:
    return sorted(servers, key=lambda each: not each.held("account:"))


def test_a_server_that_does_not_supervise_the_account_refuses_and_another_one_probes_it() -> None:
    async def story(world: World, servers: list[Server]) -> None:
        supervisor, other = supervisor_first(servers)
        with pytest.raises(Unavailable, match="Another server supervises account vast-1") as refused:
            await started(other)
        assert refused.value.retry_after
        assert world.created() == 0
        await started(supervisor)
        found = by_name(await ends(world, other))
        assert {name for name, each in found.items() if each.outcome != "measured"} == {"container_key"}
        await nothing_is_left(world)

    with_servers(2, story, **SMALL)


async def takes_over(world: World, server: Server) -> None:
    """Make the server the one that supervises the account."""
    taken = "UPDATE claims SET owner = ?, fence = fence + 1 WHERE name = 'account:vast.ai:vast-1'"
    await world.db.write(lambda tx: tx.execute(taken, (server.name,)))


def test_without_a_name_a_server_probes_an_account_that_it_supervises() -> None:
    async def story(world: World, servers: list[Server]) -> None:
        for server in servers:
            begun = await started(server)
            assert {f"account:{begun.account[0]}:{begun.account[1]}"} == server.held("account:")

    with_servers(2, story, accounts=2, **SMALL)


def test_a_probe_goes_on_if_another_server_supervises_the_account_since() -> None:
    async def story(world: World, servers: list[Server]) -> None:
        probing, other = supervisor_first(servers)
        await started(probing)
        await takes_over(world, other)
        found = by_name(await ends(world, probing))
        assert other.held("account:")
        assert {name for name, each in found.items() if each.outcome != "measured"} <= {
            "container_key", "destroy_to_gone",
        }  # fmt: skip
        await world.sleep(3600)
        await nothing_is_left(world)

    with_servers(2, story, **SMALL)


def test_all_servers_know_of_a_probe_until_it_has_ended() -> None:
    async def story(world: World, servers: list[Server]) -> None:
        probing, other = supervisor_first(servers)
        await started(probing)
        seen = set()
        while (now := await shown(probing)).state != "finished":
            seen.add(now.state)
            assert (await shown(other)).state == now.state
            await world.sleep(7)
        assert seen == {"running", "releasing"}
        assert (await shown(other)).state == "finished"

    with_servers(2, story, **SMALL)


def test_another_server_starts_no_second_probe_of_the_account() -> None:
    async def story(world: World, servers: list[Server]) -> None:
        probing, other = supervisor_first(servers)
        await started(probing)
        await takes_over(world, other)
        await world.sleep(10)
        assert other.held("account:")
        with pytest.raises(FailedPrecondition, match="is being probed") as refused:
            await started(other)
        assert refused.value.reason is Reason.PROBE_RUNNING
        await ends(world, probing)
        await started(other)

    with_servers(2, story, **SMALL)


def test_a_create_of_a_probe_that_was_taken_over_is_not_sent() -> None:
    async def story(world: World, servers: list[Server]) -> None:
        a, b = supervisor_first(servers)

        def pause_before_the_create() -> None:
            if databases.named(world.db, "SELECT 1 FROM leases WHERE call_started_at IS NOT NULL"):
                a.life.pause()
                world.after_writes.clear()

        world.after_writes.append(pause_before_the_create)
        await started(a)
        while (await world.leases())[:1] == () or (await world.leases())[0].state is LeaseState.REQUESTED:
            await world.sleep(1)
        assert (await shown(b)).state == "interrupted"
        sent = len(a.life.sent)
        a.life.resume()
        await world.sleep(3600)
        assert [each.url for each in a.life.sent[sent:] if each.method == "PUT"] == []
        assert world.created() == 0
        await nothing_is_left(world)

    with_servers(2, story, **SMALL)
