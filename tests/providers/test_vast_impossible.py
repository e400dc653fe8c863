"""A row of a search with an impossible price, memory or number of GPUs is left out, and hides no other row."""

import pytest

from tests.providers.test_vast_search import offers_of, one_offer
from tests.providers.wires import row, says

IMPOSSIBLE: list[dict[str, object]] = [
    {"gpu_ram": 1e13},
    {"gpu_ram": 24564 * 1024 * 1024},  # in bytes
    {"gpu_ram": -24564},
    {"num_gpus": 2_147_483_648, "gpu_ids": None},
    {"num_gpus": 1_000_000, "gpu_ids": None},
    {"num_gpus": 65, "gpu_ids": None},
    {"dph_base": 1e17},
    {"dph_base": 1e306},
    {"storage_cost": 1e14},
    {"dph_total": 1e6},
]


@pytest.mark.parametrize("impossible", IMPOSSIBLE, ids=str)
def test_an_impossible_price_memory_or_gpu_count_loses_only_its_row(impossible: dict[str, object]) -> None:
    offers, _ = offers_of(says({"offers": [row(1), row(2, **impossible), row(3)]}))
    assert [offer.id for offer in offers] == ["vast-1", "vast-3"]


def test_the_largest_machines_are_offers() -> None:
    offer = one_offer(num_gpus=64, gpu_ids=None, gpu_ram=294_912, dph_base=900.0, dph_total=900.0, storage_cost=5.0)
    assert (offer.num_gpus, offer.vram_gb, offer.gpu_price, offer.disk_price_month) == (64, 288, 900_000_000, 5_000_000)


@pytest.mark.parametrize(("told", "known"), [(2e13, 1_000_000), (1.0, 1_000_000), (0.5, 500_000), (-3.0, 0), (None, 0)])
def test_a_reliability_is_at_most_1(told: float | None, known: int) -> None:
    assert one_offer(reliability2=told).reliability_ppm == known
