import random
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from gpuproxy.loadbalancer.balancer import Choice, Shortage, Want, choose
from gpuproxy.model.chunks import rentable_gpus
from gpuproxy.model.demands import PACKINGS, Packing
from gpuproxy.model.errors import InvalidArgument
from gpuproxy.model.load import HostLoad
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import HostKey, Offer
from gpuproxy.model.strategies import STRATEGIES
from tests.markets import VAST, nested, offer, random_market

_PARTS = 4


def endless(name: str, **facts: object) -> Offer:
    """A host with an unlimited number of one-GPU machines."""
    return offer(ord(name), name, conflict_keys=(), **facts)


def hosts(choice: Choice) -> str:
    return "".join(pick.machine_id for pick in choice.picks)


def sizes(choice: Choice) -> list[int]:
    return [pick.num_gpus for pick in choice.picks]


def priced(number: int, host: str, price: int, **facts: object) -> Offer:
    return offer(number, host, gpu_price=Micro(price), **facts)


def random_load(offers: Sequence[Offer], dice: random.Random) -> dict[HostKey, HostLoad]:
    base = datetime(2026, 6, 1, tzinfo=UTC)
    return {
        host: HostLoad(live=dice.randrange(3), picks=5, last_picked_at=base + timedelta(seconds=dice.randrange(50)))
        for host in {each.host for each in offers}
        if dice.random() < 0.5
    }


def test_least_connections_goes_round_equal_hosts() -> None:
    offers = [endless(name) for name in "dbca"]
    assert hosts(choose(Want(count=9), offers, {}, "least_connections")) == "abcdabcda"


def test_least_connections_prefers_the_host_with_fewer_live_leases() -> None:
    offers = [priced(1, "a", 100_000), priced(2, "b", 900_000)]
    load = {offers[0].host: HostLoad(live=1)}
    assert hosts(choose(Want(count=1), offers, load, "least_connections")) == "b"
    assert hosts(choose(Want(count=1), offers, {}, "least_connections")) == "a"


def test_least_connections_gives_big_hosts_no_bonus() -> None:
    offers = [priced(1, "a", 100_000, host_gpus=8), priced(2, "b", 100_001, host_gpus=1)]
    load = {offers[0].host: HostLoad(live=1), offers[1].host: HostLoad(live=1)}
    assert hosts(choose(Want(count=2), offers, load, "least_connections")) == "ab"


def test_lowest_price_takes_the_cheapest_first() -> None:
    offers = [priced(1, "a", 300_000), priced(2, "b", 100_000), priced(3, "c", 200_000)]
    assert hosts(choose(Want(count=3), offers, {}, "lowest_price")) == "bca"


def test_lowest_price_does_not_look_at_load() -> None:
    offers = [priced(1, "a", 100_000), priced(2, "b", 100_001)]
    load = {offers[0].host: HostLoad(live=7)}
    assert hosts(choose(Want(count=1), offers, load, "lowest_price")) == "a"


def test_the_price_compared_includes_the_disk() -> None:
    offers = [
        priced(1, "a", 100_000, disk_price_month=Micro(7_200_000)),
        priced(2, "b", 150_000, disk_price_month=Micro(0)),
    ]
    assert hosts(choose(Want(count=1, disk_gb=1), offers, {}, "lowest_price")) == "a"
    assert hosts(choose(Want(count=1, disk_gb=10), offers, {}, "lowest_price")) == "b"


def test_equal_prices_go_by_reliability_then_longest_unpicked_then_name_then_number() -> None:
    day = datetime(2026, 6, 1, tzinfo=UTC)
    reliable, older = offer(9, "z", reliability_ppm=999_000), offer(8, "y")
    newer, never = offer(7, "x"), offer(6, "w")
    tenth, second = offer(10, "v"), offer(2, "v")
    load = {
        older.host: HostLoad(last_picked_at=day),
        newer.host: HostLoad(last_picked_at=day + timedelta(hours=1)),
        tenth.host: HostLoad(last_picked_at=day + timedelta(hours=2)),
    }
    offers = [newer, tenth, older, second, reliable, never]
    choice = choose(Want(count=6), offers, load, "lowest_price")
    assert choice.picks == (reliable, never, older, newer, second, tenth)


def test_singles_are_preferred_to_cheaper_large_chunks() -> None:
    offers = [priced(1, "big", 100_000, num_gpus=2, conflict_keys=("x", "y"))]
    offers += [priced(number, str(number), 900_000) for number in (2, 3)]
    assert sizes(choose(Want(count=2), offers, {}, "lowest_price")) == [1, 1]


def test_when_singles_do_not_suffice_the_sum_takes_the_fewest_large_chunks() -> None:
    offers = nested(count(1), "m", 2, (1,)) + nested(count(10), "n", 4, (2, 4)) + nested(count(20), "o", 8, (8,))
    assert sizes(choose(Want(count=6), offers, {}, "lowest_price")) == [4, 1, 1]
    assert sizes(choose(Want(count=8), offers, {}, "lowest_price")) == [8]


def test_the_count_is_never_exceeded() -> None:
    with pytest.raises(Shortage) as caught:
        choose(Want(count=3), nested(count(1), "m", 4, (4,)), {}, "lowest_price")
    assert caught.value.available == 4
    assert caught.value.best == 0
    assert caught.value.sizes == (4,)


def test_a_shortage_has_the_gpus_of_each_provider() -> None:
    offers = [*nested(count(1), "m", 2, (1, 2)), offer(9, provider="io.net")]
    with pytest.raises(Shortage) as caught:
        choose(Want(count=8), offers, {}, "lowest_price")
    assert caught.value.per_provider == {"vast.ai": 2, "io.net": 1}
    assert caught.value.available == 3
    assert caught.value.best == 3


def test_an_empty_market_is_a_shortage() -> None:
    for packing in PACKINGS:
        with pytest.raises(Shortage) as caught:
            choose(Want(count=1, packing=packing), [], {}, "lowest_price")
        assert caught.value.available == 0


def test_a_greedy_choice_that_can_not_be_completed_is_replaced_by_the_plan() -> None:
    # The cheap host's chunk of four would use up the only singles.
    cheap = [priced(each, "a", 1_000, num_gpus=1, conflict_keys=(f"a:{each}",)) for each in range(4)]
    cheap.append(priced(9, "a", 4_000, num_gpus=4, conflict_keys=("a:0", "a:1", "a:2", "a:3")))
    dear = priced(10, "b", 900_000, num_gpus=4, conflict_keys=("b:0", "b:1", "b:2", "b:3"))
    choice = choose(Want(count=8), [*cheap, dear], {}, "lowest_price")
    assert sorted(sizes(choice)) == [1, 1, 1, 1, 4]
    assert dear in choice.picks


def test_single_takes_one_gpu_machines_only() -> None:
    offers = nested(count(1), "m", 4, (1, 4)) + nested(count(10), "n", 8, (8,))
    assert sizes(choose(Want(count=4, packing="single"), offers, {}, "lowest_price")) == [1, 1, 1, 1]
    with pytest.raises(Shortage) as caught:
        choose(Want(count=8, packing="single"), offers, {}, "lowest_price")
    assert caught.value.available == 4


def test_spread_rents_once_on_a_host() -> None:
    offers = nested(count(1), "m", 4, (1, 2)) + nested(count(10), "n", 4, (1, 2))
    choice = choose(Want(count=3, packing="spread"), offers, {}, "lowest_price")
    assert sorted(sizes(choice)) == [1, 2]
    assert {pick.machine_id for pick in choice.picks} == {"m", "n"}
    with pytest.raises(Shortage):
        choose(Want(count=5, packing="spread"), offers, {}, "lowest_price")


def test_pack_uses_the_fewest_hosts_and_the_largest_chunks() -> None:
    offers = [each for host in range(6) for each in nested(count(100 * host), f"m{host}", 4, (1, 2, 4))]
    assert sizes(choose(Want(count=10, packing="pack"), offers, {}, "lowest_price")) == [4, 4, 2]
    choice = choose(Want(count=3, packing="pack"), offers, {}, "lowest_price")
    assert sizes(choice) == [2, 1]
    assert len({pick.host for pick in choice.picks}) == 1


def test_single_host_takes_one_host_or_nothing() -> None:
    offers = nested(count(1), "m", 4, (1, 2)) + nested(count(10), "n", 2, (2,))
    choice = choose(Want(count=3, packing="single_host"), offers, {}, "lowest_price")
    assert {pick.machine_id for pick in choice.picks} == {"m"}
    with pytest.raises(Shortage) as caught:
        choose(Want(count=6, packing="single_host"), offers, {}, "lowest_price")
    assert (caught.value.available, caught.value.best, caught.value.per_provider) == (4, 4, {VAST: 4})


def test_single_host_goes_by_the_price_of_the_whole() -> None:
    dear = [priced(each, "a", each * 300_000, conflict_keys=(f"a:{each}",)) for each in (1, 2)]
    cheap = [priced(each, "b", 400_000, conflict_keys=(f"b:{each}",)) for each in (3, 4)]
    assert hosts(choose(Want(count=2, packing="single_host"), dear + cheap, {}, "lowest_price")) == "bb"


def test_the_decision_says_why() -> None:
    offers = [priced(1, "a", 100_000), priced(2, "b", 200_000), priced(3, "c", 200_000, reliability_ppm=1)]
    load = {offers[0].host: HostLoad(live=2)}
    decision = choose(Want(count=2), offers, load, "least_connections").decision
    assert decision.strategy == "least_connections"
    assert decision.sizes == (1, 1)
    assert [pick.host for pick in decision.picks] == ["vast.ai/b", "vast.ai/c"]
    assert [pick.why for pick in decision.top] == [
        "same price; most reliable (99 %; runner-up 0.0001 %)",
        "lowest score (0; runner-up 2)",
        "the only candidate left",
    ]
    assert decision.cheapest_alternative == 300_000


def test_the_cheapest_alternative_of_the_cheapest_is_itself() -> None:
    decision = choose(Want(count=4), random_market(1, 30), {}, "lowest_price").decision
    assert decision.cheapest_alternative == sum(pick.price for pick in decision.picks)


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        choose(Want(count=1), [offer(1)], {}, "cheapest")


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.seeds(1, _PARTS)
def test_random_markets_are_never_oversold_and_their_order_never_matters(
    strategy: str, packing: Packing, seed: int
) -> None:
    """`seed` selects a part of 340 markets: of 6 strategies and 5 packings, more than ten thousand in all parts."""
    for number in range(seed, 340, _PARTS):
        dice = random.Random(number)
        offers = random_market(number, dice.randrange(1, 8), crossing=number % 3 == 0)
        load, want = random_load(offers, dice), Want(count=dice.randrange(1, 17), packing=packing)
        choice = attempt(want, offers, load, strategy)
        dice.shuffle(offers)
        again = attempt(want, offers, load, strategy)
        if isinstance(choice, Shortage):
            assert isinstance(again, Shortage)
            assert (again.available, again.best, again.sizes) == (choice.available, choice.best, choice.sizes)
            check_shortage(choice, want, offers, load)
        else:
            assert choice == again
            check_picks(choice, want, offers)


def attempt(want: Want, offers: Sequence[Offer], load: dict[HostKey, HostLoad], strategy: str) -> Choice | Shortage:
    try:
        return choose(want, offers, load, strategy)
    except Shortage as shortage:
        return shortage


def check_picks(choice: Choice, want: Want, offers: Sequence[Offer]) -> None:
    keys = Counter(key for pick in choice.picks for key in pick.conflict_keys)
    per_host = Counter(pick.host for pick in choice.picks)
    assert sum(sizes(choice)) == want.count
    assert len({pick.id for pick in choice.picks}) == len(choice.picks)
    assert max(keys.values()) == 1
    assert {pick.id for pick in choice.picks} <= {each.id for each in offers}
    assert want.packing != "single" or set(sizes(choice)) == {1}
    assert want.packing != "spread" or max(per_host.values()) == 1
    assert want.packing != "single_host" or len(per_host) == 1


def check_shortage(shortage: Shortage, want: Want, offers: Sequence[Offer], load: dict[HostKey, HostLoad]) -> None:
    assert shortage.best < want.count
    if want.packing == "any":
        assert shortage.available == rentable_gpus(offers) == sum(shortage.per_provider.values())
    if shortage.best:
        lesser = Want(count=shortage.best, packing=want.packing)
        check_picks(choose(lesser, offers, load, "lowest_price"), lesser, offers)
