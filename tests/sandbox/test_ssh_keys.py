"""SSH keys of an instance: registered ones stay, those that onstart appended vanish when the host refreshes them."""

from typing import Any

import pytest

from tests.sandbox.shop import OTHER_KEY, Shop

ED, RSA = "ssh-ed25519 AAAAC3NzaC1lZDI1 me@home", "ssh-rsa AAAAB3NzaC1yc2E+/= you"
ONSTART = f"mkdir -p ~/.ssh && printf '%s\\n' '{ED}' '{RSA}' >> ~/.ssh/authorized_keys\nsleep 1"


def _attach(shop: Shop, contract: int, key: Any, account: str = "sandbox-key") -> tuple[int, Any]:
    return shop.ask("POST", f"/api/v0/instances/{contract}/ssh/", {"ssh_key": key}, account)


def _keys(shop: Shop, contract: int) -> list[str]:
    return next(row["authorized_keys"] for row in shop.state()["instances"] if row["id"] == str(contract))


def _running(shop: Shop, **body: Any) -> int:
    contract = shop.rented(**{"runtype": "ssh_direc ssh_proxy", **body})
    shop.wait(30)
    return contract


def test_a_registered_key_is_kept_and_registering_it_again_changes_nothing() -> None:
    shop = Shop()
    contract = _running(shop)
    assert _keys(shop, contract) == []
    for key in (ED, RSA, f"{ED}-again", f" {ED}\n"):
        assert _attach(shop, contract, key) == (200, {"success": True})
    assert _keys(shop, contract) == [ED, RSA]
    assert shop.state()["calls"]["vast.ai"]["ssh_key"] == 4


def test_a_key_can_be_registered_before_the_instance_runs_and_outlives_stops() -> None:
    shop = Shop()
    contract = shop.rented()
    _attach(shop, contract, ED)
    shop.wait(60)
    shop.manage(contract, state="stopped")
    shop.manage(contract, state="running")
    shop.wait(60)
    assert _keys(shop, contract) == [ED]


@pytest.mark.parametrize("key", [None, "", "nonsense", "ssh-ed25519", "ssh-ed25519 BBBB", f"{ED}\n{RSA}", 5])
def test_what_is_not_a_public_key_is_refused(key: Any) -> None:
    shop = Shop()
    contract = _running(shop)
    status, answer = _attach(shop, contract, key)
    assert (status, answer["success"], answer["error"]) == (400, False, "invalid_args")
    assert _keys(shop, contract) == []


def test_an_unknown_or_foreign_instance_has_no_keys() -> None:
    shop = Shop()
    contract = _running(shop)
    for number, account in ((5, "sandbox-key"), (contract, OTHER_KEY)):
        status, answer = _attach(shop, number, ED, account)
        assert (status, answer["error"]) == (404, "no_such_instance")
    assert _keys(shop, contract) == []


@pytest.mark.parametrize(("args", "text"), [({}, "already"), ({"msg": "too many keys"}, "too many keys")])
def test_a_key_can_be_refused_by_a_fault_and_the_next_call_is_not(args: dict[str, str], text: str) -> None:
    shop = Shop()
    contract = _running(shop)
    shop.arm("ssh_key", "key_refused", args=args)
    status, answer = _attach(shop, contract, ED)
    assert (status, answer["success"], answer["error"]) == (400, False, "invalid_args")
    assert text in answer["msg"]
    assert _keys(shop, contract) == []
    assert _attach(shop, contract, ED)[0] == 200


def test_other_faults_hit_the_call_too() -> None:
    shop = Shop()
    contract = _running(shop)
    shop.arm("ssh_key", "status_500_after")
    assert _attach(shop, contract, ED)[0] == 500
    assert _keys(shop, contract) == [ED]
    shop.arm("ssh_key", "late_effect", args={"seconds": 50})
    assert shop.plan("POST", f"/api/v0/instances/{contract}/ssh/", {"ssh_key": RSA}).delivery == "reset"
    assert _keys(shop, contract) == [ED]
    shop.wait(50)
    assert _keys(shop, contract) == [ED, RSA]


def test_keys_are_registered_at_most_once_a_second() -> None:
    shop = Shop(rate_limits="real")
    contract = _running(shop)
    assert [_attach(shop, contract, ED)[0] for _ in range(2)] == [200, 429]
    shop.wait(1)
    assert _attach(shop, contract, RSA)[0] == 200


def test_the_account_has_no_keys_that_a_container_lacks() -> None:
    assert Shop().ask("GET", "/api/v0/ssh/") == (200, [])
    assert Shop().ask("GET", "/api/v0/ssh/", key="unknown")[0] == 404


def test_keys_that_onstart_appends_are_there_when_the_instance_runs() -> None:
    shop = Shop()
    contract = shop.rented(onstart=ONSTART)
    assert _keys(shop, contract) == []
    shop.wait(30)
    assert _keys(shop, contract) == [ED, RSA]


@pytest.mark.parametrize(
    ("onstart", "keys"),
    [
        (f"echo {ED} >> f", [ED]),
        (f'echo "{RSA}"', [RSA]),
        (f"echo {ED}; echo {ED}", [ED]),
        ("cat > f <<E\nssh-ed25519 AAAA x@y\nE\n", ["ssh-ed25519 AAAA x@y"]),
        ("echo ssh-ed25519 AAAA >> f && exit 1", ["ssh-ed25519 AAAA"]),
        ("ecdsa-sha2-nistp256 AAAAE2", ["ecdsa-sha2-nistp256 AAAAE2"]),
        ("echo H4sIAAAA | base64 -d | gunzip | sh", []),
        ("ssh-keygen -t ed25519", []),
        (None, []),
    ],
)
def test_only_public_keys_in_plain_text_are_taken_from_onstart(onstart: str | None, keys: list[str]) -> None:
    shop = Shop()
    assert _keys(shop, _running(shop, onstart=onstart)) == keys


def test_an_entry_point_runs_no_onstart() -> None:
    shop = Shop()
    assert _keys(shop, _running(shop, runtype="args", onstart=ONSTART)) == []


@pytest.mark.parametrize("by", ["fault", "option"])
def test_a_refresh_keeps_registered_keys_and_drops_appended_ones(by: str) -> None:
    shop = Shop(keys_refreshed_after=45.0 if by == "option" else 0.0)
    if by == "fault":
        shop.arm("create", "keys_refreshed", args={"seconds": 45})
    contract = _running(shop, onstart=ONSTART)
    _attach(shop, contract, RSA)
    assert _keys(shop, contract) == [RSA, ED]
    shop.wait(40)
    assert _keys(shop, contract) == [RSA, ED]
    shop.wait(10)
    assert _keys(shop, contract) == [RSA]


def test_without_a_refresh_appended_keys_stay() -> None:
    shop = Shop()
    contract = _running(shop, onstart=ONSTART)
    shop.wait(1e6)
    assert _keys(shop, contract) == [ED, RSA]


def test_each_boot_appends_the_keys_again_until_the_next_refresh() -> None:
    shop = Shop()
    shop.arm("create", "keys_refreshed", args={"seconds": 20})
    contract = _running(shop, onstart=ONSTART)
    shop.wait(10)
    shop.ask("PUT", f"/api/v0/instances/reboot/{contract}/", {})
    shop.wait(31)
    assert _keys(shop, contract) == [ED, RSA]  # the refresh of the first boot does not happen in the second one
    shop.wait(20)
    assert _keys(shop, contract) == []


def test_the_owner_of_a_key_gets_in_where_ssh_answers_and_nobody_else_does() -> None:
    shop = Shop()
    contract = _running(shop, runtype="jupyter_direc ssh_direc ssh_proxy", onstart=f"echo {ED}")
    row, lets_in = shop.get(contract), shop.sandbox.lets_in
    direct = int(row["ports"]["22/tcp"][0]["HostPort"])
    assert lets_in(row["ssh_port"] + 1, ED)
    assert lets_in(direct, "ssh-ed25519 AAAAC3NzaC1lZDI1 another comment")
    assert not lets_in(direct, RSA)
    assert not lets_in(row["ssh_port"], ED)  # Jupyter
    assert not lets_in(int(row["ports"]["8080/tcp"][0]["HostPort"]), ED)
    assert not lets_in(22, ED)
    other = shop.get(_running(shop))
    assert not lets_in(other["ssh_port"], ED)
    shop.manage(contract, state="stopped")
    assert not lets_in(direct, ED)


def test_a_key_that_was_refreshed_away_no_longer_lets_in_and_a_registered_one_does() -> None:
    shop = Shop(keys_refreshed_after=10.0)
    contract = _running(shop, onstart=ONSTART)
    port = shop.get(contract)["ssh_port"]
    _attach(shop, contract, RSA)
    assert [shop.sandbox.lets_in(port, key) for key in (ED, RSA)] == [True, True]
    shop.wait(10)
    assert [shop.sandbox.lets_in(port, key) for key in (ED, RSA)] == [False, True]


def test_an_address_that_does_not_answer_lets_nobody_in() -> None:
    shop = Shop()
    shop.arm("create", "proxy_down")
    contract = _running(shop, onstart=ONSTART)
    row = shop.get(contract)
    assert not shop.sandbox.lets_in(row["ssh_port"], ED)
    assert shop.sandbox.lets_in(int(row["ports"]["22/tcp"][0]["HostPort"]), ED)
