"""An offer whose numbers don't fit into an answer, or into what several processes share, is left out alone."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from gpuproxy.app.offers import ENCODERS
from gpuproxy.model.money import Micro
from tests.catalog.test_catalog import ANY, Account, Street, catalog_of
from tests.markets import VAST, offer
from tests.virtual_time import VirtualClock, run_virtual


@pytest.mark.parametrize(
    "odd",
    [
        {"vram_gb": 2**31}, {"num_gpus": 2**31}, {"num_gpus": 2**200}, {"gpu_price": Micro(10**400)},
        {"gpu_price": Micro(2**64)}, {"disk_price_month": Micro(2**70)}, {"reliability_ppm": 2**64},
        {"direct_ports": 2**31}, {"location": "\ud800"},
    ],
)  # fmt: skip
def test_an_offer_that_can_not_be_encoded_hides_no_other(odd: dict[str, Any]) -> None:
    async def scene(clock: VirtualClock) -> None:
        street = Street(clock, [offer(1), offer(2, **odd), offer(3)])
        catalog = catalog_of(clock, Account(street), encoders=ENCODERS)
        with capture_logs() as lines:
            await catalog.step(VAST)
        market = await catalog.market(ANY)
        assert [each.id for each in market.select(ANY).offers] == ["vast-1", "vast-3"]
        assert not market.truncated
        [line] = [line for line in lines if line["event"] == "offers_not_encodable"]
        assert (line["provider"], line["skipped"], line["of"]) == (VAST, 1, 3)

    run_virtual(scene)
