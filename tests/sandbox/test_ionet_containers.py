"""io.net's containers (CaaS): deploys, workers, updates, logs, and that nothing is refunded."""

from typing import Any

import pytest

from tests.sandbox.ionet_shop import CAAS, HOUR, VM, IoShop, places

CONFIG = {"replica_count": 1, "traffic_port": 8000}
UUID = "5d000000-0000-4000-8000-000000000001"


def deployed(shop: IoShop, **more: Any) -> str:
    status, answer = shop.container(**more)
    assert status == 200, answer
    number: str = answer["deployment_id"]
    return number


def workers(shop: IoShop, number: str) -> list[Any]:
    rows: list[Any] = shop.data("GET", f"{CAAS}/deployment/{number}/containers")["workers"]
    return rows


def test_containers_are_requested_deployed_and_run_and_their_address_comes_later() -> None:
    shop = IoShop()
    number = deployed(shop, container_config={**CONFIG, "replica_count": 2})
    seen = []
    for _ in range(45):
        seen.append((shop.detail(number, CAAS)["status"], workers(shop, number)[0]["public_url"] is not None))
        shop.wait(1)
    assert list(dict.fromkeys(seen)) == [
        ("deployment requested", False),
        ("deploying", False),
        ("running", False),
        ("running", True),
    ]
    first, second = workers(shop, number)
    assert first["public_url"] != second["public_url"]
    assert first["deployment_health"] == "healthy"
    port = int(first["public_url"].rpartition(":")[2])
    assert shop.sandbox.port_table.open[port] == "http"
    row = shop.detail(number, CAAS)
    assert (row["total_gpus"], row["total_containers"], row["gpus_per_container"], row["amount_paid"]) == (
        16,
        2,
        8,
        10.56,
    )


def test_an_early_end_is_not_refunded() -> None:
    shop = IoShop()
    number = deployed(shop, duration_hours=10)
    shop.wait(60)
    assert shop.ask("DELETE", f"{CAAS}/deployment/{number}")[0] == 200
    shop.wait(60)
    assert shop.detail(number, CAAS)["status"] == "destroyed"
    assert shop.state(number)["billed_micro_usd"] == 52_800_000


def test_containers_complete_by_themselves_and_can_be_extended() -> None:
    shop = IoShop()
    number = deployed(shop)
    shop.wait(60)
    assert shop.data("POST", f"{CAAS}/deployment/{number}/extend", {"duration_hours": 1})["amount_paid"] == 10.56
    shop.wait(HOUR)
    assert shop.detail(number, CAAS)["status"] == "running"
    shop.wait(HOUR)
    assert shop.detail(number, CAAS)["status"] == "completed"


def test_secret_values_are_never_shown() -> None:
    shop = IoShop()
    number = deployed(shop, container_config={**CONFIG, "secret_env_variables": {"TOKEN": "hush"}})
    assert shop.detail(number, CAAS)["container_config"]["secret_env_keys"] == ["TOKEN"]
    for path in ("", "/containers"):
        assert "hush" not in str(shop.ask("GET", f"{CAAS}/deployment/{number}{path}"))
    assert "hush" not in str(shop.control("GET", "state"))


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"gpus_per_container": 4}, ["body", "gpus_per_container"]),
        ({"container_config": {**CONFIG, "health_check": {}}}, ["body", "container_config", "health_check"]),
        ({"container_config": {"traffic_port": 8000}}, ["body", "container_config", "replica_count"]),
        ({"container_config": {**CONFIG, "traffic_port": 0}}, ["body", "container_config", "traffic_port"]),
        ({"container_config": {**CONFIG, "entrypoint": "sh"}}, ["body", "container_config", "entrypoint"]),
        ({"container_config": {**CONFIG, "tls_required": "no"}}, ["body", "container_config", "tls_required"]),
        ({"container_config": None}, ["body", "container_config"]),
        ({"registry_config": {}}, ["body", "registry_config", "image_url"]),
        ({"registry_config": {"image_url": "x", "tag": "y"}}, ["body", "registry_config", "tag"]),
        ({"payment_source": "card"}, ["body", "payment_source"]),
        ({"on_incomplete_booking": "keep"}, ["body", "on_incomplete_booking"]),
        ({"ssh_keys": {}}, ["body", "ssh_keys"]),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_booked(change: dict[str, Any], place: list[str]) -> None:
    shop = IoShop()
    status, answer = shop.container(**change)
    assert (status, places(answer)) == (422, [place])
    assert shop.listed(CAAS) == []


def test_a_null_boolean_is_as_if_it_was_absent_and_without_ingress_there_is_no_address() -> None:
    shop = IoShop()
    usual = deployed(shop, container_config={**CONFIG, "public_ingress_enabled": None, "tls_required": None})
    hidden = deployed(shop, location_ids=["DE"], container_config={**CONFIG, "public_ingress_enabled": False})
    shop.wait(60)
    assert workers(shop, usual)[0]["public_url"]
    assert workers(shop, hidden)[0]["public_url"] is None


def test_the_client_may_choose_the_id_once() -> None:
    shop = IoShop()
    assert deployed(shop, resource_id=UUID) == UUID
    assert shop.container(resource_id=UUID, location_ids=["DE"])[0] == 409
    assert len(shop.listed(CAAS)) == 1


def test_machines_and_containers_are_listed_apart() -> None:
    shop = IoShop()
    machine, container = shop.booked(), deployed(shop)
    assert [row["id"] for row in shop.listed(VM)] == [machine]
    assert [row["id"] for row in shop.listed(CAAS)] == [container]
    assert shop.ask("GET", f"{VM}/deployment/{container}")[0] == 404


def test_an_update_is_flat_and_starts_the_containers_anew() -> None:
    shop = IoShop()
    number = deployed(shop, container_config={**CONFIG, "secret_env_variables": {"A": "1", "B": "2"}})
    shop.wait(60)
    path = f"{CAAS}/deployment/{number}"
    change = {"image_url": "nginx:2", "env_variables": {"C": "3"}, "secret_env_variables": {"A": None}}
    assert shop.ask("PATCH", path, change) == (200, {"status": "success", "deployment_id": number})
    config = shop.detail(number, CAAS)["container_config"]
    assert (config["image_url"], config["env_variables"], config["secret_env_keys"]) == ("nginx:2", {"C": "3"}, ["B"])
    assert workers(shop, number)[0]["public_url"] is None
    shop.wait(30)
    assert workers(shop, number)[0]["public_url"]
    for wrong in ({"container_config": {}}, {"replica_count": 2}, {"hardware_id": 12}, {"duration_hours": 2}):
        status, answer = shop.ask("PATCH", path, wrong)
        assert (status, places(answer)) == (422, [["body", next(iter(wrong))]])


def test_a_log_is_a_stream_of_events_with_comments_and_an_end() -> None:
    shop = IoShop()
    number = deployed(shop)
    name = workers(shop, number)[0]["container_id"]
    path = f"{CAAS}/deployment/{number}/log/{name}"
    empty = shop.response("GET", path)
    assert empty.headers["content-type"] == "text/event-stream"
    assert empty.body == b": connected\n\nevent: complete\ndata: \n\n"
    shop.wait(60)
    text = shop.ask("GET", path, stream="stdout")[1]
    lines = [line for line in text.splitlines() if line.startswith("data: ")]
    assert lines[-2:] == ["data: listens on port 8000", "data: "]
    assert text.count(": keep-alive\n\n") == len(lines) - 1
    assert text.endswith("event: complete\ndata: \n\n")
    assert "listens" not in shop.ask("GET", path, stream="stderr")[1]
    assert shop.ask("GET", path, stream="both")[0] == 422
    assert shop.ask("GET", f"{CAAS}/deployment/{number}/log/another")[0] == 404


def test_the_history_of_a_worker_can_be_read() -> None:
    shop = IoShop()
    number = deployed(shop)
    name = workers(shop, number)[0]["container_id"]
    history = shop.data("GET", f"{CAAS}/deployment/{number}/containers-jobs/{name}")
    assert [row["container_id"] for row in history["workers"]] == [name]
    machine = shop.booked()
    history = shop.data("GET", f"{VM}/deployment/{machine}/vms-jobs/{shop.worker(machine)['vm_id']}")
    assert history["total"] == 1
