"""Contracts end, and most hosts extend them in time."""

from tests.sandbox.shop import Shop

DAY = 86_400.0


def running(shop: Shop) -> int:
    contract = shop.rented()
    shop.wait(60)
    assert shop.get(contract)["actual_status"] == "running"
    return contract


def end(shop: Shop, contract: int, seconds: float) -> None:
    shop.control("POST", f"instances/{contract}/contract", {"ends_in_seconds": seconds})


def test_an_instance_stops_at_the_end_of_its_contract_and_keeps_its_disk() -> None:
    shop = Shop()
    contract = running(shop)
    end(shop, contract, 100)
    shop.wait(99)
    assert shop.get(contract)["actual_status"] == "running"
    shop.wait(2)
    row = shop.get(contract)
    assert (row["actual_status"], row["cur_state"], row["status_msg"]) == ("exited", "stopped", "contract ended")
    assert row["instance"]["totalHour"] == row["storage_total_cost"] > 0


def test_an_ended_contract_can_not_be_started_again() -> None:
    shop = Shop()
    contract = running(shop)
    end(shop, contract, 100)
    shop.wait(101)
    assert shop.manage(contract, state="running")[1]["success"] is False
    shop.wait(10 * DAY)
    assert shop.get(contract)["actual_status"] == "exited"


def test_a_contract_that_is_extended_does_not_end_at_its_old_end() -> None:
    shop = Shop()
    contract = running(shop)
    end(shop, contract, 100)
    end(shop, contract, 1000)
    shop.wait(500)
    assert shop.get(contract)["actual_status"] == "running"
    shop.wait(501)
    assert shop.get(contract)["actual_status"] == "exited"


def test_most_hosts_extend_their_offers_and_the_contracts_on_them() -> None:
    shop = Shop()
    contract = running(shop)
    first = shop.get(contract)["end_date"]
    while shop.sandbox.market.now < first + DAY:
        shop.wait(DAY)
        shop.sandbox.tick()
    row = shop.get(contract)
    assert row["actual_status"] == "running"
    assert row["end_date"] > first


def test_a_host_that_leaves_offers_nothing_after_its_end_and_stops_its_instances() -> None:
    shop = Shop(odd_hosts=1.0, machines=200)
    leaving = [one for one in shop.sandbox.market.machines.values() if one.leaves and not one.held]
    soonest = min(leaving, key=lambda one: float(str(one.columns["end_date"])))
    (offer, *_) = shop.chunks(soonest.id)
    contract = shop.rented(offer["id"], disk=8)
    shop.wait(float(offer["duration"]) + 1)
    assert shop.get(contract)["actual_status"] in ("exited", None)
    assert not any(row["rentable"] for row in shop.chunks(soonest.id))


def test_an_ended_contract_stays_ended_after_a_restart(tmp_path) -> None:  # type: ignore[no-untyped-def]
    shop = Shop(state=tmp_path / "market.state")
    contract = running(shop)
    end(shop, contract, 100)
    shop = shop.reopened()
    shop.wait(101)
    assert shop.get(contract)["actual_status"] == "exited"


def test_a_contract_without_a_number_of_seconds_is_refused() -> None:
    shop = Shop()
    contract = running(shop)
    status, answer = shop.ask("POST", f"/sandbox/v1/instances/{contract}/contract", {}, key=None)
    assert status == 400
    assert "ends_in_seconds" in answer["error"]
