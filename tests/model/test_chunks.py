from itertools import combinations, count

import pytest

from gpuproxy.model.chunks import IMPOSSIBLE, by_host, canonical, exact_sum, rentable_gpus, shape
from gpuproxy.model.demands import MAX_GPUS
from gpuproxy.model.offers import Offer
from tests.markets import nested, offer, random_market


def brute(offers: list[Offer]) -> dict[int, tuple[int, int]]:
    """By sum: the fewest chunks of several GPUs and the fewest GPUs in those, over all sets that do not overlap."""
    found: dict[int, tuple[int, int]] = {}
    for size in range(len(offers) + 1):
        for some in combinations(offers, size):
            keys = [key for each in some for key in each.conflict_keys]
            if len(keys) == len(set(keys)):
                large = [each.num_gpus for each in some if each.num_gpus > 1]
                total, cost = sum(each.num_gpus for each in some), (len(large), sum(large))
                found[total] = min(found.get(total, cost), cost)
    return found


def test_overlapping_chunks_are_not_added_up() -> None:
    offers = nested(count(1), "m", 8, (1, 2, 4, 8))
    assert sum(each.num_gpus for each in offers) == 32
    assert rentable_gpus(offers) == 8


def test_chunks_that_do_not_overlap_are_added_up() -> None:
    offers = nested(count(1), "m", 8, (2, 4))[4:] + nested(count(100), "n", 2, (2,))
    assert rentable_gpus(offers) == 10


def test_chunks_that_share_only_their_machine_exclude_each_other() -> None:
    offers = [offer(number, "m", num_gpus=number, conflict_keys=("machine:m",)) for number in (1, 2, 4)]
    assert rentable_gpus(offers) == 4


def test_an_offer_without_keys_counts_as_often_as_one_call_could_rent_it() -> None:
    assert rentable_gpus([offer(1, num_gpus=2, conflict_keys=())]) == 2 * MAX_GPUS
    assert shape([offer(1, num_gpus=2, conflict_keys=())], "singles").costs[7] == IMPOSSIBLE
    assert shape([offer(1, num_gpus=2, conflict_keys=())], "singles").sizes[6] == (2, 2, 2)


@pytest.mark.parametrize("crossing", [False, True])
def test_the_sums_of_a_host_equal_those_of_an_exhaustive_search(crossing: bool) -> None:
    for seed in range(12):
        for own in by_host(random_market(seed, 6, crossing=crossing)).values():
            if len(own) > 12:
                continue
            each, known = shape(own, "singles"), brute(own)
            assert each.most == max(known)
            assert {total for total, cost in enumerate(each.costs) if cost < IMPOSSIBLE} == set(known)
            for total, (chunks, gpus) in known.items():
                large = [size for size in each.sizes[total] if size > 1]
                assert (len(large), sum(large)) == (chunks, gpus)


def test_the_chunks_of_a_combination_exist_and_do_not_overlap() -> None:
    for seed in range(20):
        for own in by_host(random_market(seed, 8, crossing=True)).values():
            each, offers = shape(own, "few"), canonical(own)
            for total, way in enumerate(each.ways):
                if each.costs[total] < IMPOSSIBLE:
                    keys = [key for index in way for key in offers[index].conflict_keys]
                    assert len(keys) == len(set(keys))
                    assert sum(offers[index].num_gpus for index in way) == total


def test_hosts_with_many_crossing_chunks_are_never_overcounted() -> None:
    keys = [f"g{number}" for number in range(16)]
    crossing = [offer(at, "m", num_gpus=4, conflict_keys=tuple(keys[at : at + 4])) for at in range(13)]
    assert 4 <= rentable_gpus(crossing) <= 16


def test_spreading_uses_at_most_one_chunk_of_a_host() -> None:
    each = shape(nested(count(1), "m", 4, (1, 2)), "one")
    assert [total for total, cost in enumerate(each.costs) if cost < IMPOSSIBLE] == [0, 1, 2]
    assert each.most == 2


def test_a_sum_uses_the_fewest_chunks_with_several_gpus() -> None:
    ones, four, twos = (
        shape(nested(count(1), "m", gpus, (size,)), "singles") for gpus, size in ((2, 1), (4, 4), (8, 2))
    )
    parts, best = exact_sum([(ones, 1), (four, 1), (twos, 1)], 6)
    assert parts is not None
    assert best == 6
    assert sorted(parts) == [(0, 2), (1, 4)]


def test_an_impossible_sum_is_none_and_the_nearest_smaller_sum_is_returned() -> None:
    fours = shape(nested(count(1), "m", 4, (4,)), "singles")
    assert exact_sum([(fours, 3)], 6) == (None, 4)
    assert exact_sum([], 6) == (None, 0)


def test_no_offers_are_no_gpus() -> None:
    assert rentable_gpus([]) == 0
