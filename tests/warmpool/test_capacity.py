"""How many pools one account carries: its searches are limited, and each standby's GPUs are looked for in time.

The market has vast.ai's limits: ten searches a minute, 64 rows in an answer. The catalog reads it all the time.
"""

from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest

from gpuproxy.model.leases import ReservationId
from gpuproxy.model.offers import HostKey
from gpuproxy.model.pools import Pool, PoolId, PoolSpec, PoolState
from gpuproxy.providers.vast import DESCRIPTOR
from gpuproxy.runtime.background import Background
from gpuproxy.store import claims, pools
from gpuproxy.warmpool import free_gpus
from gpuproxy.warmpool.free_gpus import FreeGpus, pools_per_account
from gpuproxy.warmpool.limits import PoolLimits
from tests import databases
from tests.world import VAST, World, in_world

LIMITS = PoolLimits()
SETTLES, MEASURED = 240, 360
"""Seconds: until the number of rows of each host is known, and after that."""


def pool_on(number: int, world: World) -> Pool:
    """A pool of one GPU without a standby, so that any free chunk of its host will do."""
    return Pool(
        id=PoolId(f"pool-{number}"), project="p1", machine_id=number, ledger=ReservationId(""), nonce="n",
        state=PoolState.ACTIVE, wanted="supervised", created_at=world.clock.now(), provider=VAST,
        spec=PoolSpec(max_price=100.0, disk_gb=1), account="vast-1", host=HostKey(f"{VAST}/{number}"),
        mode="recreate", founded=True,
    )  # fmt: skip


def one_chunk_each(world: World, count: int) -> list[int]:
    """So many hosts on which one chunk of one GPU is free, and nothing else."""
    market, found = world.sandbox.market, []
    for machine in market.machines.values():
        single = [chunk for chunk in machine.chunks if chunk.gpus == 1 and chunk.rentable]
        if single and len(found) < count:
            market.hold(machine, ~machine.held & ((1 << machine.gpus) - 1) & ~single[0].mask)
            found.append(machine.id)
    assert len(found) == count
    return found


def longest_ages(count: int) -> list[float]:
    """For so many pools on as many hosts: the greatest age of each pool's last good look, in seconds."""

    async def story(world: World) -> list[float]:
        await world.sleep(20)
        books, (provider,) = databases.opened(world.clock.now), world.engine.accounts
        free, looks = FreeGpus(books, world.clock), Background("look")
        claim = await books.write(lambda tx: claims.take(tx, "account", "a", None))
        assert claim is not None
        for number in one_chunk_each(world, count):
            await books.write(partial(pools.insert, pool=pool_on(number, world)))
        ages = dict.fromkeys((pool.id for pool in await books.read(pools.at_work)), timedelta(0))
        ends = world.clock.monotonic() + SETTLES + MEASURED
        while world.clock.monotonic() < ends:
            found = await books.read(pools.at_work)
            if due := free_gpus.due(found, world.clock.now(), LIMITS):
                looks.start_once(partial(free.look, provider, due, claim), "look")
            if ends - world.clock.monotonic() < MEASURED:
                for pool in found:
                    assert pool.checked_at is not None
                    ages[pool.id] = max(ages[pool.id], world.clock.now() - pool.checked_at)
            await world.sleep(LIMITS.check_seconds)
        await looks.close()
        return [age.total_seconds() for age in ages.values()]

    return in_world(story, paced=True, machines=1200, search_page=64)


def test_an_account_of_vast_ai_carries_as_many_active_pools_as_the_documentation_says():
    promised = pools_per_account(DESCRIPTOR.capabilities, LIMITS)
    assert promised is not None
    assert max(longest_ages(promised)) <= LIMITS.unchecked_seconds


@pytest.mark.sampled(0)
def test_with_many_more_pools_some_are_not_looked_for_in_time():
    promised = pools_per_account(DESCRIPTOR.capabilities, LIMITS)
    assert promised is not None
    assert max(longest_ages(3 * promised)) > LIMITS.unchecked_seconds


@pytest.mark.parametrize(("rows", "share"), [(1.0, 1.0), (2.0, 0.5), (4.0, 0.25)])
def test_hosts_with_more_free_chunks_take_more_of_an_answer(rows: float, share: float):
    most = pools_per_account(DESCRIPTOR.capabilities, LIMITS)
    assert most is not None
    assert pools_per_account(DESCRIPTOR.capabilities, LIMITS, rows) == int(most * share)


def test_a_marketplace_without_a_limit_of_searches_carries_any_number():
    assert pools_per_account(replace(DESCRIPTOR.capabilities, search_interval=0.0), LIMITS) is None


def test_slower_looks_carry_fewer_pools_and_a_longer_patience_carries_more():
    usual = pools_per_account(DESCRIPTOR.capabilities, LIMITS)
    patient = pools_per_account(DESCRIPTOR.capabilities, replace(LIMITS, unchecked_seconds=120.0))
    slow = pools_per_account(replace(DESCRIPTOR.capabilities, search_interval=12.0), LIMITS)
    assert usual is not None
    assert patient is not None
    assert slow is not None
    assert patient >= 2 * usual
    assert slow <= usual // 2
