"""The forms of "no such instance": the documented one and all that were observed."""

import pytest

from gpuproxy.sandbox.options import SandboxOptions
from tests.sandbox.shop import KEY, OTHER_KEY, Shop

HTML = (
    "<html>\n<head><title>404 Not Found</title></head>\n<body>\n<center><h1>404 Not Found</h1></center>\n"
    "<hr><center>nginx</center>\n</body>\n</html>\n"
)
NONE = {"success": False, "error": "no_such_instance", "msg": "Instance 5 not found."}
FORMS = {
    "null": (200, {"instances": None}),
    "empty_list": (200, {"instances": []}),
    "empty_object": (200, {"instances": {}}),
    "status_410": (410, {"success": False, "error": "gone", "msg": "Instance 5 is gone."}),
    "plain_404": (404, "Not Found"),
    "no_such_instance": (404, NONE),
    "html_404": (404, HTML),
}


def _read(shop: Shop, contract: int = 5) -> tuple[int, object]:
    return shop.ask("GET", f"/api/v0/instances/{contract}/")


@pytest.mark.parametrize("form", FORMS)
def test_reads_and_destroys_of_missing_instances_get_the_armed_form_and_then_the_documented_one(
    form: str,
) -> None:
    shop = Shop()
    for call in ("get", "destroy"):
        shop.arm(call, "gone_as", args={"form": form})
    assert _read(shop) == shop.destroy(5) == FORMS[form]
    assert (_read(shop), shop.destroy(5)) == (FORMS["null"], (404, NONE))


def test_a_plain_404_can_have_any_text_or_none() -> None:
    shop = Shop()
    for body in ("", "404 page not found"):
        shop.arm("get", "gone_as", args={"form": "plain_404", "body": body})
        assert _read(shop) == (404, body)


def test_an_instance_that_exists_is_answered_normally_and_leaves_the_fault_armed() -> None:
    shop = Shop()
    contract = shop.rented()
    shop.arm("any", "gone_as", args={"form": "status_410"})
    assert shop.get(contract)["id"] == contract
    assert shop.destroy(contract)[0] == 200
    assert _read(shop, contract)[0] == 410
    assert _read(shop, contract)[0] == 200


def test_an_instance_of_another_account_does_not_exist() -> None:
    shop = Shop()
    contract = shop.rented(key=OTHER_KEY)
    shop.arm("get", "gone_as", times=0, args={"form": "html_404"})
    assert _read(shop, contract)[0] == 404
    assert shop.get(contract, OTHER_KEY)["id"] == contract


def test_a_wrong_key_is_reported_and_other_faults_have_precedence() -> None:
    shop = Shop()
    shop.arm("get", "gone_as", args={"form": "status_410"})
    shop.arm("get", "status_503_before")
    assert shop.ask("GET", "/api/v0/instances/5/", key="wrong")[0] == 503
    assert shop.ask("GET", "/api/v0/instances/5/", key="wrong")[1]["error"] == "auth_error"
    assert shop.ask("GET", "/api/v0/instances/5/", key=KEY)[0] == 410


@pytest.mark.parametrize("form", FORMS)
def test_a_standing_form_applies_to_reads_and_to_destroys_unless_it_looks_like_success(form: str) -> None:
    shop = Shop(gone_as=form)
    contract = shop.rented()
    assert shop.get(contract)["id"] == contract
    destroyed = FORMS[form] if FORMS[form][0] != 200 else (404, NONE)
    for _ in range(2):
        assert (_read(shop), shop.destroy(5)) == (FORMS[form], destroyed)


def test_by_default_the_standing_form_is_the_documented_null() -> None:
    assert SandboxOptions().gone_as == "null"


def test_starts_and_labels_of_missing_instances_always_get_the_documented_form() -> None:
    shop = Shop(gone_as="html_404")
    for body in ({"state": "running"}, {"label": "x"}):
        assert shop.manage(5, **body)[1]["error"] == "no_such_instance"
