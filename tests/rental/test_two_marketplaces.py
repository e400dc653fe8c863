"""One call rents at two marketplaces, on a market where neither alone has enough."""

from collections.abc import Mapping
from typing import Any

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import FailedPrecondition
from gpuproxy.model.leases import LeaseState
from gpuproxy.model.offers import ProviderName
from gpuproxy.model.strategies import STRATEGIES
from tests.world import World, in_world

VAST, IONET = ProviderName("vast.ai"), ProviderName("io.net")
ANY = {"verified_only": False, "max_price": 10.0}
SMALL: Mapping[str, Any] = {"seed": 3, "machines": 3, "prepaid_accounts": 1}
"""vast.ai has three GPUs that are free at once."""


def leave_free(world: World, hosts: int) -> None:
    """Let other customers have all of io.net but some hosts with four GPUs each."""
    fours = [host for host in world.sandbox.prepaid.hosts.values() if host.gpus == 4 and not host.broken]
    for host in world.sandbox.prepaid.hosts.values():
        host.strangers = 0 if host in fours[:hosts] else host.gpus


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_where_neither_marketplace_has_enough_a_call_rents_at_both_and_destroy_works_at_each(strategy: str):
    async def story(world: World) -> None:
        for provider in (VAST, IONET):
            with pytest.raises(FailedPrecondition, match="Not enough GPUs"):
                await world.reserve(5, providers=frozenset({provider}), strategy=strategy, **ANY)
        made = await world.reserve(5, strategy=strategy, **ANY)
        assert sum(lease.offered.num_gpus for lease in made.kept) == 5
        assert {lease.provider for lease in made.kept} == {VAST, IONET}
        await world.sleep(300)
        assert {lease.state for lease in (await world.view(made.reservation.id)).kept} == {LeaseState.ACTIVE}
        for lease in made.kept:
            await world.engine.instances.destroy(Caller(project="p1"), lease.provider, str(lease.instance_id))
        await world.sleep(300)
        assert not await world.live()
        assert all(each["status"] == "destroyed" for each in world.market["instances"])

    async def start(world: World) -> None:
        leave_free(world, 1)
        await world.restart()
        await world.sleep(5)
        await story(world)

    in_world(start, **SMALL)


@pytest.mark.parametrize(("free", "cheapest"), [(0, VAST), (99, IONET)])
def test_the_cheapest_gpu_of_both_marketplaces_is_rented(free: int, cheapest: ProviderName):
    async def story(world: World) -> None:
        leave_free(world, free)
        await world.restart()
        await world.sleep(5)
        first = await world.reserve(1, strategy="lowest_price", **ANY)
        second = await world.reserve(1, strategy="lowest_price", **ANY)
        third = await world.reserve(1, strategy="lowest_price", providers=frozenset({VAST}), **ANY)
        assert first.kept[0].provider == VAST
        assert second.kept[0].provider == cheapest
        prices = [made.kept[0].observed.price / made.kept[0].offered.num_gpus for made in (first, second, third)]
        assert prices == sorted(prices)

    in_world(story, **SMALL)
