"""The saved market: everything that was answered survives a kill, and no id is issued twice."""

from pathlib import Path

import pytest

from gpuproxy.sandbox.market.journal import WrongMarket
from tests.sandbox.shop import Shop


def test_instances_bills_prices_and_other_customers_survive_a_kill(tmp_path: Path) -> None:
    shop = Shop(state=tmp_path / "market.state")
    running, stopped, gone = shop.rented(label="a"), shop.rented(label="b"), shop.rented(label="c")
    shop.wait(100)
    shop.manage(stopped, state="stopped")
    shop.destroy(gone)
    offer = shop.search(num_gpus={"eq": 1}, limit=1)[0]
    shop.control("POST", f"offers/{offer['id']}", {"price_per_hour": 7.5})
    machine = shop.machine(2)
    shop.control("POST", f"machines/{machine}/occupy", {"gpus": 2})
    again = shop.reopened()
    assert again.state() == shop.state()
    assert again.search(verified="any", rentable="any") == shop.search(verified="any", rentable="any")
    assert again.get(running) == shop.get(running)
    assert again.rented() > gone


def test_a_released_chunk_is_not_offered_under_an_old_id_after_a_restart(tmp_path: Path) -> None:
    shop = Shop(state=tmp_path / "market.state")
    offer = shop.search(num_gpus={"eq": 1}, limit=1)[0]["id"]
    contract = shop.rented(offer)
    shop.destroy(contract)
    again = shop.reopened()
    assert again.create(offer)[0] == 400
    assert again.rented() != contract


def test_a_loading_instance_boots_at_its_own_time_although_nobody_looks(tmp_path: Path) -> None:
    shop = Shop(state=tmp_path / "market.state")
    contract = shop.rented()
    shop.wait(1000)
    again = shop.reopened()
    assert again.state() == shop.state()
    assert again.get(contract)["actual_status"] == "running"


def test_a_half_written_line_is_a_change_that_was_never_answered(tmp_path: Path) -> None:
    path = tmp_path / "market.state"
    shop = Shop(state=path)
    contract = shop.rented()
    with path.open("ab") as file:
        file.write(b'{"instance":{"id":99')
    again = shop.reopened()
    assert [row["id"] for row in again.state()["instances"]] == [str(contract)]
    second = again.rented()
    assert [row["id"] for row in again.reopened().state()["instances"]] == [str(contract), str(second)]


def test_market_time_never_goes_back_and_a_later_start_time_applies(tmp_path: Path) -> None:
    path = tmp_path / "market.state"
    shop = Shop(state=path, start_time=1_000_000.0)
    shop.control("POST", "clock", {"advance_seconds": 5000})
    shop.rented()
    assert shop.state()["now"] == 1_005_000
    assert Shop(state=path, start_time=1_000_000.0).state()["now"] == 1_005_000
    assert Shop(state=path, start_time=2_000_000.0).state()["now"] == 2_000_000


def test_the_state_of_another_market_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "market.state"
    Shop(state=path, seed=1).rented()
    with pytest.raises(WrongMarket, match="seed 1"):
        Shop(state=path, seed=2)


def test_a_file_that_is_not_a_state_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "market.state"
    path.write_text("hello\n")
    with pytest.raises(WrongMarket):
        Shop(state=path)


def test_hosts_keep_offering_however_old_a_market_is(tmp_path: Path) -> None:
    shop = Shop(state=tmp_path / "market.state")
    count = len(shop.search(verified="any"))
    shop.rented()
    shop.wait(5 * 365 * 86400)
    for one in (shop, shop.reopened()):
        offers = one.search(verified="any")
        assert len(offers) > count * 0.9
        assert min(offer["duration"] for offer in offers) > 6 * 86400


def test_closing_leaves_a_compact_file(tmp_path: Path) -> None:
    path = tmp_path / "market.state"
    shop = Shop(state=path)
    for _ in range(20):
        shop.destroy(shop.rented())
    before = path.stat().st_size
    shop.sandbox.close()
    assert path.stat().st_size < before / 2
    assert shop.reopened().state() == shop.state()


def test_reading_writes_nothing(tmp_path: Path) -> None:
    shop = Shop(state=tmp_path / "market.state")
    shop.search()
    shop.state()
    assert not (tmp_path / "market.state").exists()


def test_broken_and_repaired_machines_and_images_survive_a_kill(tmp_path: Path) -> None:
    shop = Shop(state=tmp_path / "market.state")
    two, four = shop.machine(2), shop.machine(4)
    for machine in (two, four):
        shop.control("POST", f"machines/{machine}/break", {"how": "host_fault", "message": "disk is full"})
    shop.control("POST", f"machines/{four}/repair")
    shop.control("POST", "images", {"image": "bad", "message": "is bad"})
    shop.control("POST", "images", {"image": "worse"})
    again = shop.reopened()
    assert again.state() == shop.state()
    assert again.state()["broken_machines"] == {str(two): "host_fault"}
    again.control("DELETE", "images", {"image": "worse"})
    last = again.reopened()
    contract = last.rented(image="bad")
    last.wait(60)
    assert last.get(contract)["status_msg"] == "is bad"
    assert last.state()["broken_images"] == ["bad"]


def test_broken_machines_and_images_survive_a_close(tmp_path: Path) -> None:
    shop = Shop(state=tmp_path / "market.state")
    shop.control("POST", "images", {"image": "bad"})
    shop.control("POST", f"machines/{shop.machine(2)}/break", {"how": "no_ssh"})
    shop.sandbox.close()
    assert shop.reopened().state() == shop.state()


def test_the_defects_of_an_instance_survive_a_kill(tmp_path: Path) -> None:
    shop = Shop(state=tmp_path / "market.state")
    contracts = []
    for fault in ("image_fault", "no_ssh", "shy_row", "other_name"):
        shop.arm("create", fault, args={"seconds": 300})
        contracts.append(shop.rented())
    again = shop.reopened()
    for seconds in (0, 100, 250):
        shop.wait(seconds)
        assert [again.get(one) for one in contracts] == [shop.get(one) for one in contracts]
        assert again.sandbox.port_table.open.keys() == shop.sandbox.port_table.open.keys()


def test_shy_instances_of_a_share_are_as_shy_after_a_kill_as_before(tmp_path: Path) -> None:
    shop = Shop(state=tmp_path / "market.state", misreport_share=0.5)
    contracts = [shop.rented() for _ in range(12)]
    shop.wait(20)
    before = [shop.get(one) for one in contracts]
    again = shop.reopened()
    assert len({row["cur_state"] for row in before}) == 2
    for old, new in zip(before, (again.get(one) for one in contracts), strict=True):
        assert {name: value for name, value in old.items() if name != "gpu_name"} == {
            name: value for name, value in new.items() if name != "gpu_name"
        }


def test_a_state_file_from_before_machines_could_break_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "market.state"
    shop = Shop(state=path)
    shop.rented()
    text = path.read_text()
    older = text.replace(',"broken":"","broken_message":""', "").replace(',"failure":null,"no_ssh":false', "")
    assert len(older) < len(text)
    path.write_text(older)
    assert shop.reopened().state() == shop.state()
