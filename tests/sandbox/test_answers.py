"""vast.ai's answers: success and every recorded error, word for word."""

import pytest

from tests.sandbox.shop import KEY, OTHER_KEY, Shop

CREATE = {"client_id": "me", "image": "pytorch/pytorch", "env": {}, "price": None, "disk": 10, "label": None,
          "extra": None, "onstart": None, "image_login": None, "python_utf8": False, "lang_utf8": False,
          "use_jupyter_lab": False, "jupyter_dir": None, "force": False, "cancel_unavail": False,
          "template_hash_id": None, "user": None, "runtype": "ssh"}  # fmt: skip


def test_a_wrong_key_gets_404_and_no_key_403_but_searching_needs_none() -> None:
    shop = Shop()
    wrong = {"success": False, "error": "auth_error", "msg": "Invalid user key"}
    none = {"success": False, "error": "auth_error", "msg": "This action requires login."}
    for path in ("/api/v0/users/current", "/api/v1/instances/", "/api/v0/instances/5/"):
        assert shop.ask("GET", path, key="wrong") == (404, wrong)
        assert shop.ask("GET", path, key=None) == (403, none)
    assert shop.ask("POST", "/api/v0/bundles/", {}, "wrong") == (404, wrong)
    assert shop.search(key=None)
    assert shop.ask("GET", "/api/v0/gpu_names/unique/", key=None)[0] == 200


def test_a_key_in_the_query_still_works() -> None:
    assert Shop().ask("GET", f"/api/v0/users/current?api_key={KEY}", key=None)[0] == 200


def test_the_create_body_of_the_official_command_line_works() -> None:
    shop = Shop()
    offer = shop.search(num_gpus={"eq": "1"}, limit=1)[0]
    status, answer = shop.ask("PUT", f"/api/v0/asks/{offer['id']}/", CREATE)
    assert status == 200
    assert (answer["success"], type(answer["new_contract"]), type(answer["instance_api_key"])) == (True, int, str)


def test_a_gone_or_unknown_offer_is_no_such_ask_with_status_400() -> None:
    shop = Shop()
    offer = shop.search(num_gpus={"eq": 1}, limit=1)[0]["id"]
    shop.rented(offer)
    for number in (offer, 7654321):
        text = f"error 404/3603: no_such_ask  Instance type by id {number} is not available."
        assert shop.create(number) == (
            400, {"success": False, "error": "invalid_args", "msg": text, "ask_id": number}
        )  # fmt: skip


def test_with_cancel_unavail_a_taken_offer_is_410() -> None:
    shop = Shop()
    offer = shop.search(num_gpus={"eq": 1}, limit=1)[0]["id"]
    shop.rented(offer)
    status, answer = shop.create(offer, cancel_unavail=True)
    assert (status, answer["error"], answer["ask_id"]) == (410, "no_such_ask", offer)


def test_without_credit_nothing_is_rented_and_the_answer_has_no_success() -> None:
    shop = Shop(credit=0.0)
    answer = {"error": "insufficient_credit", "msg": "Your account lacks credit; see the billing page."}
    assert shop.create(shop.search(limit=1)[0]["id"]) == (400, answer)
    assert shop.state()["instances"] == []


@pytest.mark.parametrize("body", [{"image": None}, {"disk": 4}, {"disk": 1e9}, {"label": "x" * 257}, {"price": 0}])
def test_impossible_creates_are_refused(body: dict[str, object]) -> None:
    shop = Shop()
    status, answer = shop.create(shop.search(limit=1)[0]["id"], **body)
    assert (status, answer["error"]) == (400, "invalid_args")
    assert shop.state()["instances"] == []


def test_a_too_low_bid_is_refused_but_leaves_a_stopped_instance() -> None:
    shop = Shop()
    offer = shop.search(num_gpus={"eq": 1}, limit=1, type="bid")[0]
    status, answer = shop.create(offer["id"], price=offer["min_bid"] / 2)
    assert (status, answer["success"]) == (400, False)
    assert shop.get(answer["new_contract"])["cur_state"] == "stopped"


def test_a_missing_instance_is_null_when_read_and_404_when_changed() -> None:
    shop = Shop()
    assert shop.ask("GET", "/api/v0/instances/999/") == (200, {"instances": None})
    for status, answer in (shop.destroy(999), shop.manage(999, state="stopped"), shop.manage(999, label="x")):
        assert (status, answer["success"], answer["error"]) == (404, False, "no_such_instance")


def test_another_account_neither_sees_nor_changes_an_instance() -> None:
    shop = Shop()
    contract = shop.rented()
    assert shop.get(contract, OTHER_KEY) is None
    assert shop.page(OTHER_KEY)["instances"] == []
    assert shop.destroy(contract, OTHER_KEY)[0] == 404
    assert shop.get(contract)["id"] == contract


def test_the_old_list_is_gone() -> None:
    status, answer = Shop().ask("GET", "/api/v0/instances/")
    assert (status, answer["error"]) == (410, "deprecated_endpoint")


def test_slashes_at_the_end_do_not_matter() -> None:
    shop = Shop()
    for path in ("/api/v1/instances", "/api/v0/users/current", "/api/v0/gpu_names/unique"):
        assert shop.ask("GET", path) == shop.ask("GET", path + "/")


def test_an_unknown_path_is_404_and_json() -> None:
    shop = Shop()
    for path in ("/api/v0/nothing/", "/"):
        assert shop.ask("GET", path)[1]["error"] == "not_found"


def test_the_account_shows_its_credit() -> None:
    status, answer = Shop(credit=25.0).ask("GET", "/api/v0/users/current")
    assert (status, answer["credit"]) == (200, 25.0)
    assert {"id", "email", "username", "balance", "host_agreement_accepted"} <= answer.keys()


def test_charges_need_a_day() -> None:
    shop = Shop()
    contract = shop.rented()
    assert shop.ask("GET", "/api/v0/charges/")[0] == 400
    status, answer = shop.ask("GET", '/api/v0/charges/?select_filters={"day":{"gte":1,"lte":2}}')
    assert (status, answer["results"][0]["source"]) == (200, f"instance-{contract}")


def test_bulk_calls_change_all_named_instances() -> None:
    shop = Shop()
    contracts = [shop.rented(), shop.rented()]
    shop.wait(60)
    assert shop.ask("PUT", "/api/v0/instances/", {"state": "stopped", "ids": contracts})[1] == {"success": True}
    assert {shop.get(contract)["cur_state"] for contract in contracts} == {"stopped"}
    shop.ask("DELETE", "/api/v0/instances/", {"instance_ids": contracts})
    assert shop.page()["instances"] == []
