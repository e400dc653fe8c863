"""The faults of io.net's calls: what each one does, and that nothing else is hit."""

import json
from typing import Any

import pytest

from gpuproxy.ports import HttpRequest
from gpuproxy.sandbox.dialects.ionet.faults import CATALOGUE
from tests.sandbox.ionet_shop import CAAS, HOUR, KEY, VM, IoShop
from tests.sandbox.shop import OTHER_KEY


def hit(shop: IoShop, fault: str, call: str = "create", **args: Any) -> Any:
    """Arm a fault, deploy, and return the plan's delivery, status and body."""
    shop.arm(call, fault, args=args)
    return shop.deploy()


def test_a_fault_of_io_net_does_not_hit_vast_ai_and_the_other_way_round() -> None:
    shop = IoShop()
    shop.arm("any", "html_502", times=0)
    assert shop.ask("GET", "/api/v0/gpu_names/unique/")[0] == 200
    assert shop.ask("GET", f"{VM}/hardware")[0] == 502
    shop.control("DELETE", "faults")
    shop.control("POST", "faults", {"call": "any", "fault": "html_502", "times": 0})
    assert shop.ask("GET", f"{VM}/hardware")[0] == 200
    assert shop.ask("GET", "/api/v0/gpu_names/unique/")[0] == 502


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"provider": "io.net", "fault": "stop_lies"}, "fault must be one of auth_error, "),
        ({"provider": "io.net", "call": "stop", "fault": "html_502"}, "call must be one of any, containers, "),
        ({"provider": "io.net", "call": "list", "fault": "no_capacity"}, "no_capacity can't hit list, only create"),
        ({"provider": "moon", "fault": "html_502"}, "provider must be one of io.net, vast.ai, not 'moon'"),
        ({"call": "create", "fault": "deploy_body"}, "fault must be one of "),
        ({"provider": "io.net", "fault": "status_words", "args": {"form": "odd"}}, "args.form of status_words must be"),
    ],
)
def test_a_fault_that_makes_no_sense_for_a_call_is_refused(body: dict[str, Any], said: str) -> None:
    status, answer = IoShop().ask("POST", "/sandbox/v1/faults", body, None)
    assert status == 400
    assert said in answer["error"]


def test_a_fault_hits_only_its_account() -> None:
    shop = IoShop()
    shop.arm("create", "no_capacity", account=KEY)
    assert shop.deploy(OTHER_KEY)[0] == 200
    assert shop.deploy()[0] == 400


@pytest.mark.parametrize(
    ("fault", "call"),
    [(name, call) for name, calls in sorted(CATALOGUE.faults.items()) for call in sorted(calls) if name != "gone_as"],
)
def test_every_fault_changes_what_happens_once(fault: str, call: str) -> None:
    usual, hit_by = IoShop(ionet_deploy_body="empty"), IoShop(ionet_deploy_body="empty")
    hit_by.arm(call, fault)
    assert story(hit_by) != story(usual)
    assert hit_by.control("DELETE", "faults") == {"cleared": 0}
    assert story(hit_by)[0][:3] == ("answer", 0.0, 200)


def story(shop: IoShop) -> list[Any]:
    """All that is answered and seen in a life of some machines and a container."""
    told = []

    def ask(method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = HttpRequest(method=method, url=f"http://x{path}", headers={"x-api-key": KEY}, body=data)
        plan = shop.sandbox.receive(request)
        response = plan.response
        told.append((plan.delivery, plan.delay, response and response.status, response and response.body))

    machine = {"resource_private_name": "a", "duration_hours": 1, "gpus_per_vm": 1, "hardware_id": 12}
    ask("GET", f"{VM}/hardware")
    for _ in range(4):
        ask("POST", f"{VM}/deploy", machine)
    number = next(iter(shop.sandbox.prepaid.bookings))
    config = {"container_config": {"replica_count": 1, "traffic_port": 80}, "registry_config": {"image_url": "x"}}
    container = {"resource_private_name": "b", "duration_hours": 1, "gpus_per_container": 8, "hardware_id": "203"}
    ask("POST", f"{CAAS}/deploy", {**container, **config})
    other = list(shop.sandbox.prepaid.bookings)[-1]
    shop.wait(90)
    ask("GET", f"{VM}/price?hardware_id=12&gpus_per_vm=1&duration_hours=1&location_ids=[%22US%22]")
    for page in (1, 2):
        ask("GET", f"{VM}/deployments?page={page}&page_size=1")
    ask("GET", f"{VM}/deployment/{number}")
    ask("GET", f"{VM}/deployment/{number}/vms")
    ask("POST", f"{VM}/deployment/{number}/extend", {"duration_hours": 1})
    ask("GET", f"{CAAS}/deployment/{other}/containers")
    ask("GET", f"{CAAS}/deployment/{other}/log/container-{other[:8]}-1")
    ask("PATCH", f"{CAAS}/deployment/{other}", {"traffic_port": 81})
    told.append(dict(shop.sandbox.port_table.open))
    ask("DELETE", f"{VM}/deployment/{number}")
    for seconds in (30, 600):
        shop.wait(seconds)
        told += [row["status"] for row in shop.control("GET", "state")["instances"]]
    return told


@pytest.mark.parametrize(
    ("fault", "delivery", "booked"),
    [
        ("refuse_connection", "refuse", 0),
        ("reset_before", "reset", 0),
        ("reset_after", "reset", 1),
        ("hang_before", "hang", 0),
        ("hang_after", "hang", 1),
    ],
)
def test_the_answer_to_a_deploy_may_be_lost_with_and_without_a_booking(fault: str, delivery: str, booked: int) -> None:
    shop = IoShop()
    shop.arm("create", fault)
    with pytest.raises(AssertionError):
        shop.deploy()
    assert len(shop.listed()) == booked
    assert shop.control("GET", "state")["bill_micro_usd"] == booked * 600_000
    assert delivery in ("refuse", "reset", "hang")


@pytest.mark.parametrize(("fault", "booked"), [("status_500_before", 0), ("status_500_after", 1), ("html_502", 0)])
def test_a_deploy_may_fail_with_and_without_a_booking(fault: str, booked: int) -> None:
    shop = IoShop()
    status, answer = hit(shop, fault)
    assert (status, "<html>" in answer) == (502 if fault == "html_502" else 500, True)
    assert len(shop.listed()) == booked


def test_an_error_with_words_is_a_business_failure() -> None:
    assert hit(IoShop(), "status_503_before", msg="Down.") == (503, {"status": "failed", "error": "Down."})


def test_a_deploy_may_take_effect_later() -> None:
    shop = IoShop()
    shop.arm("create", "late_effect", args={"seconds": 40})
    with pytest.raises(AssertionError):
        shop.deploy()
    assert shop.listed() == []
    shop.wait(40)
    assert len(shop.listed()) == 1


@pytest.mark.parametrize(
    ("fault", "args", "status", "word"),
    [
        ("no_capacity", {}, 400, "capacity"),
        ("no_capacity", {"status": 409}, 409, "capacity"),
        ("offer_gone", {}, 409, "not available"),
        ("insufficient_credit", {}, 402, "credits"),
        ("name_taken", {}, 409, "name"),
        ("refused_200", {}, 200, "could not be processed"),
    ],
)
def test_a_refusal_is_a_business_failure_and_nothing_is_booked(
    fault: str, args: dict[str, Any], status: int, word: str
) -> None:
    shop = IoShop()
    answered, answer = hit(shop, fault, **args)
    assert (answered, answer["status"], set(answer)) == (status, "failed", {"status", "error"})
    assert word in answer["error"]
    assert shop.listed() == []


@pytest.mark.parametrize("fault", ["auth_error", "session_expired"])
def test_a_key_may_be_refused(fault: str) -> None:
    assert hit(IoShop(), fault, call="any") == (401, {"detail": "Invalid or missing API key"})


@pytest.mark.parametrize(
    ("args", "header"),
    [
        ({}, None),
        ({"retry_after": 7}, "7"),
        ({"retry_after": 7, "form": "date"}, "Fri, 12 Jun 2026 12:00:07 GMT"),
    ],
)
def test_a_call_may_be_limited_with_and_without_a_time(args: dict[str, Any], header: str | None) -> None:
    shop = IoShop()
    shop.arm("list", "rate_limited", args=args)
    response = shop.response("GET", f"{VM}/deployments")
    assert (response.status, response.headers.get("retry-after")) == (429, header)
    assert "detail" in json.loads(response.body)


@pytest.mark.parametrize(
    ("form", "body"),
    [
        ("empty", ""),
        ("deployment_id", {"status": "success", "deployment_id": "ID"}),
        ("id", {"status": "success", "id": "ID"}),
        ("resource_id", {"status": "success", "resource_id": "ID"}),
        ("data", {"data": {"deployment_id": "ID"}}),
    ],
)
@pytest.mark.parametrize("usual", ["empty", "id"])
def test_a_deploy_is_answered_in_each_reported_form(form: str, body: Any, usual: str) -> None:
    shop = IoShop(ionet_deploy_body=usual)
    status, answer = hit(shop, "deploy_body", form=form)
    number = shop.listed()[0]["id"]
    assert status == 200
    assert answer == (body if form == "empty" else json.loads(json.dumps(body).replace("ID", number)))


@pytest.mark.parametrize(
    ("form", "requested", "running"),
    [
        ("upper", "DEPLOYMENT REQUESTED", "RUNNING"),
        ("underscores", "DEPLOYMENT_REQUESTED", "RUNNING"),
        ("title", "Deployment Requested", "Running"),
        ("unknown", "hibernating", "hibernating"),
    ],
)
def test_a_status_may_be_written_in_other_ways(form: str, requested: str, running: str) -> None:
    shop = IoShop()
    number = shop.booked()
    shop.arm("list", "status_words", times=0, args={"form": form})
    shop.arm("get", "status_words", times=0, args={"form": form})
    assert (shop.listed()[0]["status"], shop.detail(number)["status"]) == (requested, requested)
    shop.wait(60)
    assert (shop.listed()[0]["status"], shop.detail(number)["status"]) == (running, running)
    shop.control("DELETE", "faults")
    assert shop.detail(number)["status"] == "running"


def test_a_quote_may_be_dearer_and_a_booking_dearer_than_its_quote() -> None:
    shop = IoShop()
    query = {"hardware_id": 12, "gpus_per_vm": 1, "duration_hours": 2, "location_ids": '["US"]'}
    shop.arm("price", "price_moved", args={"factor": 2})
    assert shop.data("GET", f"{VM}/price", **query)["total_cost_usdc"] == 1.2
    assert shop.data("GET", f"{VM}/price", **query)["total_cost_usdc"] == 0.6
    _, answer = hit(shop, "price_moved")
    assert shop.detail(answer["deployment_id"])["amount_paid"] == 0.9


def test_a_machine_may_have_another_gpu_than_was_booked() -> None:
    shop = IoShop()
    _, answer = hit(shop, "wrong_gpu", gpu_name="GeForce RTX 3060")
    assert shop.detail(answer["deployment_id"])["hardware_name"] == "GeForce RTX 3060"
    assert shop.listed()[0]["hardware_name"] == "GeForce RTX 3060"


def test_a_machine_that_never_starts_has_failed_after_an_hour_and_is_refunded() -> None:
    shop = IoShop()
    _, answer = hit(shop, "never_ready")
    number = answer["deployment_id"]
    shop.wait(HOUR - 1)
    assert shop.detail(number)["status"] == "deployment requested"
    assert shop.detail(number)["compute_minutes_remaining"] == 120
    shop.wait(1)
    assert shop.detail(number)["status"] == "failed"
    assert shop.state(number)["billed_micro_usd"] == 0


def test_a_machine_that_is_never_reachable_runs_and_costs_everything() -> None:
    shop = IoShop()
    _, answer = hit(shop, "never_reachable")
    number = answer["deployment_id"]
    shop.wait(HOUR)
    assert shop.detail(number)["status"] == "running"
    assert shop.worker(number)["ssh_access"] is None
    shop.wait(2 * HOUR)
    assert shop.detail(number)["status"] == "completed"
    assert shop.state(number)["billed_micro_usd"] == 600_000


def test_a_machine_may_fail_with_a_message_in_its_events() -> None:
    shop = IoShop()
    _, answer = hit(shop, "host_fault", message="No image.")
    number = answer["deployment_id"]
    shop.wait(61)
    assert shop.detail(number)["status"] == "failed"
    assert shop.worker(number)["vm_events"][-1]["message"] == "No image."
    assert shop.state(number)["billed_micro_usd"] == 0
    assert shop.state(number)["fault"] == "host_fault"


def test_a_machine_may_die_after_it_was_reachable() -> None:
    shop = IoShop()
    _, answer = hit(shop, "dies_after_ready", seconds=600)
    number = answer["deployment_id"]
    shop.wait(60)
    assert shop.worker(number)["ssh_access"]
    shop.wait(600)
    assert shop.detail(number)["status"] == "failed"
    assert shop.state(number)["billed_micro_usd"] == 300_000


def test_ssh_may_never_answer_although_the_address_is_shown() -> None:
    shop = IoShop()
    _, answer = hit(shop, "no_ssh")
    shop.wait(60)
    assert shop.worker(answer["deployment_id"])["ssh_access"]
    assert shop.sandbox.port_table.open == {}


def test_a_delete_may_be_answered_and_not_done() -> None:
    shop = IoShop()
    number = shop.running()
    shop.arm("destroy", "destroy_ignored")
    assert shop.ask("DELETE", f"{VM}/deployment/{number}")[0] == 200
    shop.wait(100)
    assert shop.detail(number)["status"] == "running"
    shop.ask("DELETE", f"{VM}/deployment/{number}")
    shop.wait(100)
    assert shop.detail(number)["status"] == "destroyed"


def test_a_log_may_end_with_an_error() -> None:
    shop = IoShop()
    _, made = shop.container()
    shop.wait(60)
    number = made["deployment_id"]
    [worker] = shop.data("GET", f"{CAAS}/deployment/{number}/containers")["workers"]
    path = f"{CAAS}/deployment/{number}/log/{worker['container_id']}"
    shop.arm("logs", "stream_error")
    assert "event: error" in shop.ask("GET", path)[1]
    assert "event: complete" in shop.ask("GET", path)[1]
