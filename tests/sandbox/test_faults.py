"""Faults: what the caller sees, and what the market did."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gpuproxy.ports import HttpNotSent, HttpReplyLost, HttpRequest, HttpResponse
from gpuproxy.sandbox.server.in_process import InProcessHttp, InProcessProbe
from tests.sandbox.shop import KEY, OTHER_KEY, Shop

Send = Callable[..., Awaitable[HttpResponse]]


def _create(shop: Shop, *, timeout: float = 30.0) -> tuple[InProcessHttp, HttpRequest]:
    offer = shop.search(num_gpus={"eq": 1}, limit=1)[0]["id"]
    body = json.dumps({"image": "x", "disk": 20, "label": "mine"}).encode()
    headers = {"Authorization": f"Bearer {KEY}"}
    url = f"http://market/api/v0/asks/{offer}/"
    return InProcessHttp(shop.sandbox), HttpRequest(method="PUT", url=url, headers=headers, body=body, timeout=timeout)


@pytest.mark.parametrize(
    ("fault", "error", "made"),
    [
        ("refuse_connection", HttpNotSent, 0),
        ("reset_before", HttpReplyLost, 0),
        ("reset_after", HttpReplyLost, 1),
        ("hang_before", HttpReplyLost, 0),
        ("hang_after", HttpReplyLost, 1),
        ("slow_trickle", HttpReplyLost, 1),
    ],
)
async def test_a_create_without_an_answer_was_executed_or_not_as_its_fault_says(
    fault: str, error: type[Exception], made: int
) -> None:
    shop = Shop()
    http, request = _create(shop)
    shop.arm("create", fault)
    with pytest.raises(error):
        await http.send(request)
    state = shop.state()
    assert len(state["instances"]) == made
    assert state["calls"]["vast.ai"]["create"] == http.requests == 1


@pytest.mark.parametrize(
    ("fault", "status", "made"),
    [
        ("status_before", 500, 0),
        ("status_after", 500, 1),
        ("status_500_before", 500, 0),
        ("status_504_after", 504, 1),
        ("html_502", 502, 0),
        ("rate_limited", 429, 0),
        ("refused_200", 200, 0),
        ("malformed_json", 200, 1),
        ("truncated", 200, 1),
        ("empty_body", 200, 1),
        ("auth_error", 404, 0),
        ("session_expired", 404, 0),
        ("insufficient_credit", 400, 0),
        ("offer_gone", 400, 0),
        ("no_capacity", 410, 0),
    ],
)
def test_a_create_with_a_bad_answer_was_executed_or_not_as_its_fault_says(fault: str, status: int, made: int) -> None:
    shop = Shop()
    offer = shop.search(num_gpus={"eq": 1}, limit=1)[0]["id"]
    shop.arm("create", fault)
    response = shop.plan("PUT", f"/api/v0/asks/{offer}/", {"image": "x", "disk": 20}).response
    assert response is not None
    assert response.status == status
    assert len(shop.state()["instances"]) == made


def test_a_status_has_a_gateway_page_or_the_services_own_text() -> None:
    shop = Shop()
    shop.arm("user", "status_503_before")
    assert isinstance(shop.ask("GET", "/api/v0/users/current")[1], str)
    shop.arm("user", "status_503_before", args={"msg": "Down.", "error": "maintenance"})
    body = {"success": False, "error": "maintenance", "msg": "Down."}
    assert shop.ask("GET", "/api/v0/users/current") == (503, body)


def test_a_502_page_may_hide_an_executed_call_when_asked_to() -> None:
    shop = Shop()
    shop.arm("create", "html_502", args={"executed": True})
    assert shop.create(shop.search(num_gpus={"eq": 1}, limit=1)[0]["id"])[0] == 502
    assert len(shop.state()["instances"]) == 1


async def test_a_hang_ends_at_the_callers_timeout_or_after_its_own_seconds() -> None:
    for timeout, seconds, expected in ((7.0, 100, 7.0), (50.0, 11, 11.0)):
        shop = Shop()
        http, request = _create(shop, timeout=timeout)
        shop.arm("create", "hang_after", args={"seconds": seconds})
        with pytest.raises(HttpReplyLost):
            await http.send(request)
        assert shop.clock.seconds == expected


async def test_a_slow_create_is_executed_when_it_arrives_and_answered_later() -> None:
    shop = Shop(create_latency=3.0)
    http, request = _create(shop)
    assert (await http.send(request)).status == 200
    assert shop.clock.seconds == 3.0
    http, request = _create(shop, timeout=2.0)
    with pytest.raises(HttpReplyLost):
        await http.send(request)
    assert len(shop.state()["instances"]) == 2


async def test_a_late_effect_comes_after_its_answer_was_lost() -> None:
    shop = Shop()
    http, request = _create(shop)
    shop.arm("create", "late_effect", args={"seconds": 90})
    with pytest.raises(HttpReplyLost):
        await http.send(request)
    shop.wait(89)
    assert shop.state()["instances"] == []
    shop.wait(2)
    assert [(row["label"], row["created_at"]) for row in shop.state()["instances"]] == [
        ("mine", shop.clock.now().timestamp() - 1)
    ]


def test_a_late_effect_after_its_offer_is_gone_does_nothing() -> None:
    shop = Shop()
    offer = shop.search(num_gpus={"eq": 1}, limit=1)[0]["id"]
    shop.arm("create", "late_effect", args={"seconds": 5})
    shop.plan("PUT", f"/api/v0/asks/{offer}/", {"image": "x", "disk": 20})
    shop.rented(offer, OTHER_KEY)
    shop.wait(10)
    assert [row["account"] for row in shop.state()["instances"]] == [OTHER_KEY]


def test_a_fault_hits_its_number_of_calls_after_letting_some_pass() -> None:
    shop = Shop()
    shop.arm("get", "status_503_before", times=2, after=1)
    statuses = [shop.ask("GET", "/api/v0/instances/1/")[0] for _ in range(5)]
    assert statuses == [200, 503, 503, 200, 200]


def test_a_fault_without_end_lasts_until_it_is_cleared() -> None:
    shop = Shop()
    shop.arm("any", "status_before", times=0, args={"status": 500})
    assert {shop.ask("GET", path)[0] for path in ("/api/v1/instances/", "/api/v0/users/current")} == {500}
    assert shop.control("DELETE", "faults") == {"cleared": 1}
    assert shop.ask("GET", "/api/v0/users/current")[0] == 200


def test_a_fault_of_one_account_does_not_hit_others() -> None:
    shop = Shop()
    shop.arm("any", "auth_error", account=KEY, times=0)
    assert shop.ask("GET", "/api/v0/users/current", key=KEY)[0] == 404
    assert shop.ask("GET", "/api/v0/users/current", key=OTHER_KEY)[0] == 200


def test_a_fault_about_creates_is_not_used_up_by_other_calls() -> None:
    shop = Shop()
    shop.arm("any", "offer_gone")
    shop.ask("GET", "/api/v0/gpu_names/unique/")
    offer = shop.search(num_gpus={"eq": 1}, limit=1)[0]["id"]
    assert shop.create(offer)[0] == 400


@pytest.mark.parametrize(
    "body",
    [
        {"fault": "nonsense"},
        {"fault": "offer_gone", "call": "list"},
        {"fault": "reset_after", "call": "nonsense"},
        {"fault": "reset_after", "times": -1},
        {"fault": "reset_after", "tiems": 1},
        {"fault": "endless_list", "call": "volume_list"},
        {"fault": "odd_row", "args": {"kind": "nonsense"}},
        {"fault": "odd_row", "args": {"whose": "nobody"}},
        {"fault": "gone_as", "args": {"form": "nonsense"}},
        {"fault": "gone_as", "call": "list"},
        {"fault": "rate_limited", "args": {"form": "nonsense"}},
        {"fault": "shy_row", "args": {"status": "nonsense"}},
        {"fault": "image_fault", "args": {"status": "running"}},
        {"fault": "slow_pages", "args": {"seconds": "long"}},
    ],
)
def test_an_invalid_fault_is_refused(body: dict[str, Any]) -> None:
    assert Shop().ask("POST", "/sandbox/v1/faults", body)[0] == 400


@pytest.mark.parametrize(
    ("form", "kind"), [("text", str), ("json", dict), ("quota", dict)]
)  # fmt: skip
def test_rate_limits_come_in_every_form(form: str, kind: type) -> None:
    shop = Shop()
    shop.arm("search", "rate_limited", args={"form": form, "retry_after": 7})
    plan = shop.plan("POST", "/api/v0/bundles/", {})
    assert plan.response is not None
    assert (plan.response.status, plan.response.headers["retry-after"]) == (429, "7")
    assert ("x-ratelimit-reset" in plan.response.headers) is (form == "quota")
    assert (plan.response.headers["content-type"] == "application/json") is (kind is dict)


FREQUENT = "API requests too frequent"


@pytest.mark.parametrize("retry_after", [None, 3])
@pytest.mark.parametrize(
    ("args", "body"),
    [
        ({}, FREQUENT),
        ({"form": "text"}, FREQUENT),
        ({"form": "threshold"}, f"{FREQUENT}: endpoint threshold=4.5"),
        ({"form": "threshold", "threshold": 12.0}, f"{FREQUENT}: endpoint threshold=12.0"),
        ({"form": "detail"}, {"detail": FREQUENT}),
        ({"form": "detail", "threshold": 1.0}, {"detail": f"{FREQUENT} endpoint threshold=1.0"}),
        ({"form": "json"}, {"success": False, "error": "rate_limit_exceeded", "msg": FREQUENT}),
        (
            {"form": "json", "threshold": 3.0},
            {"success": False, "error": "rate_limit_exceeded", "msg": f"{FREQUENT} endpoint threshold=3.0"},
        ),
        ({"form": "quota"}, {"error": "search_quota_exceeded", "msg": "Daily search quota exceeded"}),
    ],
)
def test_a_rate_limited_create_has_every_recorded_form_with_and_without_retry_after(
    args: dict[str, Any], body: object, retry_after: int | None
) -> None:
    shop = Shop()
    offer = shop.search(num_gpus={"eq": 1}, limit=1)[0]["id"]
    shop.arm("create", "rate_limited", times=2, args={**args, "retry_after": retry_after} if retry_after else args)
    assert shop.create(offer) == (429, body)
    response = shop.plan("PUT", f"/api/v0/asks/{offer}/", {"image": "x", "disk": 20}).response
    assert response is not None
    assert response.headers.get("retry-after") == (str(retry_after) if retry_after else None)
    assert shop.state()["instances"] == []


def test_an_expired_session_is_its_own_404_on_every_call() -> None:
    shop = Shop()
    shop.arm("any", "session_expired", account=KEY, times=0)
    expired = {"success": False, "error": "session_expired", "msg": "Session expired. Please log in again."}
    for method, path in (
        ("GET", "/api/v0/users/current"),
        ("GET", "/api/v1/instances/"),
        ("DELETE", "/api/v0/instances/5/"),
    ):
        assert shop.ask(method, path) == (404, expired)
    assert shop.ask("GET", "/api/v0/users/current", key=OTHER_KEY)[0] == 200


def test_a_wrongly_empty_list_looks_valid() -> None:
    shop = Shop()
    shop.rented()
    shop.arm("list", "empty_list")
    assert shop.page() == {
        "success": True,
        "instances_found": 0,
        "total_instances": 0,
        "label_counts": {},
        "next_token": None,
        "instances": [],
    }
    assert len(shop.page()["instances"]) == 1


def test_a_missing_page_is_not_mentioned_but_the_total_is_correct() -> None:
    shop = Shop()
    for _ in range(5):
        shop.rented()
    shop.arm("list", "missing_page", times=2)
    cut = shop.page(limit=3)
    assert (len(cut["instances"]), cut["next_token"], cut["total_instances"]) == (3, None, 5)
    halved = shop.page()
    assert (len(halved["instances"]), halved["next_token"], halved["total_instances"]) == (2, None, 5)


def test_a_moved_price_is_on_the_contract() -> None:
    shop = Shop()
    offer = shop.search(num_gpus={"eq": 1}, limit=1)[0]
    shop.arm("create", "price_moved", args={"factor": 3})
    assert shop.get(shop.rented(offer["id"]))["dph_base"] == pytest.approx(3 * offer["dph_base"])


def test_the_wrong_gpu_may_be_delivered() -> None:
    shop = Shop()
    shop.arm("create", "wrong_gpu", args={"gpu_name": "GTX 1080", "gpu_ram": 8192})
    row = shop.get(shop.rented())
    assert (row["gpu_name"], row["gpu_ram"]) == ("GTX 1080", 8192)


def test_an_instance_may_never_become_ready_or_die_soon_after() -> None:
    shop = Shop()
    shop.arm("create", "never_ready")
    never = shop.rented()
    shop.arm("create", "dies_after_ready", args={"seconds": 60})
    dying = shop.rented()
    shop.wait(80)
    assert shop.get(dying)["actual_status"] == "running"
    shop.wait(80_000)
    assert shop.get(never)["actual_status"] == "loading"
    dead = shop.get(dying)
    assert (dead["actual_status"], dead["intended_status"]) == ("exited", "running")


def test_destroy_and_stop_may_be_ignored_although_they_succeed() -> None:
    shop = Shop()
    contract = shop.rented()
    shop.wait(60)
    shop.arm("destroy", "destroy_ignored")
    shop.arm("stop", "stop_ignored")
    assert shop.destroy(contract)[1]["success"] is True
    assert shop.manage(contract, state="stopped") == (200, {"success": True})
    assert shop.get(contract)["actual_status"] == "running"
    shop.destroy(contract)
    assert shop.get(contract) is None


def test_a_refused_start_is_queued_and_happens_by_itself_later() -> None:
    shop = Shop()
    contract = shop.rented()
    shop.manage(contract, state="stopped")
    shop.arm("start", "start_refused", args={"seconds": 300})
    assert shop.manage(contract, state="running")[1]["error"] == "resources_unavailable"
    shop.wait(200)
    assert shop.get(contract)["actual_status"] == "exited"
    shop.wait(200)
    assert shop.get(contract)["actual_status"] == "running"


async def test_the_probe_reaches_running_instances_and_nothing_else() -> None:
    shop = Shop()
    probe = InProcessProbe(shop.sandbox)
    contract = shop.rented(env={"-p 8000:8000": "1"})
    port = shop.get(contract)["ssh_port"]
    assert not await probe.reachable("ssh", "127.0.0.1", port, 1.0)
    shop.wait(60)
    web = int(shop.get(contract)["ports"]["8000/tcp"][0]["HostPort"])
    assert await probe.reachable("ssh", "127.0.0.1", port, 1.0)
    assert await probe.reachable("tcp", "127.0.0.1", web, 1.0)
    assert not await probe.reachable("ssh", "127.0.0.1", web, 1.0)
    assert not await probe.reachable("ssh", "192.0.2.1", port, 1.0)
    shop.control("POST", f"instances/{contract}/kill", {"how": "container"})
    assert not await probe.reachable("ssh", "127.0.0.1", port, 1.0)
