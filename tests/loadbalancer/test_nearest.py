"""A refusal that suggests a price suggests the lowest one that is enough."""

import pytest

from gpuproxy.model.errors import FailedPrecondition
from tests.world import World, in_world

MICRO = 1e-6


async def refused(world: World, **wanted: object) -> FailedPrecondition:
    with pytest.raises(FailedPrecondition) as caught:
        await world.reserve(**wanted)  # type: ignore[arg-type]
    assert caught.value.reason == "NOT_ENOUGH_GPUS"
    return caught.value


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "wanted",
    [
        {"count": 1},
        {"count": 16},
        {"count": 3, "gpu_model": "RTX 4090"},
        {"count": 8, "min_vram": 80.0},
        {"count": 7, "packing": "single_host"},
        {"count": 4, "packing": "spread"},
        {"count": 5, "packing": "single"},
        {"count": 16, "min_count": 6},
    ],
    ids=str,
)
def test_the_suggested_price_is_the_lowest_that_is_enough(seed: int, wanted: dict[str, object]) -> None:
    async def story(world: World) -> None:
        told = await refused(world, **wanted, max_price=0.001)
        nearest = told.metadata.get("nearest_price")
        if nearest is None:
            await refused(world, **wanted, max_price=1_000.0)
            return
        await refused(world, **wanted, max_price=float(nearest) - MICRO)
        assert world.calls("create") == 0
        made = await world.reserve(**wanted, max_price=float(nearest))  # type: ignore[arg-type]
        assert made.leases

    in_world(story, seed=seed)


def test_the_suggested_price_ignores_places_without_capacity() -> None:
    async def story(world: World) -> None:
        told = await refused(world, count=1, max_price=0.001)
        first = float(told.metadata["nearest_price"])
        world.arm("create", "no_capacity", times=50)
        with pytest.raises(Exception, match="could be reserved"):
            await world.reserve(1, max_price=first)
        told = await refused(world, count=1, max_price=first)
        assert float(told.metadata["nearest_price"]) > first

    in_world(story)


def test_prices_are_written_with_as_many_digits_as_they_need() -> None:
    async def story(world: World) -> None:
        low = str(await refused(world, count=8, gpu_model="RTX 4090", max_price=0.001))
        assert "asked 8 x RTX 4090 at <=$0.001/GPU-h;" in low
        assert "asked 16 x >=500 GB at <=$1.50/GPU-h;" in str(
            await refused(world, count=16, min_vram=500.0, max_price=1.5)
        )

    in_world(story)


def test_a_filter_that_rejected_offers_is_named_with_their_number() -> None:
    async def story(world: World) -> None:
        told = await refused(world, count=1, min_cuda=99.0, verified_only=False)
        offers = int(told.metadata["rejected.min_cuda"])
        assert offers > 0
        assert f"Offers left out: {offers} by min_cuda. Nothing was rented." in str(told)
        assert "left out" not in str(await refused(world, count=16, gpu_model="Unheard Of", verified_only=False))

    in_world(story)


def test_the_rule_that_left_out_most_offers_is_named_first_and_none_is_hidden() -> None:
    async def story(world: World) -> None:
        told = await refused(world, count=1, location="Atlantis", min_vram=20.0)
        counts = {
            name.removeprefix("rejected."): int(count)
            for name, count in told.metadata.items()
            if name.startswith("rejected.") and count != "0"
        }
        assert counts["location"] == max(counts.values())
        text = str(told).partition("Offers left out: ")[2].partition(".")[0]
        assert text.startswith(f"{counts['location']} by location")
        assert {part.split(" by ")[1]: int(part.split(" by ")[0]) for part in text.split(", ")} == counts

    in_world(story)


def test_a_refusal_marks_the_limits_that_are_defaults() -> None:
    async def story(world: World) -> None:
        for defaulted in (frozenset({"max_price", "verified_only"}), frozenset[str]()):
            with pytest.raises(FailedPrecondition) as caught:
                await world.reserve(16, min_vram=80, max_price=1.0, defaulted=defaulted)
            text = str(caught.value)
            assert ("at <=$1.00/GPU-h (default);" in text) == bool(defaulted)
            assert ("by verified_only (default)" in text) == bool(defaulted)
            assert "by min_vram," in text

    in_world(story, machines=100)
