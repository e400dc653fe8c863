"""The options that choose machines, and the columns that show them."""

import pytest

from tests.cli.world import Run, World

pytestmark = pytest.mark.long

OPTIONS = (
    "--min-cpu-cores", "16", "--min-ram", "64", "--min-disk-bandwidth", "500", "--min-inet-down", "300",
    "--min-inet-up", "100", "--max-traffic-price", "0",
)  # fmt: skip
FIELDS = {
    "min_cpu_cores": 16, "min_ram_gb": 64, "min_disk_bandwidth": 500, "min_inet_down": 300, "min_inet_up": 100,
    "max_traffic_price": 0,
}  # fmt: skip


def test_list_sends_the_filters_that_were_given(run: Run, world: World) -> None:
    assert run("list", *OPTIONS).exit_code == 0
    assert {name: getattr(world.listed[-1], name) for name in FIELDS} == FIELDS
    assert world.listed[-1].HasField("max_traffic_price")
    assert run("list").exit_code == 0
    assert not world.listed[-1].HasField("max_traffic_price")


def test_reserve_sends_the_filters_that_were_given(run: Run, world: World) -> None:
    assert run("reserve", "1", *OPTIONS, "--same-country", "--same-model").exit_code == 0
    assert {name: getattr(world.requests[-1], name) for name in FIELDS} == FIELDS
    assert world.requests[-1].same_country
    assert world.requests[-1].same_model
    run("reserve", "1")
    assert not world.requests[-1].HasField("max_traffic_price")
    assert not world.requests[-1].same_country
    assert not world.requests[-1].same_model


def test_wide_shows_what_the_machine_of_an_offer_is_like(run: Run) -> None:
    head, first, *_ = run("list", "--wide").stdout.splitlines()
    columns = "CORES RAM DISK MB/S DOWN MBIT/S UP MBIT/S $/GB DOWN $/GB UP PORTS CUDA COMPUTE ENDS"
    assert " ".join(head.split("HOST")[1].split()) == columns
    shown = "16 64 GB 2291 535 - $0.0013 $0.0000 0 12.4 8.9 2026-01-03 03:04:05Z"
    assert " ".join(first.split("vast.ai/1")[1].split()) == shown


def test_a_plain_list_does_not(run: Run) -> None:
    assert "CORES" not in run("list").stdout
