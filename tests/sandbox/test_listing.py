"""The paged list of instances (v1), and the rows of an instance during its life."""

import pytest

from tests.sandbox.shop import Shop


def test_pages_hold_at_most_25_and_together_everything_once() -> None:
    shop = Shop(machines=300)
    contracts = [shop.rented(label=f"l{number % 2}") for number in range(57)]
    pages = list(shop.pages(limit=100, order_by=[{"col": "id", "dir": "asc"}], select_filters={}))
    assert [len(page["instances"]) for page in pages] == [25, 25, 7]
    assert [row["id"] for page in pages for row in page["instances"]] == contracts
    assert pages[0]["total_instances"] == 57
    assert pages[0]["label_counts"] == {"l0": 29, "l1": 28}


@pytest.mark.parametrize(("column", "direction"), [("label", "desc"), ("id", "desc"), ("gpu_name", "asc")])
def test_every_order_pages_through_everything_once(column: str, direction: str) -> None:
    shop = Shop(machines=200)
    contracts = {shop.rented(label=f"l{number % 3}") for number in range(11)}
    pages = list(shop.pages(limit=4, order_by=[{"col": column, "dir": direction}]))
    rows = [row for page in pages for row in page["instances"]]
    assert sorted(row["id"] for row in rows) == sorted(contracts)
    assert [row[column] for row in rows] == sorted((row[column] for row in rows), reverse=direction == "desc")


def test_a_page_survives_that_its_last_row_is_destroyed() -> None:
    shop = Shop()
    contracts = [shop.rented() for _ in range(6)]
    first = shop.page(limit=3)
    shop.destroy(contracts[2])
    rest = shop.page(limit=3, after_token=first["next_token"])
    assert [row["id"] for row in rest["instances"]] == contracts[3:]


def test_a_limit_of_zero_acts_as_five() -> None:
    shop = Shop()
    for _ in range(6):
        shop.rented()
    assert len(shop.page(limit=0)["instances"]) == 5


def test_filters_select_rows_and_select_cols_selects_columns() -> None:
    shop = Shop()
    wanted = shop.rented(label="mine")
    shop.rented(label=None)
    page = shop.page(select_filters={"label": {"eq": "mine"}}, select_cols=["id", "nonsense"])
    assert page["instances"] == [{"id": wanted, "nonsense": None}]
    assert shop.page(select_filters={"actual_status": {"in": ["running"]}})["instances"] == []
    assert shop.page()["label_counts"] == {"mine": 1, "": 1}


def test_computed_columns_and_foreign_tokens_are_refused() -> None:
    shop = Shop()
    status, answer = shop.ask("GET", '/api/v1/instances/?select_filters={"dph_total":{"gt":1}}')
    text = "Error in query parameters: dph_total is not a valid search key"
    assert (status, answer) == (400, {"success": False, "error": "invalid_request", "msg": text})
    status, answer = shop.ask("GET", "/api/v1/instances/?after_token=abc")
    assert (status, answer["error"]) == (400, "invalid_token")


def test_an_instance_has_no_status_then_loads_then_runs() -> None:
    shop = Shop()
    env = {"A": "1", "-p 8000:8000": "1", "-p 8081:8081/udp": "1"}
    contract = shop.rented(label="x", runtype="ssh_direc ssh_proxy", env=env)
    seen = [shop.get(contract)]
    for seconds in (10, 25):
        shop.wait(seconds)
        seen.append(shop.get(contract))
    assert [row["actual_status"] for row in seen] == [None, "loading", "running"]
    assert {(row["cur_state"], row["next_state"], row["intended_status"]) for row in seen} == {("running",) * 3}
    assert "ports" not in seen[1]
    assert set(seen[2]["ports"]) == {"22/tcp", "8000/tcp", "8081/udp"}
    assert seen[2]["extra_env"] == [["A", "1"], ["-p 8000:8000", "1"], ["-p 8081:8081/udp", "1"]]
    assert seen[2]["ssh_host"] == "127.0.0.1"
    assert "volume_info" not in seen[2]
    assert "volume_info" in shop.page()["instances"][0]


def test_a_stopped_instance_shows_its_current_and_its_running_price() -> None:
    shop = Shop()
    contract = shop.rented(disk=72)
    shop.wait(60)
    shop.manage(contract, state="stopped")
    row = shop.get(contract)
    disk = row["storage_cost"] * 72 / 720
    assert (row["actual_status"], row["intended_status"]) == ("exited", "stopped")
    assert row["dph_total"] == pytest.approx(row["dph_base"] + disk)
    assert row["instance"]["totalHour"] == pytest.approx(disk)


def test_labels_change_and_too_long_ones_are_refused() -> None:
    shop = Shop()
    contract = shop.rented(label="a")
    assert shop.manage(contract, label="b") == (200, {"success": True})
    assert shop.manage(contract, label="x" * 1025)[1]["error"] == "label_too_long"
    assert shop.get(contract)["label"] == "b"


def test_a_destroyed_instance_is_gone_at_once_everywhere() -> None:
    shop = Shop()
    contract = shop.rented()
    assert shop.destroy(contract)[1]["success"] is True
    assert shop.get(contract) is None
    assert shop.page()["instances"] == []
    assert shop.destroy(contract)[0] == 404


def test_a_fresh_instance_is_listed_at_once_unless_listings_lag() -> None:
    prompt, lagging = Shop(), Shop(list_lag=20.0)
    for shop in (prompt, lagging):
        shop.rented()
    assert (len(prompt.page()["instances"]), len(lagging.page()["instances"])) == (1, 0)
    lagging.wait(20)
    assert len(lagging.page()["instances"]) == 1
