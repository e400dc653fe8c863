"""A recorded market: its rows appear again with their flags, and its machines can be rented."""

import csv
import os
from collections import defaultdict
from pathlib import Path

import pytest

from tests.sandbox.shop import Shop

RECORD = Path(os.environ.get("GPUPROXY_TEST_DATA", "../shared/data")) / "vast_market_2026-06-12_normalized.csv"
HEADER = (
    "machine_id,gpu_name,num_gpus,rentable,dph_base,dph_base_per_gpu,gpu_ram_mb_approx,cpu_name,cpu_cores,"
    "cpu_cores_effective,cpu_ram_gb_bucket,disk_space_gb_approx,storage_cost,pcie_bw,disk_bw,inet_down,inet_up,"
    "inet_down_cost_per_tb,inet_up_cost_per_tb,mobo_name\n"
)


def _row(machine: int, gpus: int, rentable: str) -> str:
    return (
        f"{machine},RTX 4090,{gpus},{rentable},{gpus * 0.4},0.4,24566,EPYC,64,8,{48 * gpus},{200 * gpus},"
        "0.2,12,900,500,400,2.67,2.67,H12\n"
    )


def test_a_half_rented_machine_shows_its_recorded_rows(tmp_path: Path) -> None:
    file = tmp_path / "market.csv"
    rows = [(8, "false"), (4, "false"), (2, "false"), (1, "false"), (4, "true"), (2, "true"), (1, "true")]
    file.write_text(HEADER + "".join(_row(43645, *row) for row in rows))
    shop = Shop(market=file)
    shown = shop.search(machine_id={"eq": 43645}, rentable="any", verified="any")
    assert sorted((one["num_gpus"], str(one["rentable"]).lower()) for one in shown) == sorted(rows)
    assert {one["dph_base"] / one["num_gpus"] for one in shown} == {0.4}
    eight = next(one for one in shown if one["num_gpus"] == 8)
    assert (eight["gpu_frac"], eight["disk_space"], eight["gpu_name"]) == (1.0, 1600.0, "RTX 4090")
    shop.control("POST", "machines/43645/vacate")
    assert {one["num_gpus"] for one in shop.search(machine_id={"eq": 43645}, verified="any")} == {1, 2, 4, 8}


def test_a_file_without_machines_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "market.csv"
    file.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="machine_id"):
        Shop(market=file)


@pytest.mark.skipif(not RECORD.exists(), reason="the recorded market is not here")
def test_every_recorded_row_appears_again() -> None:
    recorded: defaultdict[int, set[tuple[int, bool]]] = defaultdict(set)
    with RECORD.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            recorded[int(row["machine_id"])].add((int(row["num_gpus"]), row["rentable"] == "true"))
    shown: defaultdict[int, set[tuple[int, bool]]] = defaultdict(set)
    shop = Shop(market=RECORD)
    for offer in shop.search(rentable="any", verified="any"):
        shown[offer["machine_id"]].add((offer["num_gpus"], offer["rentable"]))
    assert shown == recorded


@pytest.mark.skipif(not RECORD.exists(), reason="the recorded market is not here")
def test_the_recorded_market_can_be_rented_from() -> None:
    shop = Shop(market=RECORD)
    offers = shop.search(num_gpus={"eq": 1}, gpu_ram={"gte": 15_500}, dph_total={"lte": 2.0})
    assert len(offers) > 50
    assert shop.get(shop.rented(offers[0]["id"]))["machine_id"] == offers[0]["machine_id"]
