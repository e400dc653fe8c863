"""A choice on several hosts says so, and what one host would cost out of the same offers."""

from collections.abc import Sequence

import pytest

from gpuproxy.loadbalancer.balancer import Choice, Want, choose
from gpuproxy.loadbalancer.one_host import large_enough, noted
from gpuproxy.model.demands import Packing
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import Offer
from gpuproxy.model.spread import Placed, spread
from tests.markets import nested, offer, random_market
from tests.world import World, in_world


def placed(host: str, model: str = "L4", *, gpus: int = 1, vram_gb: int = 24, place: str = "Ohio, US") -> Placed:
    return Placed(host=host, num_gpus=gpus, gpu_model=model, vram_gb=vram_gb, location=place)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("machines", "text"),
    [
        ([placed("a"), placed("a", gpus=2)], ""),
        ([], ""),
        ([placed("a", gpus=2), placed("b")], "3 GPUs on 2 hosts in US, all L4"),
        (
            [placed("a"), placed("b", "T4", place="Rome, IT")],
            "2 GPUs on 2 hosts in 2 countries (IT, US), 2 models (L4, T4)",
        ),
        ([placed("a", place=""), placed("b", place="")], "2 GPUs on 2 hosts, all L4"),
        ([placed("a"), placed("b", place="")], "2 GPUs on 2 hosts in US and unknown places, all L4"),
        ([placed("a"), placed("b", vram_gb=40)], "2 GPUs on 2 hosts in US, 2 models (L4 24 GB, L4 40 GB)"),
        ([placed(str(n), f"M{n}") for n in range(5)], "5 GPUs on 5 hosts in US, 5 models"),
    ],
)
def test_hosts_countries_and_models_are_counted_and_named_if_they_are_few(machines: list[Placed], text: str) -> None:
    assert spread(machines) == text


def told(offers: Sequence[Offer], count: int, packing: Packing = "any", strategy: str = "lowest_price") -> str:
    def on_one_host(gpus: int) -> Choice:
        return choose(Want(count=gpus, packing="single_host"), large_enough(offers, gpus), {}, strategy)

    choice = choose(Want(count=count, packing=packing), offers, {}, strategy)
    return "; ".join(noted(choice, packing, on_one_host).decision.notes)


SINGLES = [offer(n, gpu_price=Micro(100_000)) for n in range(1, 5)]
PAIR = nested(iter(range(20, 30)), "pair", 2, (1, 2), gpu_price=Micro(500_000))


def test_the_price_of_one_host_is_that_of_the_packing_single_host() -> None:
    assert told([*SINGLES, *PAIR], 2) == (
        "2 GPUs on 2 hosts in US, all RTX 4090; packing single_host would cost $0.5000/h"
    )
    assert told([*SINGLES, *PAIR], 3) == (
        "3 GPUs on 3 hosts in US, all RTX 4090; packing single_host is not possible: no host offers exactly 3 such GPUs"
    )


def test_a_choice_on_one_host_and_one_that_asked_for_several_get_no_alternative() -> None:
    assert told([*SINGLES, *PAIR], 1) == ""
    assert told(PAIR, 2, "pack") == ""
    assert told([*SINGLES, *PAIR], 2, "spread") == "2 GPUs on 2 hosts in US, all RTX 4090"


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("strategy", ["least_connections", "weighted_round_robin"])
def test_hosts_that_are_too_small_do_not_change_the_choice_of_one_host(seed: int, strategy: str) -> None:
    offers = random_market(seed, 30, crossing=True)
    for count in (2, 3, 4, 8):
        want = Want(count=count, packing="single_host")
        try:
            whole = choose(want, offers, {}, strategy).picks
        except Exception as error:  # noqa: BLE001 - the same one is expected below
            with pytest.raises(type(error)):
                choose(want, large_enough(offers, count), {}, strategy)
        else:
            assert choose(want, large_enough(offers, count), {}, strategy).picks == whole


def test_the_answer_says_what_the_choice_is_spread_over_and_a_dry_run_agrees() -> None:
    async def story(world: World) -> None:
        dry = await world.reserve(4, dry_run=True, min_vram=16)
        alone = await world.reserve(4, dry_run=True, min_vram=16, packing="single_host")
        assert dry.reservation.decision is not None
        assert alone.reservation.decision is not None
        price = sum(pick.price for pick in alone.reservation.decision.picks) / 1_000_000
        assert alone.reservation.message == "Dry run: nothing was rented."
        note = dry.reservation.decision.notes[-1]
        assert note.startswith("4 GPUs on 4 hosts in ")
        assert note.endswith(f"packing single_host would cost ${price:.{2 if price >= 1 else 4}f}/h")
        assert dry.reservation.message == f"Dry run: nothing was rented. {note}."
        made = await world.reserve(4, min_vram=16)
        assert f" {note}." in made.reservation.message
        one = await world.reserve(4, min_vram=16, packing="single_host")
        assert "hosts" not in one.reservation.message

    in_world(story, machines=200)


def test_after_a_replacement_the_answer_is_about_the_machines_that_there_are() -> None:
    async def story(world: World) -> None:
        world.arm("create", "offer_gone", times=1)
        view = await world.reserve(2, min_vram=16, packing="any")
        hosts = {lease.offered.host for lease in view.kept}
        assert view.reservation.message.count(f"2 GPUs on {len(hosts)} hosts") == 1

    in_world(story, machines=200)
