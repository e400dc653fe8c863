"""The circuit of an account's endpoint, its back-off, and regions."""

from datetime import UTC, datetime
from typing import Any

import pytest

from gpuproxy.model.money import Micro
from gpuproxy.model.offers import HostKey, Offer, OfferId, ProviderName
from gpuproxy.runtime.backoff import Backoff
from gpuproxy.runtime.circuits import OPEN_AFTER, Circuit
from gpuproxy.runtime.regions import Regions
from gpuproxy.runtime.turns import FairTurns
from tests.virtual_time import VirtualClock, run_virtual

VAST = ProviderName("vast.ai")


def test_waits_double_up_to_the_maximum_and_differ_between_seeds() -> None:
    def waits(seed: str) -> list[float]:
        backoff = Backoff(seed, first=10.0, most=100.0)
        return [backoff.failed() for _ in range(8)]

    steps = [10.0, 20.0, 40.0, 80.0, 100.0, 100.0, 100.0, 100.0]
    assert all(step / 2 <= wait <= step for wait, step in zip(waits("a"), steps, strict=True))
    assert waits("a") == waits("a")
    assert waits("a") != waits("b")


def test_an_answer_begins_the_waits_anew() -> None:
    backoff = Backoff("a", first=10.0, most=100.0)
    first = [backoff.failed(), backoff.failed()]
    backoff.reset()
    assert [backoff.failed(), backoff.failed()] == first


def test_a_circuit_rests_after_a_failure_and_then_takes_one_probe() -> None:
    async def story(clock: VirtualClock) -> None:
        circuit = Circuit(clock, "a")
        assert (circuit.state, circuit.rank(), circuit.rank(5)) == ("closed", 0, 0)
        circuit.failed()
        assert (circuit.state, circuit.rank()) == ("resting", 1)
        assert 5 <= circuit.rest <= 10
        await clock.sleep(circuit.rest)
        assert (circuit.state, circuit.rank(), circuit.rank(1)) == ("half_open", 0, 1)
        circuit.in_flight = 1
        assert circuit.rank() == 1
        circuit.in_flight = 0
        circuit.failed()
        assert circuit.state == "resting"
        await clock.sleep(circuit.rest)
        circuit.succeeded()
        assert (circuit.state, circuit.rank(15)) == ("closed", 0)

    run_virtual(story)


def test_an_open_circuit_takes_nothing_but_a_probe_after_each_rest() -> None:
    async def story(clock: VirtualClock) -> None:
        circuit = Circuit(clock, "a")
        for _ in range(OPEN_AFTER):
            circuit.failed()
        assert (circuit.state, circuit.rank()) == ("open", None)
        assert circuit.rest <= 300
        await clock.sleep(circuit.rest)
        assert (circuit.state, circuit.rank(), circuit.rank(1)) == ("half_open", 0, None)
        circuit.failed()
        assert circuit.rank() is None
        circuit.succeeded()
        assert circuit.rank() == 0

    run_virtual(story)


def test_after_an_unknown_outcome_the_next_probe_comes_later() -> None:
    async def story(clock: VirtualClock) -> None:
        cheap, costly = Circuit(clock, "a"), Circuit(clock, "a")
        cheap.failed()
        costly.failed(costly=True)
        assert costly.rest == pytest.approx(6 * cheap.rest)

    run_virtual(story)


# -- pauses after rate limits


def test_the_first_limit_is_obeyed_exactly_and_repeated_ones_make_longer_pauses() -> None:
    async def story(clock: VirtualClock) -> None:
        turns = FairTurns(clock, 0.0, seed="a")
        assert turns.slow_down(12.0, None) == 12.0
        assert turns.slow_down(12.0, None) == 12.0  # this call was sent before the pause
        pauses = []
        for _ in range(6):
            await clock.sleep(turns.limited)
            pauses.append(turns.slow_down(12.0, None))
        assert pauses[0] <= pauses[1] <= pauses[2]
        assert 48 <= pauses[2] <= 96
        assert 60 <= pauses[-1] <= 120
        turns.accepted()
        await clock.sleep(turns.limited)
        assert turns.slow_down(12.0, None) == 12.0

    run_virtual(story)


def test_a_pause_is_never_shorter_than_the_marketplace_asked_for() -> None:
    async def story(clock: VirtualClock) -> None:
        turns = FairTurns(clock, 4.5)
        for _ in range(4):
            assert turns.slow_down(250.0, None) >= 250.0
            assert turns.pause >= 250.0
            await clock.sleep(turns.limited)

    run_virtual(story)


def test_an_interval_that_the_marketplace_names_is_kept_and_never_becomes_shorter() -> None:
    async def story(clock: VirtualClock) -> None:
        turns = FairTurns(clock, 4.5)
        turns.slow_down(1.0, 9.0)
        assert turns.interval >= 9.0
        turns.slow_down(1.0, 2.0)
        turns.accepted()
        assert turns.interval >= 9.0

    run_virtual(story)


# -- regions


def offer(location: str) -> Offer:
    facts: dict[str, Any] = {
        "id": OfferId("vast-1"), "provider": VAST, "host": HostKey("vast.ai/1"), "machine_id": "1",
        "gpu_model": "RTX 4090", "num_gpus": 1, "vram_gb": 24, "gpu_price": Micro(1), "disk_price_month": Micro(0),
        "max_disk_gb": 9.0, "location": location, "reliability_ppm": 1, "verified": True, "cuda_max": 12.0,
        "conflict_keys": (), "expires_at": datetime(2030, 1, 1, tzinfo=UTC),
    }  # fmt: skip
    return Offer(**facts)


OF = {(VAST, "de"): "DE", (VAST, "texas"): "Texas", (ProviderName("other"), "any"): "DE"}
ALL = ("any", "de", "texas")


@pytest.mark.parametrize(
    ("location", "anywhere", "regional"),
    [
        ("Berlin, DE", {"any": 1, "de": 0, "texas": 1}, {"de": 0}),
        ("Texas, US", {"any": 1, "de": 1, "texas": 0}, {"texas": 0}),
        ("Oslo, NO", {"any": 0, "de": 1, "texas": 1}, {"any": 0}),
        ("", {"any": 0, "de": 1, "texas": 1}, {"any": 0}),
    ],
)
def test_offers_of_a_region_prefer_its_account_and_regional_keys_are_the_only_ones(
    location: str, anywhere: dict[str, int], regional: dict[str, int]
) -> None:
    assert Regions(of=OF).preferences(offer(location), ALL) == anywhere
    assert Regions(of=OF, regional={VAST}).preferences(offer(location), ALL) == regional


def test_an_account_that_cant_be_used_now_still_has_its_region() -> None:
    """Otherwise another key would try to rent where it can't."""
    usable = ("any", "texas")
    assert Regions(of=OF, regional={VAST}).preferences(offer("Berlin, DE"), usable) == {}
    assert Regions(of=OF).preferences(offer("Berlin, DE"), usable) == {"any": 1, "texas": 1}


def test_without_regions_every_account_is_preferred() -> None:
    assert Regions().preferences(offer("Berlin, DE"), ALL) == dict.fromkeys(ALL, 0)
