"""Volumes: they are on one machine, outlive instances, cost while they exist, and can't be deleted while in use."""

from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.shop import KEY, OTHER_KEY, Shop


def searched(shop: Shop, **query: Any) -> list[dict[str, Any]]:
    status, answer = shop.ask("POST", "/api/v0/volumes/search/", query)
    assert status == 200, answer
    offers: list[dict[str, Any]] = answer["offers"]
    return offers


def made(shop: Shop, offer: dict[str, Any], size: int = 50, **more: Any) -> int:
    """The id of a new volume on the machine of a GPU offer."""
    body = {"id": offer["avail_vol_ask_id"], "size": size, **more}
    status, answer = shop.ask("PUT", "/api/v0/volumes/", body)
    assert status == 200, answer
    return int(answer["volume_name"].removeprefix("V."))


def listed(shop: Shop, key: str = KEY) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = shop.ask("GET", "/api/v0/volumes?owner=me&type=all_volume", key=key)[1]["volumes"]
    return rows


def deleted(shop: Shop, volume: int, key: str = KEY) -> tuple[int, Any]:
    return shop.ask("DELETE", f"/api/v0/volumes/?id={volume}", {}, key)


def linked(volume: int) -> dict[str, Any]:
    return {"volume_info": {"create_new": False, "volume_id": volume, "mount_path": "/data"}}


def offer(shop: Shop) -> dict[str, Any]:
    return shop.search(num_gpus={"eq": 1}, gpu_frac={"eq": 0.5}, limit=1)[0]


def test_the_offer_of_a_machine_is_found_by_itself_and_by_its_gpu_offers() -> None:
    shop = Shop()
    gpu = offer(shop)
    (found,) = searched(shop, machine_id={"eq": str(gpu["machine_id"])}, disk_space={"gte": 1}, external={"eq": False})
    assert (found["id"], found["disk_space"]) == (gpu["avail_vol_ask_id"], gpu["avail_vol_size"])
    assert found["storage_cost"] / 720 == pytest.approx(gpu["avail_vol_dph"])
    assert searched(shop, machine_id={"eq": 1}) == []


def test_a_search_answers_64_by_default_in_the_order_asked_for() -> None:
    found = searched(Shop(machines=200), order=[["storage_cost", "asc"]])
    assert len(found) == 64
    assert [row["storage_cost"] for row in found] == sorted(row["storage_cost"] for row in found)


def test_a_search_by_an_unknown_column_is_refused() -> None:
    assert Shop().ask("POST", "/api/v0/volumes/search/", {"nonsense": {"eq": 1}})[0] == 400


def test_a_volume_reduces_the_offered_size_until_it_is_deleted() -> None:
    shop = Shop()
    gpu = offer(shop)
    volume = made(shop, gpu, 50, name="warm_a1")
    assert shop.search(id={"eq": gpu["id"]})[0]["avail_vol_size"] == gpu["avail_vol_size"] - 50
    assert [(row["id"], row["label"], row["status"]) for row in listed(shop)] == [(volume, "warm_a1", "created")]
    assert deleted(shop, volume) == (200, {"success": True})
    assert listed(shop) == []
    assert shop.search(id={"eq": gpu["id"]})[0]["avail_vol_size"] == gpu["avail_vol_size"]


@pytest.mark.parametrize(
    ("body", "status"),
    [({"size": 10**6}, 400), ({"size": 0}, 400), ({"id": 5}, 400), ({"id": None}, 400), ({"name": "no-good"}, 422)],
)
def test_an_invalid_volume_is_refused_and_nothing_is_created(body: dict[str, Any], status: int) -> None:
    shop = Shop()
    whole = {"id": offer(shop)["avail_vol_ask_id"], "size": 20, "name": "good", **body}
    assert shop.ask("PUT", "/api/v0/volumes/", whole)[0] == status
    assert shop.state()["volumes"] == []


def test_a_volume_costs_while_it_exists_and_its_machine_is_online() -> None:
    shop = Shop(credit=10.0)
    gpu = offer(shop)
    volume = made(shop, gpu, 72)
    shop.wait(3600)
    hourly = round(gpu["storage_cost"] * 1e6) * 72 // 720
    assert shop.state()["volumes"][0]["billed_micro_usd"] == shop.state()["bill_micro_usd"] == hourly
    assert shop.ask("GET", "/api/v0/users/current")[1]["credit"] == pytest.approx(10 - hourly / 1e6)
    contract = shop.rented(gpu["id"], target_state="stopped", disk=8)
    shop.control("POST", f"instances/{contract}/kill", {"how": "host"})
    shop.wait(3600)
    assert shop.state()["volumes"][0]["billed_micro_usd"] == hourly
    shop.control("POST", f"machines/{gpu['machine_id']}/reconnect")
    shop.wait(3600)
    shop.destroy(contract)
    assert deleted(shop, volume)[0] == 200
    shop.wait(99_999)
    row = shop.state()["volumes"][0]
    assert (row["billed_micro_usd"], row["deleted_at"] is not None) == (2 * hourly, True)


def test_a_volume_is_in_use_until_a_little_after_its_last_instance_is_destroyed() -> None:
    shop = Shop()
    gpu = offer(shop)
    volume = made(shop, gpu)
    contract = shop.rented(gpu["id"], **linked(volume))
    shop.manage(contract, state="stopped")
    assert (listed(shop)[0]["status"], listed(shop)[0]["instances"]) == ("in-use", [contract])
    assert deleted(shop, volume)[0] == 400
    shop.destroy(contract)
    assert deleted(shop, volume)[0] == 400
    shop.wait(31)
    assert listed(shop)[0]["status"] == "created"
    assert deleted(shop, volume)[0] == 200
    assert deleted(shop, volume)[1]["error"] == "no_such_volume"


def test_a_volume_is_mounted_by_its_info_and_by_an_env_key() -> None:
    shop = Shop()
    gpu = offer(shop)
    volume = made(shop, gpu)
    one = shop.rented(gpu["id"], **linked(volume))
    other = shop.search(num_gpus={"eq": 1}, machine_id={"eq": gpu["machine_id"]})[0]
    two = shop.rented(other["id"], env={f"-v V.{volume}:/mnt": "1"})
    assert listed(shop)[0]["instances"] == [one, two]
    assert [row["volume_info"][0]["id"] for row in shop.page()["instances"]] == [volume, volume]
    assert [row["volume_ids"] for row in shop.state()["instances"]] == [[str(volume)]] * 2


@pytest.mark.parametrize("by_fault", [True, False])
def test_sharing_a_volume_may_be_refused(by_fault: bool) -> None:
    shop = Shop() if by_fault else Shop(volume_sharing="refuse")
    gpu = offer(shop)
    volume = made(shop, gpu)
    shop.rented(gpu["id"], **linked(volume))
    if by_fault:
        shop.arm("create", "volume_share_refused")
    other = shop.search(num_gpus={"eq": 1}, machine_id={"eq": gpu["machine_id"]})[0]
    assert shop.create(other["id"], **linked(volume))[0] == 400
    assert len(shop.state()["instances"]) == 1


def test_an_unused_volume_is_not_refused_as_shared() -> None:
    shop = Shop(volume_sharing="refuse")
    gpu = offer(shop)
    shop.rented(gpu["id"], **linked(made(shop, gpu)))


def test_a_volume_of_another_machine_or_account_or_none_is_refused() -> None:
    shop = Shop()
    gpu = offer(shop)
    volume = made(shop, gpu)
    elsewhere = shop.search(num_gpus={"eq": 1}, machine_id={"neq": gpu["machine_id"]}, limit=1)[0]
    assert shop.create(elsewhere["id"], **linked(volume))[0] == 400
    assert shop.create(gpu["id"], OTHER_KEY, **linked(volume))[0] == 404
    assert shop.create(gpu["id"], **linked(5))[0] == 404
    assert shop.create(gpu["id"], volume_info={"volume_id": volume})[0] == 400
    assert deleted(shop, volume, OTHER_KEY)[0] == 404
    assert listed(shop, OTHER_KEY) == []
    assert shop.state()["instances"] == []


def test_a_create_may_include_a_new_volume_and_a_failed_create_leaves_none() -> None:
    shop = Shop()
    gpu = offer(shop)
    info = {"create_new": True, "volume_id": gpu["avail_vol_ask_id"], "size": 30, "mount_path": "/d", "name": "w"}
    contract = shop.rented(gpu["id"], volume_info=info)
    assert [(row["label"], row["instances"]) for row in listed(shop)] == [("w", [contract])]
    assert shop.create(gpu["id"], volume_info=info)[0] == 400
    assert len(shop.state()["volumes"]) == 1


def test_a_clone_is_a_volume_of_at_least_the_same_size() -> None:
    shop = Shop()
    gpu = offer(shop)
    source = made(shop, gpu, 50, name="a")
    body = {"src_id": source, "dst_id": gpu["avail_vol_ask_id"]}
    assert shop.ask("POST", "/api/v0/volumes/copy/", {**body, "size": 60.0})[0] == 200
    assert shop.ask("POST", "/api/v0/volumes/copy/", {**body, "size": 10})[0] == 400
    assert [row["disk_space"] for row in listed(shop)] == [50.0, 60.0]


def test_volumes_survive_a_kill_of_the_market(tmp_path: Path) -> None:
    shop = Shop(state=tmp_path / "market.state")
    gpu = offer(shop)
    kept, gone = made(shop, gpu), made(shop, gpu)
    contract = shop.rented(gpu["id"], **linked(kept))
    shop.wait(5000)
    deleted(shop, gone)
    shop.control("POST", f"instances/{contract}/kill", {"how": "host"})
    shop.wait(500)
    again = shop.reopened()
    assert again.state() == shop.state()
    assert listed(again) == listed(shop)
    assert deleted(again, kept)[0] == 400
    assert made(again, shop.search(num_gpus={"eq": 1}, limit=1)[0]) > max(kept, gone, contract)


def test_volume_calls_fail_as_armed() -> None:
    shop = Shop()
    volume = made(shop, offer(shop))
    shop.arm("volume_list", "empty_list")
    assert listed(shop) == []
    shop.arm("volume_delete", "destroy_ignored")
    assert deleted(shop, volume) == (200, {"success": True})
    assert len(listed(shop)) == 1
    shop.arm("volume_create", "status_500_after")
    body = {"id": offer(shop)["avail_vol_ask_id"], "size": 20}
    assert shop.ask("PUT", "/api/v0/volumes/", body)[0] == 500
    assert len(listed(shop)) == 2
    shop.arm("volume_create", "insufficient_credit")
    assert shop.ask("PUT", "/api/v0/volumes/", body)[1]["error"] == "insufficient_credit"
