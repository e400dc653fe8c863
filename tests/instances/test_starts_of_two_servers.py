"""A start at one server and a stop at another: a stop that was confirmed is never undone."""

import asyncio

import pytest

from gpuproxy.instances.requests import LeaseView
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import FailedPrecondition, Unavailable
from gpuproxy.model.leases import LeaseState
from gpuproxy.ports import HttpRequest
from tests.servers import Server, with_servers
from tests.world import VAST, World

CALLER = Caller(project="p1")


async def parked(world: World, server: Server) -> str:
    """The contract of a machine that was ready and is stopped."""
    made = await server.reserve(1, wait_for="ready", seconds=600)
    contract = str(made.leases[0].instance_id)
    await server.engine.machines.stop(CALLER, VAST, contract)
    await world.sleep(60)
    return contract


def pause_before_start(server: Server) -> None:
    """Pause the server when it hands a start to the network."""

    def paused(request: HttpRequest) -> None:
        if request.method == "PUT" and b"running" in (request.body or b""):
            server.life.pause()

    server.life.before_send = paused


async def start_paused(world: World, server: Server, contract: str) -> "asyncio.Future[LeaseView]":
    """A start whose server is paused just before it sends the request."""
    pause_before_start(server)
    starting = asyncio.ensure_future(server.engine.machines.start(CALLER, VAST, contract))
    await world.sleep(5)
    return starting


async def status(world: World, server: Server, contract: str) -> tuple[str, LeaseState]:
    lease = (await server.engine.instances.by_contract(CALLER, VAST, contract)).lease
    return world.alive()[contract]["status"], lease.state


def test_a_late_start_does_not_undo_a_stop_that_another_server_confirmed() -> None:
    async def story(world: World, servers: list[Server]) -> None:
        a, b = servers
        contract = await parked(world, b)
        starting = await start_paused(world, a, contract)
        await b.engine.machines.stop(CALLER, VAST, contract)
        a.life.resume()
        with pytest.raises(FailedPrecondition, match="stays stopped") as refused:
            await starting
        assert refused.value.reason == "WRONG_STATE"
        await world.sleep(300)
        assert await status(world, b, contract) == ("stopped", LeaseState.PARKED)
        assert world.calls("start") == 1

    with_servers(2, story)


def test_a_start_without_a_stop_meanwhile_runs_although_its_server_was_paused() -> None:
    async def story(world: World, servers: list[Server]) -> None:
        a, b = servers
        contract = await parked(world, b)
        starting = await start_paused(world, a, contract)
        a.life.resume()
        await starting
        await world.sleep(300)
        assert await status(world, b, contract) == ("running", LeaseState.ACTIVE)

    with_servers(2, story)


def test_a_start_whose_commit_is_long_ago_is_not_sent() -> None:
    async def story(world: World, servers: list[Server]) -> None:
        a, b = servers
        contract = await parked(world, b)

        def pause_once() -> None:
            a.life.pause()
            world.after_writes.clear()

        world.after_writes.append(pause_once)
        starting = asyncio.ensure_future(a.engine.machines.start(CALLER, VAST, contract))
        await world.sleep(70)
        a.life.resume()
        with pytest.raises(Unavailable, match="may be repeated"):
            await starting
        await world.sleep(300)
        assert await status(world, b, contract) == ("stopped", LeaseState.PARKED)
        assert world.calls("start") == 0

    with_servers(2, story)
