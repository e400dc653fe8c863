"""The dead man's switch: with the server gone for good, machines end themselves after the end in their label only.

The real script, as the adapter sent it, in shells on the sandbox's market in virtual time: see `containers`.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from gpuproxy.model.demands import Caller, LaunchSpec
from gpuproxy.sandbox.market.instances import Phase
from tests.boot.containers import Container, Containers
from tests.boot.machine import SHELLS
from tests.world import World, in_world

pytestmark = pytest.mark.long
_LATEST = 15 * 60.0
_LEASE = 1200
EXECS = LaunchSpec(onstart="#!/bin/sh\nexec true\n")


async def _rented(world: World, count: int, **wanted: object) -> list[str]:
    """The contracts of so many running machines with one GPU each, whose server is gone for good."""
    view = await world.reserve(count, packing="single", lease=_LEASE, spec=EXECS, **wanted)
    await _running(world)
    return [str(lease.instance_id) for lease in view.leases if lease.instance_id]


async def _running(world: World) -> None:
    while any(each.phase is not Phase.RUNNING for each in world.sandbox.market.instances.values()):
        await world.sleep(10)
        world.sandbox.tick()


async def _ends(world: World) -> dict[str, float]:
    """When each machine ends according to the books."""
    return {str(each.instance_id): each.expires_at.timestamp() for each in await world.live() if each.expires_at}


def _story(
    tmp_path: Path, shell: str, play: Callable[[World, Containers, list[str], float], Awaitable[None]], count: int = 1
) -> None:
    async def story(world: World) -> None:
        contracts = await _rented(world, count)
        end = (await _ends(world))[contracts[0]]
        await world.kill()
        with Containers(world, tmp_path, shell) as containers:
            await play(world, containers, contracts, end)

    in_world(story)


async def _asks(containers: Containers, container: Container) -> None:
    """Let time pass until the container has sent one more request. Fails if it has ended itself."""
    seen = len(container.asked)
    while len(container.asked) == seen:
        assert containers.exists(container)
        await containers.run(containers.now + 5)


def _relabel(world: World, container: Container, label: str | None) -> None:
    world.sandbox.market.label(container.instance, label)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_machine_destroys_itself_after_its_end_and_not_before(tmp_path: Path, shell: str) -> None:
    async def play(_: World, containers: Containers, contracts: list[str], end: float) -> None:
        container = containers.start(contracts[0])
        await containers.run(end + 600)
        assert containers.exists(container)
        await containers.run(end + _LATEST)
        ended = containers.ended_at(container)
        assert ended is not None
        assert end + 600 < ended <= end + _LATEST
        *_, first, second, last = container.asked
        assert [first[1], second[1], last[1]] == ["GET", "GET", "DELETE"]
        assert second[0] - first[0] >= 60

    _story(tmp_path, shell, play)


@pytest.mark.sampled(0)
def test_100_machines_whose_server_is_gone_for_good_end_themselves_half_of_them_later(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        extended: list[str] = []
        for number in range(10):
            view = await world.reserve(10, packing="single", lease=_LEASE, spec=EXECS)
            assert len(view.kept) == 10
            if number % 2:
                await _running(world)
                later = view.reservation.expires_at + timedelta(seconds=600)  # type: ignore[operator]
                await world.engine.reservations.extend(Caller(project="p1"), view.reservation.id, later)
                extended += [str(lease.instance_id) for lease in view.kept]
        await _running(world)
        ends = await _ends(world)
        assert (len(ends), len(extended)) == (100, 50)
        assert {round(ends[each]) - round(min(ends.values())) > 500 for each in extended} == {True}
        await world.kill()
        with Containers(world, tmp_path) as containers:
            started = {contract: containers.start(contract) for contract in sorted(ends)}
            await containers.run(max(ends.values()) + _LATEST)
            late = {each: (containers.ended_at(started[each]) or 0) - ends[each] for each in ends}
            assert min(late.values()) > 0
            assert max(late.values()) <= _LATEST
            assert not world.alive()

    in_world(story, machines=200)


@pytest.mark.parametrize("label", [None, "", "mine", "gpx-abc234-slotslot-01-abc234", "{label}x", "{plain}.e0.d.abc"])
def test_a_machine_without_a_well_formed_end_in_its_label_stays(tmp_path: Path, label: str | None) -> None:
    async def play(world: World, containers: Containers, contracts: list[str], end: float) -> None:
        container = containers.start(contracts[0])
        own = container.instance.label or ""
        text = None if label is None else label.format(label=own, plain=own.partition(".")[0])
        _relabel(world, container, text)
        await containers.run(end + 3600)
        assert containers.exists(container)
        _relabel(world, container, own)
        await containers.run(end + 3600 + 300)
        assert not containers.exists(container)

    _story(tmp_path, "dash", play)


@pytest.mark.parametrize("fault", ["status_before", "auth_error", "html_502", "empty_body"])
def test_an_answer_without_status_200_ends_nothing(tmp_path: Path, fault: str) -> None:
    async def play(world: World, containers: Containers, contracts: list[str], end: float) -> None:
        container = containers.start(contracts[0])
        world.arm("get", fault, times=0, account=container.instance.api_key, status=403)
        await containers.run(end + 3600)
        assert containers.exists(container)
        assert len(container.asked) > 30
        world.control("DELETE", "faults")
        await containers.run(end + 3600 + 300)
        assert not containers.exists(container)

    _story(tmp_path, "dash", play)


def test_one_read_past_the_end_ends_nothing(tmp_path: Path) -> None:
    async def play(world: World, containers: Containers, contracts: list[str], end: float) -> None:
        container = containers.start(contracts[0])
        own = container.instance.label
        await containers.run(end + 600)
        await _asks(containers, container)
        _relabel(world, container, None)
        await containers.run(containers.now + 300)
        _relabel(world, container, own)
        await _asks(containers, container)  # again only one read shows the end
        _relabel(world, container, None)
        await containers.run(containers.now + 1800)
        assert containers.exists(container)

    _story(tmp_path, "dash", play)


def test_two_reads_with_different_ends_end_nothing(tmp_path: Path) -> None:
    async def play(world: World, containers: Containers, contracts: list[str], end: float) -> None:
        container = containers.start(contracts[0])
        lease = next(each for each in await world.leases() if str(each.instance_id) == contracts[0])
        ends = [datetime.fromtimestamp(end - seconds, lease.created_at.tzinfo) for seconds in (0, 1)]
        labels = [world.engine.signer.with_end(lease.label, at, "d") for at in ends]
        await containers.run(end + 601)
        for number in range(40):
            _relabel(world, container, labels[number % 2])
            await _asks(containers, container)
        assert containers.exists(container)
        assert {method for _, method in container.asked} == {"GET"}

    _story(tmp_path, "dash", play)


@pytest.mark.parametrize("skew", [86_400, -86_400])
def test_a_wrong_clock_of_the_container_changes_nothing(tmp_path: Path, skew: int) -> None:
    async def play(_: World, containers: Containers, contracts: list[str], end: float) -> None:
        container = containers.start(contracts[0], skew=skew)
        await containers.run(end + 600)
        assert containers.exists(container)
        await containers.run(end + _LATEST)
        assert not containers.exists(container)

    _story(tmp_path, "dash", play)


def test_a_machine_that_starts_again_past_its_end_ends_itself(tmp_path: Path) -> None:
    async def play(world: World, containers: Containers, contracts: list[str], end: float) -> None:
        first = containers.start(contracts[0])
        world.sandbox.market.stop(first.instance)
        await containers.run(end + 7200)
        assert containers.exists(first)  # a stopped machine has no watchdog
        assert world.sandbox.market.start(first.instance)
        await _running(world)
        began = containers.now
        again = containers.start(contracts[0])
        await containers.run(began + 60)
        assert containers.exists(again)
        await containers.run(began + 300)
        assert not containers.exists(again)

    _story(tmp_path, "dash", play)


def test_a_machine_whose_end_is_a_default_stops_itself(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await _rented(world, 1, lease_grace=timedelta(days=1))
        [(contract, end)] = (await _ends(world)).items()
        await world.kill()
        with Containers(world, tmp_path) as containers:
            container = containers.start(contract)
            await containers.run(end + 600)
            assert container.instance.phase is Phase.RUNNING
            await containers.run(end + _LATEST)
            assert container.instance.phase is Phase.STOPPED
            assert containers.exists(container)

    in_world(story)
