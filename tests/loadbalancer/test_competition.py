"""With the packings pack and single_host, all hosts that can give a part compete for it, whatever else they offer."""

import random
from collections.abc import Sequence
from itertools import count

import pytest

from gpuproxy.loadbalancer.balancer import Choice, Shortage, Want, choose
from gpuproxy.loadbalancer.one_host import noted
from gpuproxy.model.chunks import by_host, shape
from gpuproxy.model.demands import Packing
from gpuproxy.model.load import HostLoad
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import Offer
from gpuproxy.model.strategies import STRATEGIES
from tests.markets import nested, offer, random_market


def host(name: str, gpus: int, sizes: tuple[int, ...], per_gpu: int) -> list[Offer]:
    """A host with nested chunks, all at one price per GPU."""
    numbers = count(1_000 * ord(name))
    return [
        each
        for size in sizes
        for each in nested(numbers, name, gpus, (size,), gpu_price=Micro(size * per_gpu), host_gpus=gpus)
    ]


def chosen(offers: Sequence[Offer], gpus: int, packing: Packing, strategy: str = "lowest_price") -> Choice:
    return choose(Want(count=gpus, packing=packing), offers, {}, strategy)


def hosts(choice: Choice) -> list[str]:
    return [pick.machine_id for pick in choice.picks]


SOME_WHOLE = [
    *host("a", 4, (1, 2, 4), 300_000),
    *host("b", 4, (4,), 200_000),
    *host("c", 8, (4, 8), 100_000),
    *host("d", 8, (1, 4), 400_000),
]


@pytest.mark.parametrize("strategy", ["lowest_price", "least_connections"])
@pytest.mark.parametrize("packing", ["pack", "single_host"])
def test_the_cheapest_host_that_gives_all_gpus_wins_whatever_else_it_offers(strategy: str, packing: Packing) -> None:
    choice = chosen(SOME_WHOLE, 4, packing, strategy)
    assert hosts(choice) == ["c"]
    assert [pick.host for pick in choice.decision.top] == ["vast.ai/c", "vast.ai/b", "vast.ai/a", "vast.ai/d"]
    assert choice.decision.picks[0].why == "cheapest ($0.4000/h; runner-up $0.8000/h)"
    assert choice.decision.cheapest_alternative == 400_000


def test_a_host_that_needs_more_machines_for_it_does_not_compete() -> None:
    cheap_pair = host("z", 4, (1, 2), 1_000)
    assert hosts(chosen([*SOME_WHOLE, *cheap_pair], 4, "single_host")) == ["c"]
    assert hosts(chosen([*host("a", 4, (1,), 500), *cheap_pair], 4, "single_host")) == ["z", "z"]


def test_a_host_is_the_only_candidate_only_if_no_other_can_give_so_many() -> None:
    alone = [*host("a", 4, (4,), 300_000), *host("z", 2, (2,), 1_000)]
    assert chosen(alone, 4, "single_host").decision.picks[0].why == "the only candidate left"


def test_the_price_of_one_host_is_that_of_the_cheapest_one() -> None:
    singles = [offer(number, gpu_price=Micro(90_000)) for number in range(1, 5)]
    offers = [*singles, *SOME_WHOLE]
    choice = noted(chosen(offers, 4, "any"), "any", lambda gpus: chosen(offers, gpus, "single_host"))
    assert choice.decision.notes[-1].endswith("packing single_host would cost $0.4000/h")


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_no_pick_takes_the_last_host_of_another_part(strategy: str) -> None:
    # The cheapest host for four GPUs is the only one for two.
    offers = [*host("a", 4, (2, 4), 100_000), *host("b", 4, (4,), 900_000)]
    offers = [each for each in offers if each.num_gpus == 4 or each.conflict_keys[0] == "a:0"]
    choice = chosen(offers, 6, "pack", strategy)
    assert hosts(choice) == ["b", "a"]
    assert [pick.num_gpus for pick in choice.picks] == [4, 2]
    more = [*offers, *host("c", 2, (2,), 950_000)]
    if strategy == "lowest_price":
        assert hosts(chosen(more, 6, "pack", strategy)) == ["a", "c"]


@pytest.mark.seeds(1, 4)
def test_the_cheapest_run_takes_the_cheapest_able_host_of_random_markets(seed: int) -> None:
    for number in range(seed, 400, 4):
        offers = random_market(number, 2 + number % 30)
        gpus = random.Random(number).choice((1, 2, 3, 4, 5, 6, 8))
        costs = {name: shape(own, "few").costs[gpus] for name, own in by_host(offers).items()}
        try:
            choice = chosen(offers, gpus, "single_host")
        except Shortage:
            continue
        able = [own for name, own in by_host(offers).items() if costs[name] == min(costs.values())]
        # All chunks of a host have one price per GPU.
        assert sum(each.gpu_price for each in choice.picks) == gpus * min(
            own[0].gpu_price // own[0].num_gpus for own in able
        )


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
@pytest.mark.seeds(1, 4)
def test_what_pack_planned_is_always_completed(strategy: str, seed: int) -> None:
    """Hosts of many layouts, and hardly more of them than are needed."""
    for number in range(seed, 400, 4):
        offers = random_market(number, 2 + number % 5, crossing=number % 2 == 0)
        for gpus in (3, 5, 6, 7, 10, 13, 16):
            try:
                choice = chosen(offers, gpus, "pack", strategy)
            except Shortage:
                continue
            assert sum(pick.num_gpus for pick in choice.picks) == gpus
            keys = [key for pick in choice.picks for key in pick.conflict_keys]
            assert len(keys) == len(set(keys))


def test_the_cheapest_alternative_is_never_dearer_than_the_choice() -> None:
    # The cheapest host for four GPUs is also the cheapest one for two, so lowest_price pays more for the rest.
    offers = [*host("a", 4, (2, 4), 100_000), *host("b", 4, (4,), 110_000), *host("c", 2, (2,), 900_000)]
    load = {offers[0].host: HostLoad(live=1), offers[-1].host: HostLoad(live=2)}
    choice = choose(Want(count=6, packing="pack"), offers, load, "least_connections")
    assert hosts(choice) == ["b", "a"]
    assert choice.decision.cheapest_alternative == 440_000 + 200_000
    cheapest = chosen(offers, 6, "pack")
    assert hosts(cheapest) == ["a", "c"]
    assert cheapest.decision.cheapest_alternative == 400_000 + 1_800_000
