"""io.net's wire format: keys, envelopes, errors, checks of requests, pages, and the rate limit."""

import json
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from gpuproxy.ports import HttpRequest
from tests.sandbox.ionet_shop import CAAS, KEY, SSH_KEY, VM, IoShop, places
from tests.sandbox.shop import OTHER_KEY

PRICE = {"hardware_id": "12", "gpus_per_vm": "2", "duration_hours": "3", "location_ids": '["US"]'}
WEB = ["body", "network_services", "web"]
NOBODY = "6f1c0000-0000-4000-8000-000000000000"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{VM}/deployments"),
        ("GET", f"{VM}/deployment/{NOBODY}"),
        ("POST", f"{VM}/deploy"),
        ("DELETE", f"{CAAS}/deployment/{NOBODY}"),
        ("GET", f"{CAAS}/node-pools"),
        ("GET", f"{VM}/nonsense"),
    ],
)
@pytest.mark.parametrize("key", [None, "another", ""])
def test_a_call_needs_a_known_key(method: str, path: str, key: str | None) -> None:
    status, answer = IoShop().ask(method, path, {}, key)
    assert (status, list(answer)) == (401, ["detail"])
    assert isinstance(answer["detail"], str)


@pytest.mark.parametrize("path", [f"{VM}/hardware", f"{CAAS}/hardware", "/v1/io-cloud/vmaas/hardware"])
def test_hardware_and_price_need_no_key_but_take_no_wrong_one(path: str) -> None:
    shop = IoShop()
    assert shop.ask("GET", path, key=None)[0] == 200
    assert shop.ask("GET", f"{VM}/price", key=None, **PRICE)[0] == 200
    assert shop.ask("GET", path, key="another")[0] == 401


def test_only_the_header_of_io_net_carries_a_key() -> None:
    shop = IoShop()
    bearer = shop.sandbox.receive(_request(f"{VM}/deployments", {"Authorization": f"Bearer {KEY}"})).response
    query = shop.sandbox.receive(_request(f"{VM}/deployments?api_key={KEY}", {})).response
    assert bearer is not None
    assert query is not None
    assert (bearer.status, query.status) == (401, 401)
    assert shop.ask("GET", "/api/v1/instances/")[0] == 403  # and vast.ai doesn't take this header


def test_each_route_has_its_own_envelope() -> None:
    shop = IoShop()
    number = shop.running()
    _, made = shop.container()
    assert set(made) == {"status", "deployment_id"}
    container = made["deployment_id"]
    assert isinstance(shop.ask("GET", f"{CAAS}/hardware")[1]["data"], list)
    assert list(shop.ask("GET", f"{VM}/hardware")[1]["data"]) == ["hardware"]
    assert list(shop.ask("GET", "/v1/io-cloud/caas/hardware")[1]["data"]) == ["hardware"]
    assert set(shop.ask("GET", f"{VM}/deployments")[1]["data"]) == {"deployments", "total", "statuses"}
    assert shop.ask("GET", f"{VM}/deployment/{number}")[1]["data"]["id"] == number
    assert set(shop.ask("GET", f"{VM}/deployment/{number}/vms")[1]["data"]) == {"total", "workers"}
    assert set(shop.ask("GET", f"{CAAS}/deployment/{container}/containers")[1]["data"]) == {"total", "workers"}
    assert shop.ask("POST", f"{VM}/deployment/{number}/extend", {"duration_hours": 1})[1]["data"]["id"] == number
    assert shop.ask("DELETE", f"{VM}/deployment/{number}")[1] == {"status": "success", "deployment_id": number}


def test_the_answer_to_a_deploy_of_a_machine_is_empty_unless_the_switch_says_otherwise() -> None:
    shop = IoShop(ionet_deploy_body="empty")
    response = shop.response("POST", f"{VM}/deploy", _body())
    assert (response.status, response.body) == (200, b"")
    assert [row["name"] for row in shop.listed()] == ["gp-1"]
    assert set(IoShop().deploy()[1]) == {"status", "deployment_id"}


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"bogus": 1}, ["body", "bogus"]),
        ({"duration_hours": 0}, ["body", "duration_hours"]),
        ({"duration_hours": 8761}, ["body", "duration_hours"]),
        ({"duration_hours": "2"}, ["body", "duration_hours"]),
        ({"duration_hours": True}, ["body", "duration_hours"]),
        ({"duration_hours": None}, ["body", "duration_hours"]),
        ({"gpus_per_vm": 9}, ["body", "gpus_per_vm"]),
        ({"gpus_per_vm": 0}, ["body", "gpus_per_vm"]),
        ({"hardware_id": None}, ["body", "hardware_id"]),
        ({"resource_private_name": None}, ["body", "resource_private_name"]),
        ({"resource_private_name": ""}, ["body", "resource_private_name"]),
        ({"location_ids": ["US", "FI"]}, ["body", "location_ids"]),
        ({"location_ids": []}, ["body", "location_ids"]),
        ({"location_ids": "US"}, ["body", "location_ids"]),
        ({"node_pool_id": NOBODY}, ["body"]),
        ({"vm_image_type": "mine"}, ["body", "vm_image_type"]),
        ({"ssh_keys": {"gp": 5}}, ["body", "ssh_keys"]),
        ({"ssh_keys": [SSH_KEY]}, ["body", "ssh_keys"]),
        ({"payment_source": "credits"}, ["body", "payment_source"]),
        ({"resource_id": NOBODY}, ["body", "resource_id"]),
        ({"network_services": {"web": {"port": 1, "protocol": "tcp", "whitelist": []}}}, [*WEB, "whitelist"]),
        ({"network_services": {"web": {"port": 0, "protocol": "tcp", "whitelist": ["::/0"]}}}, [*WEB, "port"]),
        ({"network_services": {"web": {"port": 1, "protocol": "sctp", "whitelist": ["::/0"]}}}, [*WEB, "protocol"]),
        ({"network_services": {"web": {"port": 1, "whitelist": ["::/0"]}}}, [*WEB, "protocol"]),
        (
            {"network_services": {"web": {"port": 1, "protocol": "tcp", "whitelist": ["::/0"], "odd": 1}}},
            [*WEB, "odd"],
        ),
    ],
)
def test_a_wrong_field_of_a_deploy_is_named_and_nothing_is_booked(change: dict[str, Any], place: list[str]) -> None:
    shop = IoShop()
    status, answer = shop.deploy(**change)
    assert (status, places(answer)) == (422, [place])
    assert all(set(problem) >= {"loc", "msg", "type"} for problem in answer["detail"])
    assert shop.listed() == []


def test_a_right_deploy_with_all_fields_is_taken() -> None:
    shop = IoShop()
    service = {"port": 8000, "protocol": "udp", "whitelist": ["10.0.0.0/8", "::/0"]}
    status, _ = shop.deploy(
        duration_hours=8760, github_ids=["octocat"], vm_image_type="datascience", network_services={"a": service}
    )
    assert status == 200
    assert shop.deploy(location_ids=None)[0] == 200


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"'])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    status, answer = IoShop().ask("POST", f"{VM}/deploy", body)
    assert (status, answer["detail"][0]["type"]) == (422, "json_invalid")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"location_ids": "US"}, "location_ids"),
        ({"location_ids": '["US","FI"]'}, "location_ids"),
        ({"location_ids": None}, "location_ids"),
        ({"duration_hours": "0"}, "duration_hours"),
        ({"gpus_per_vm": "x"}, "gpus_per_vm"),
        ({"gpus_per_vm": "9"}, "gpus_per_vm"),
        ({"hardware_id": None}, "hardware_id"),
        ({"currency": "btc"}, "currency"),
    ],
)
def test_a_wrong_parameter_of_a_quote_is_named(change: dict[str, Any], place: str) -> None:
    query = {name: value for name, value in (PRICE | change).items() if value is not None}
    status, answer = IoShop().ask("GET", f"{VM}/price", **query)
    assert (status, places(answer)) == (422, [["query", place]])


def test_repeated_locations_of_a_quote_are_refused() -> None:
    path = f'{VM}/price?hardware_id=12&gpus_per_vm=1&duration_hours=1&location_ids=["US"]&location_ids=["FI"]'
    status, answer = IoShop().ask("GET", path)
    assert (status, places(answer)) == (422, [["query", "location_ids"]])


def test_pages_have_ten_rows_and_at_most_a_hundred() -> None:
    shop = IoShop()
    for number in range(11):
        shop.booked(resource_private_name=f"gp-{number}", hardware_id=(12, 3)[number % 2])
    page = shop.data("GET", f"{VM}/deployments")
    assert (len(page["deployments"]), page["total"]) == (10, 11)
    rest = shop.listed(page=2)
    assert len(rest) == 1
    assert {row["name"] for row in [*page["deployments"], *rest]} == {f"gp-{number}" for number in range(11)}
    assert shop.listed(page=3) == []
    assert len(shop.listed(page_size=100)) == 11
    for query in ({"page_size": 101}, {"page_size": 0}, {"page": 0}, {"page": "x"}, {"status": "half"}):
        assert shop.ask("GET", f"{VM}/deployments", **query)[0] == 422


def test_rows_of_a_list_are_not_in_the_order_of_their_age() -> None:
    shop = IoShop()
    for number in range(8):
        shop.booked(resource_private_name=f"gp-{number}")
    names = [row["name"] for row in shop.listed(page_size=100)]
    assert names not in (sorted(names), sorted(names, reverse=True))


def test_a_new_deployment_between_two_pages_may_repeat_a_row() -> None:
    shop = IoShop()
    for number in range(4):
        shop.booked(resource_private_name=f"gp-{number}")
    repeated = False
    for number in range(4, 12):
        first = shop.listed(page_size=3)
        shop.booked(resource_private_name=f"gp-{number}")
        second = shop.listed(page_size=3, page=2)
        repeated |= bool({row["id"] for row in first} & {row["id"] for row in second})
    assert repeated


def test_the_name_is_only_in_lists() -> None:
    shop = IoShop()
    number = shop.running()
    assert shop.listed()[0]["name"] == "gp-1"
    assert "gp-1" not in json.dumps([shop.detail(number), shop.worker(number)])


def test_lists_can_be_filtered_by_status() -> None:
    shop = IoShop()
    ended, running = shop.running(), shop.running(resource_private_name="gp-2")
    shop.ask("DELETE", f"{VM}/deployment/{ended}")
    assert [row["id"] for row in shop.listed(status="termination requested")] == [ended]
    shop.wait(20)
    assert [row["id"] for row in shop.listed(status="destroyed")] == [ended]
    assert [row["id"] for row in shop.listed(status="running")] == [running]
    assert len(shop.listed()) == 2


def test_a_deployment_of_another_account_or_product_does_not_exist() -> None:
    shop = IoShop()
    number = shop.running()
    path = f"deployment/{number}"
    missing = (404, {"status": "failed", "error": "Deployment not found"})
    assert shop.ask("GET", f"{VM}/{path}", key=OTHER_KEY) == missing
    assert shop.ask("GET", f"{CAAS}/{path}") == missing
    assert shop.ask("DELETE", f"{VM}/{path}", key=OTHER_KEY) == missing
    assert shop.ask("POST", f"{VM}/{path}/extend", {"duration_hours": 1}, OTHER_KEY) == missing
    assert shop.ask("GET", f"{VM}/{path}/vms", key=OTHER_KEY) == missing
    assert shop.data("GET", f"{VM}/deployments", key=OTHER_KEY)["total"] == 0
    assert shop.detail(number)["status"] == "running"


def test_a_new_deployment_is_not_known_for_a_while() -> None:
    shop = IoShop(ionet_lag=5.0)
    number = shop.booked()
    for path in (f"deployment/{number}", f"deployment/{number}/vms"):
        assert shop.ask("GET", f"{VM}/{path}")[0] == 404
    assert shop.listed() == []
    shop.wait(5)
    assert shop.ask("GET", f"{VM}/deployment/{number}")[0] == 200
    assert len(shop.listed()) == 1


def test_an_unknown_path_is_not_found() -> None:
    shop = IoShop()
    assert shop.ask("GET", f"{VM}/nonsense") == (404, {"detail": "Not Found"})
    assert shop.ask("PUT", f"{VM}/deploy", {}) == (404, {"detail": "Not Found"})
    assert shop.control("GET", "state")["calls"] == {"io.net": {"other": 2}}
    assert shop.ask("GET", "/elsewhere")[0] == 404


@pytest.mark.parametrize(("form", "value"), [("seconds", "60"), ("date", "Fri, 12 Jun 2026 12:01:00 GMT")])
def test_a_key_has_three_hundred_calls_in_a_minute(form: str, value: str) -> None:
    shop = IoShop(rate_limits="real", ionet_retry_after=form)
    for number in range(300):
        assert shop.ask("GET", f"{VM}/deployments" if number % 2 else f"{VM}/hardware")[0] == 200
    late = shop.response("GET", f"{VM}/deployments")
    assert (late.status, late.headers["retry-after"]) == (429, value)
    assert shop.ask("GET", f"{VM}/deployments", key=OTHER_KEY)[0] == 200
    assert shop.ask("GET", f"{VM}/hardware", key=None)[0] == 200
    assert shop.deploy()[0] == 429
    shop.wait(61)
    assert shop.ask("GET", f"{VM}/deployments")[0] == 200
    assert shop.listed() == []
    if form == "date":
        assert parsedate_to_datetime(value).timestamp() == shop.clock.now().timestamp() - 1


def _request(path: str, headers: dict[str, str]) -> HttpRequest:
    return HttpRequest(method="GET", url=f"http://x{path}", headers=headers)


def _body() -> dict[str, Any]:
    return {
        "resource_private_name": "gp-1",
        "duration_hours": 2,
        "gpus_per_vm": 1,
        "hardware_id": 12,
        "location_ids": ["US"],
    }
