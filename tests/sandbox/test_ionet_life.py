"""Deployments of io.net: their life, their clock, and what they cost."""

from pathlib import Path

import pytest

from gpuproxy.sandbox.market.journal import WrongMarket
from tests.sandbox.ionet_shop import CAAS, HOUR, SSH_KEY, VM, IoShop
from tests.sandbox.shop import KEY, OTHER_KEY


def test_a_machine_is_requested_runs_and_completes_by_itself() -> None:
    shop = IoShop()
    number = shop.booked(duration_hours=1)
    assert shop.statuses(number, 4000, 10) == ["deployment requested", "running", "completed"]
    row = shop.detail(number)
    assert (row["started_at"], row["finished_at"]) == ("2026-06-12T12:00:30", "2026-06-12T13:00:30")
    assert (row["compute_minutes_served"], row["compute_minutes_remaining"]) == (60, 0)
    assert shop.state(number)["status"] == "completed"
    assert [one["id"] for one in shop.listed(status="completed")] == [number]


def test_the_addresses_are_unknown_for_a_while_after_it_runs() -> None:
    shop = IoShop()
    web = {"port": 8000, "protocol": "tcp", "whitelist": ["0.0.0.0/0"]}
    number = shop.booked(network_services={"web": web, "dns": {**web, "protocol": "udp"}})
    shop.wait(30)
    assert shop.detail(number)["status"] == "running"
    assert shop.worker(number)["ssh_access"] is None
    assert shop.worker(number)["network_services"]["web"]["public_port"] is None
    shop.wait(12)
    worker = shop.worker(number)
    port = int(worker["ssh_access"].removeprefix("ssh ubuntu@127.0.0.1 -p "))
    public = {name: one["public_port"] for name, one in worker["network_services"].items()}
    shop.sandbox.tick()
    assert shop.sandbox.port_table.open == {port: "ssh", public["web"]: "tcp"}
    assert shop.state(number)["ssh_addresses"] == [f"127.0.0.1:{port}"]
    assert shop.sandbox.lets_in(port, SSH_KEY)
    assert not shop.sandbox.lets_in(port, "ssh-ed25519 AAAAother me@home")
    assert not shop.sandbox.lets_in(port + 1, SSH_KEY)


def test_nothing_answers_after_the_end() -> None:
    shop = IoShop()
    number = shop.running(duration_hours=1)
    assert shop.sandbox.port_table.open
    shop.wait(HOUR)
    assert shop.worker(number)["ssh_access"] is None
    assert shop.sandbox.port_table.open == {}


def test_minutes_pass_only_while_it_runs() -> None:
    shop = IoShop()
    number = shop.booked()
    shop.wait(29)
    assert shop.detail(number)["compute_minutes_remaining"] == 120
    shop.wait(1 + 90)
    row = shop.detail(number)
    assert (row["compute_minutes_served"], row["compute_minutes_remaining"]) == (1, 119)
    assert shop.listed()[0]["completed_percent"] == 0
    shop.wait(HOUR)
    assert shop.listed()[0]["completed_percent"] == 50


def test_a_deleted_machine_is_gone_some_seconds_later_and_a_second_delete_is_answered_with_404() -> None:
    shop = IoShop()
    number = shop.running()
    path = f"{VM}/deployment/{number}"
    answered = shop.ask("DELETE", path)
    assert answered == (200, {"status": "success", "deployment_id": number})
    assert shop.detail(number)["status"] == "termination requested"
    assert shop.ask("DELETE", path) == answered
    assert shop.statuses(number, 20) == ["termination requested", "destroyed"]
    assert shop.ask("DELETE", path) == (404, {"status": "failed", "error": "Deployment not found"})
    assert shop.detail(number)["finished_at"] is not None


@pytest.mark.parametrize(
    ("ran", "refunded"),
    [
        (0, 600_000),  # of 0.90 for three hours, the first is never refunded
        (1800, 600_000),
        (HOUR, 600_000),
        (HOUR + 720, 540_000),  # io.net's own example: 1.2 of 3 hours are charged
        (2.5 * HOUR, 150_000),
    ],
)
def test_a_deleted_machine_costs_what_was_used_and_at_least_an_hour(ran: float, refunded: int) -> None:
    shop = IoShop()
    number = shop.booked(duration_hours=3)
    shop.wait(30 + ran)
    credit = shop.sandbox.prepaid.credit(KEY)
    shop.ask("DELETE", f"{VM}/deployment/{number}")
    row = shop.state(number)
    assert (row["paid_micro_usd"], row["refunded_micro_usd"]) == (900_000, refunded)
    assert row["billed_micro_usd"] == 900_000 - refunded
    assert shop.detail(number)["amount_paid"] == 0.9
    shop.wait(100)
    assert shop.state(number)["refunded_micro_usd"] == refunded
    assert shop.sandbox.prepaid.credit(KEY) == credit + refunded
    assert shop.control("GET", "state")["bill_micro_usd"] == 900_000 - refunded


def test_a_refund_is_rounded_down_and_never_more_than_what_is_left() -> None:
    shop = IoShop()
    wanted = {"hardware_id": "8H100.80S.176V", "gpus_per_vm": 8, "location_ids": ["FI"], "duration_hours": 7}
    number = shop.booked(**wanted)
    paid = shop.booking(number).paid
    for used in range(0, 8 * 3600, 977):
        refund = shop.booking(number).refund(used)
        exact = paid * max(0.0, 7 * HOUR - max(HOUR, used)) / (7 * HOUR)
        assert exact - 1 < refund <= exact + 1e-6


def test_a_machine_that_is_deleted_before_it_runs_costs_an_hour() -> None:
    shop = IoShop()
    number = shop.booked()
    shop.ask("DELETE", f"{VM}/deployment/{number}")
    shop.wait(100)
    assert shop.detail(number)["status"] == "destroyed"
    assert shop.state(number)["billed_micro_usd"] == 300_000


def test_an_extend_adds_hours_at_todays_price_and_moves_the_end() -> None:
    shop = IoShop()
    number = shop.running(duration_hours=1)
    shop.control("POST", "offers/12__1", {"price_per_hour": 0.4})
    row = shop.data("POST", f"{VM}/deployment/{number}/extend", {"duration_hours": 2})
    assert (row["amount_paid"], row["compute_minutes_remaining"]) == (1.1, 180)
    shop.wait(HOUR)
    assert shop.detail(number)["status"] == "running"
    shop.wait(2 * HOUR)
    assert shop.detail(number)["status"] == "completed"
    assert shop.state(number)["billed_micro_usd"] == 1_100_000


def test_a_machine_can_be_extended_before_it_runs_but_not_after_its_end() -> None:
    shop = IoShop()
    number = shop.booked(duration_hours=1)
    path = f"{VM}/deployment/{number}/extend"
    assert shop.data("POST", path, {"duration_hours": 1})["compute_minutes_remaining"] == 120
    for body in ({}, {"duration_hours": 0}, {"duration_hours": 1, "more": 1}):
        assert shop.ask("POST", path, body)[0] == 422
    shop.wait(30)
    shop.ask("DELETE", f"{VM}/deployment/{number}")
    for _ in range(2):
        assert shop.ask("POST", path, {"duration_hours": 1}) == (
            400,
            {"status": "failed", "error": "Only an active deployment can be extended"},
        )
        shop.wait(20)
    assert shop.state(number)["booked_hours"] == 2


def test_nothing_is_booked_or_extended_without_credit() -> None:
    shop = IoShop(credit=1.0)
    number = shop.booked()
    no_credit = (402, {"status": "failed", "error": "Insufficient credits: please top up your balance"})
    assert shop.deploy() == no_credit
    assert shop.ask("POST", f"{VM}/deployment/{number}/extend", {"duration_hours": 2}) == no_credit
    assert shop.ask("POST", f"{VM}/deployment/{number}/extend", {"duration_hours": 1})[0] == 200
    assert shop.deploy(OTHER_KEY)[0] == 200
    assert shop.data("GET", f"{VM}/deployments")["total"] == 1


def test_two_deployments_may_have_one_name() -> None:
    shop = IoShop()
    assert shop.booked() != shop.booked()
    assert [row["name"] for row in shop.listed()] == ["gp-1", "gp-1"]
    taken = shop.ask("GET", f"{CAAS}/clusters/check_cluster_name_availability", cluster_name="gp-1")
    assert taken == (200, False)
    free = shop.ask("GET", f"{CAAS}/clusters/check_cluster_name_availability", cluster_name="gp-2")
    assert free == (200, True)


def test_deployments_prices_and_hosts_survive_a_kill(tmp_path: Path) -> None:
    shop = IoShop(state=tmp_path / "market.state")
    web = {"port": 8000, "protocol": "tcp", "whitelist": ["0.0.0.0/0"]}
    running, ended, loading = shop.booked(network_services={"web": web}), shop.booked(), ""
    shop.wait(60)
    shop.ask("DELETE", f"{VM}/deployment/{ended}")
    loading = shop.booked()
    shop.container()
    shop.control("POST", "offers/12__1", {"price_per_hour": 0.5})
    shop.control("POST", "machines/3-US-1/occupy", {"gpus": 2})
    shop.control("POST", "machines/3-US-2/break", {"how": "host_fault"})
    again = shop.reopened()
    assert again.control("GET", "state") == shop.control("GET", "state")
    assert again.hardware() == shop.hardware()
    assert again.worker(running) == shop.worker(running)
    assert again.sandbox.port_table.open == shop.sandbox.port_table.open
    again.wait(100)
    assert [again.detail(one)["status"] for one in (running, ended, loading)] == ["running", "destroyed", "running"]
    assert again.booked() not in (running, ended, loading)
    twice = again.reopened()
    assert twice.control("GET", "state") == again.control("GET", "state")


def test_the_end_comes_at_its_own_time_although_nobody_looks(tmp_path: Path) -> None:
    shop = IoShop(state=tmp_path / "market.state")
    number = shop.booked(duration_hours=1)
    shop.wait(10 * HOUR)
    assert shop.reopened().detail(number)["finished_at"] == "2026-06-12T13:00:30"


def test_a_state_of_another_seed_is_refused(tmp_path: Path) -> None:
    IoShop(state=tmp_path / "market.state", seed=1).booked()
    with pytest.raises(WrongMarket):
        IoShop(state=tmp_path / "market.state", seed=2)
