"""Each offer that a rental would not choose is counted at exactly one rule, which says why."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from gpuproxy.catalog.index import RULES
from gpuproxy.edge.web.left_out import WORDS
from gpuproxy.loadbalancer import left_out as module
from gpuproxy.loadbalancer.left_out import LeftOut
from gpuproxy.model.demands import Caller, Demand
from gpuproxy.model.groups import SAME_COUNTRY, SAME_MODEL
from gpuproxy.model.offers import ENDS_TOO_SOON, LOWER_BOUNDS, OfferFilter
from tests.world import World, in_world

CALLER = Caller(project="p1")


def demand(count: int = 1, **filters: Any) -> Demand:
    return Demand(count=count, filter=OfferFilter(**{"max_price": 10.0, **filters}), lease_duration=timedelta(days=1))


async def asked(world: World, wanted: Demand) -> dict[str, int]:
    found = await world.engine.reserver.left_out(CALLER, wanted)
    consistent(found)
    return {each.rule: each.total for each in found.rules}


def consistent(found: LeftOut) -> None:
    assert found.fitting + sum(each.total for each in found.rules) == found.total
    for each in found.rules:
        assert len(each.offers) == min(each.total, module.MOST)
        assert all(offer.offer_id and offer.price_per_gpu_hour > 0 for offer in each.offers)


def test_a_dry_run_and_the_reasons_count_the_same_offers() -> None:
    async def story(world: World) -> None:
        wanted = replace(demand(2, min_vram=20, max_price=0.4, min_reliability=0.97), dry_run=True)
        plan = (await world.engine.reserver.reserve(CALLER, wanted)).reservation.decision
        assert plan is not None
        found = await world.engine.reserver.left_out(CALLER, wanted)
        assert (found.total, found.fitting) == (plan.considered, plan.eligible)
        assert {each.rule: each.total for each in found.rules} == dict(plan.rejected)

    in_world(story)


@pytest.mark.parametrize(
    ("filters", "rule", "breaks"),
    [
        ({"min_vram": 40}, "min_vram", lambda fact: float(fact.removesuffix(" GB")) < 40),
        ({"min_reliability": 0.99}, "min_reliability", lambda fact: float(fact.removesuffix(" %")) < 99),
        ({}, "verified_only", lambda fact: fact == "not verified"),
        ({"min_cuda": 12.9}, "min_cuda", lambda fact: fact == "not known" or float(fact.removeprefix("CUDA ")) < 12.9),
        ({"disk_gb": 3000.0}, "disk_gb", lambda fact: float(fact.removesuffix(" GB free")) < 3000),
        ({"min_ram_gb": 500.0}, "min_ram_gb", lambda fact: fact == "not known" or float(fact) < 500),
    ],
)
def test_what_breaks_the_rule_is_shown_for_each_offer(
    filters: dict[str, Any], rule: str, breaks: Callable[[str], bool]
) -> None:
    async def story(world: World) -> None:
        found = await world.engine.reserver.left_out(CALLER, demand(**filters))
        offers = next(each for each in found.rules if each.rule == rule).offers
        assert offers
        assert all(breaks(offer.fact) for offer in offers), offers

    in_world(story)


def test_what_is_rented_here_is_left_out_as_rented_and_a_paused_account_as_no_account() -> None:
    async def story(world: World) -> None:
        before = await asked(world, demand())
        assert not {module.RENTED, module.NO_ACCOUNT} & set(before)
        await world.reserve(4)
        between = await asked(world, demand())
        assert between[module.RENTED] >= 4
        world.arm("create", "auth_error", times=0)
        world.arm("list", "auth_error", times=0)
        await world.sleep(120)
        after = await asked(world, demand())
        assert after.get(module.NO_ACCOUNT, 0) > 0
        assert between.get(module.NO_ACCOUNT, 0) == 0

    in_world(story)


def test_every_rule_has_words() -> None:
    names = {name for name, _ in RULES} | set(LOWER_BOUNDS) | {ENDS_TOO_SOON, SAME_MODEL, SAME_COUNTRY}
    names |= {module.NO_ACCOUNT, module.RENTED, module.NO_CAPACITY, module.EJECTED, module.UNREACHABLE}
    assert names - set(WORDS) == set()
