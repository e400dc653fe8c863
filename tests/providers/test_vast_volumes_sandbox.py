"""The adapter's volumes on the sandbox: their life, sharing, and every fault."""

from dataclasses import replace
from typing import Any

import pytest

from gpuproxy.model.demands import VolumeMount
from gpuproxy.model.errors import InvalidRequest, OutcomeUnknown, ProviderError, Refused, VolumeInUse
from gpuproxy.model.leases import InstanceId
from gpuproxy.model.offers import Offer, OfferFilter
from gpuproxy.ports import InstanceStatus, VolumeOffer
from tests.providers.test_vast_sandbox import World
from tests.providers.wires import LABEL, SPEC, found
from tests.virtual_time import VirtualClock, run_virtual

LOST = ["hang_after", "reset_after", "status_after", "truncated", "empty_body", "malformed_json"]
"""The call was executed."""
UNHEARD = ["html_502", "refuse_connection", "rate_limited", "auth_error", "session_expired", "refused_200"]


async def site(world: World) -> tuple[VolumeOffer, list[Offer]]:
    """A host with space for a volume and at least two free chunks that exclude each other not."""
    hosts: dict[str, list[Offer]] = {}
    for offer in await found(world.vast):
        chosen = hosts.setdefault(offer.machine_id, [])
        if not any(set(one.conflict_keys) & set(offer.conflict_keys) for one in chosen):
            chosen.append(offer)
    fitting = [host for host, chosen in hosts.items() if len(chosen) > 1]
    volumes = await world.vast.volume_offers(fitting, 50)
    return volumes[0], hosts[volumes[0].machine_id]


async def mounting(world: World) -> tuple[InstanceId, Any, list[Offer]]:
    """A new volume, a launch that mounts it, and two offers on its host."""
    space, chunks = await site(world)
    made = await world.vast.create_volume(space, 50, LABEL)
    mount = VolumeMount(volume_id=made.instance_id, path="/data")
    return made.instance_id, replace(SPEC, volume=mount), chunks


def test_every_host_with_space_is_found_and_no_other() -> None:
    async def use(clock: VirtualClock) -> None:
        world = World(clock, machines=150)
        machines = world.sandbox.market.machines.values()
        ids = [str(each.id) for each in machines]
        roomy = {str(each.id) for each in machines if each.online and float(str(each.columns["avail_vol_size"])) >= 500}
        assert 0 < len(roomy) < len(ids)
        assert {offer.machine_id for offer in await world.vast.volume_offers(ids, 500)} == roomy

    run_virtual(use)


def test_a_volume_lives_longer_than_its_machine_and_then_is_deleted() -> None:
    async def use(clock: VirtualClock) -> None:
        world = World(clock)
        volume_id, spec, chunks = await mounting(world)
        made = await world.vast.create(chunks[0], spec, LABEL)
        [volume] = (await world.vast.list_volumes()).volumes
        assert (volume.id, volume.label, volume.size_gb) == (volume_id, LABEL, 50)
        assert (volume.used_by, volume.in_use) == ((made.instance_id,), True)
        with pytest.raises(VolumeInUse):
            await world.vast.delete_volume(volume_id)
        await world.vast.destroy(made.instance_id)
        [volume] = (await world.vast.list_volumes()).volumes
        assert (volume.used_by, volume.in_use) == ((), True)
        await clock.sleep(31)
        [volume] = (await world.vast.list_volumes()).volumes
        assert not volume.in_use
        assert await world.vast.delete_volume(volume_id) is False
        assert not (await world.vast.list_volumes()).volumes
        assert await world.vast.delete_volume(volume_id) is True

    run_virtual(use)


def test_a_standby_is_created_stopped_with_the_volume_and_starts_later() -> None:
    async def use(clock: VirtualClock) -> None:
        world = World(clock)
        _, spec, chunks = await mounting(world)
        first = await world.vast.create(chunks[0], spec, LABEL)
        second = await world.vast.create(chunks[1], replace(spec, stopped=True), LABEL)
        await clock.sleep(100)
        primary, standby = await world.vast.get(first.instance_id), await world.vast.get(second.instance_id)
        assert primary is not None
        assert standby is not None
        assert (primary.status, primary.at_rest) == (InstanceStatus.RUNNING, False)
        assert (standby.status, standby.at_rest) == (InstanceStatus.STOPPED, True)
        assert set((await world.vast.list_volumes()).volumes[0].used_by) == {first.instance_id, second.instance_id}
        await world.vast.start(second.instance_id)
        standby = await world.vast.get(second.instance_id)
        assert standby is not None
        assert not standby.at_rest

    run_virtual(use)


def test_a_queued_start_is_not_at_rest_until_it_is_cancelled() -> None:
    async def use(clock: VirtualClock) -> None:
        world = World(clock)
        _, spec, chunks = await mounting(world)
        made = await world.vast.create(chunks[0], replace(spec, stopped=True), LABEL)
        world.arm("start", "start_refused")
        with pytest.raises(Refused):
            await world.vast.start(made.instance_id)
        queued = await world.vast.get(made.instance_id)
        await world.vast.stop(made.instance_id)
        cancelled = await world.vast.get(made.instance_id)
        assert queued is not None
        assert cancelled is not None
        assert (queued.at_rest, cancelled.at_rest) == (False, True)

    run_virtual(use)


def test_where_sharing_is_refused_the_second_machine_says_that_the_volume_is_in_use() -> None:
    async def use(clock: VirtualClock) -> None:
        world = World(clock, volume_sharing="refuse")
        _, spec, chunks = await mounting(world)
        await world.vast.create(chunks[0], spec, LABEL)
        with pytest.raises(VolumeInUse):
            await world.vast.create(chunks[1], replace(spec, stopped=True), LABEL)
        assert len(world.made()) == 1

    run_virtual(use)


def test_a_volume_of_another_host_or_of_nobody_is_an_invalid_request() -> None:
    async def use(clock: VirtualClock) -> None:
        world = World(clock)
        _, spec, chunks = await mounting(world)
        other = next(offer for offer in await found(world.vast) if offer.machine_id != chunks[0].machine_id)
        with pytest.raises(InvalidRequest):
            await world.vast.create(other, spec, LABEL)
        unknown = replace(spec, volume=VolumeMount(volume_id="V.5", path="/data"))
        with pytest.raises(InvalidRequest):
            await world.vast.create(chunks[0], unknown, LABEL)
        assert not world.made()

    run_virtual(use)


@pytest.mark.parametrize("fault", LOST)
def test_a_volume_whose_answer_is_lost_is_unknown_and_found_by_its_label(fault: str) -> None:
    async def use(clock: VirtualClock) -> None:
        world = World(clock)
        space, _ = await site(world)
        world.arm("volume_create", fault)
        with pytest.raises(OutcomeUnknown):
            await world.vast.create_volume(space, 50, LABEL)
        assert [volume.label for volume in (await world.vast.list_volumes()).volumes] == [LABEL]

    run_virtual(use)


@pytest.mark.parametrize(
    "fault", ["refuse_connection", "rate_limited", "auth_error", "offer_gone", "insufficient_credit"]
)
def test_a_refused_volume_does_not_exist(fault: str) -> None:
    async def use(clock: VirtualClock) -> None:
        world = World(clock)
        space, _ = await site(world)
        world.arm("volume_create", fault)
        with pytest.raises(Refused):
            await world.vast.create_volume(space, 50, LABEL)
        assert not (await world.vast.list_volumes()).volumes

    run_virtual(use)


@pytest.mark.parametrize("fault", [*LOST, *UNHEARD])
@pytest.mark.parametrize("call", ["volume_list", "volume_search", "volume_delete"])
def test_a_failed_call_about_volumes_is_an_error(call: str, fault: str) -> None:
    async def use(clock: VirtualClock) -> None:
        world = World(clock)
        space, _ = await site(world)
        made = await world.vast.create_volume(space, 50, LABEL)
        world.arm(call, fault)
        with pytest.raises(ProviderError):
            if call == "volume_list":
                await world.vast.list_volumes()
            elif call == "volume_search":
                await world.vast.volume_offers([space.machine_id], 50)
            else:
                await world.vast.delete_volume(made.instance_id)

    run_virtual(use)


def test_the_real_limits_are_kept() -> None:
    async def use(clock: VirtualClock) -> None:
        world = World(clock, rate_limits="real")
        space, _ = await site(world)
        for number in range(3):
            made = await world.vast.create_volume(space, 10, f"{LABEL}{number}")
            await world.vast.list_volumes()
            await world.vast.volume_offers([space.machine_id], 10)
            await world.vast.delete_volume(made.instance_id)

    run_virtual(use)


def test_a_search_for_some_machines_finds_exactly_their_offers() -> None:
    async def use(clock: VirtualClock) -> None:
        world = World(clock, machines=150, search_page=64)
        everything = await found(world.vast)
        hosts = frozenset(sorted({offer.machine_id for offer in everything})[::7])
        wanted = OfferFilter(max_price=1000.0, verified_only=False, machine_ids=hosts)
        expected = {offer.id for offer in everything if offer.machine_id in hosts}
        assert {offer.id for offer in await found(world.vast, wanted)} == expected

    run_virtual(use)
