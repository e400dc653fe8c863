"""The saved market: everything that was answered survives a kill, and no id is issued twice."""

import json
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


@pytest.mark.parametrize(("no_ssh", "fault"), [(False, ""), (True, "no_ssh")])
def test_a_state_file_from_before_instances_had_two_addresses_is_still_read(
    tmp_path: Path, no_ssh: bool, fault: str
) -> None:
    path = tmp_path / "market.state"
    shop = Shop(state=path)
    contract = shop.rented(runtype="ssh_direc ssh_proxy", env={"-p 8000:8000": "1"})
    port = shop.get(contract)["ssh_port"]
    path.write_text("".join(_older(line, no_ssh=no_ssh) for line in path.read_text().splitlines()))
    again = shop.reopened()
    again.wait(60)
    row = again.get(contract)
    assert row["ssh_port"] == port
    assert set(row["ports"]) == {"22/tcp", "8000/tcp"}
    assert len({port, *(int(bound[0]["HostPort"]) for bound in row["ports"].values())}) == 3
    shown = again.state()["instances"][0]
    assert (shown["fault"], len(shown["ssh_addresses"])) == (fault, 0 if no_ssh else 2)
    assert again.reopened().state() == again.state()


def _older(line: str, *, no_ssh: bool) -> str:
    """A line as it was written before machines could break and instances had a proxy and a direct address."""
    record = json.loads(line)
    for name in ("broken", "broken_message", "direct_ports"):
        record.get("machine", {}).pop(name, None)
    if instance := record.get("instance"):
        new = ("unreachable", "registered_keys", "appended_keys", "keys_refreshed_after", "works_since", "failure")
        kept = {name: value for name, value in instance.items() if name not in (*new, "ssh_port")}
        ports = {**instance["ports"], "22/tcp": instance["ssh_port"]}
        record["instance"] = {**kept, "ports": ports, "no_ssh": no_ssh}
    return json.dumps(record) + "\n"


def test_addresses_and_keys_survive_a_kill(tmp_path: Path) -> None:
    shop = Shop(state=tmp_path / "market.state")
    contracts = []
    for fault in ("proxy_down", "direct_down", "keys_refreshed"):
        shop.arm("create", fault, args={"seconds": 300})
        onstart = "echo ssh-ed25519 AAAA boot >> ~/.ssh/authorized_keys"
        contracts.append(shop.rented(runtype="jupyter_direc ssh_direc ssh_proxy", onstart=onstart))
    shop.ask("POST", f"/api/v0/instances/{contracts[2]}/ssh/", {"ssh_key": "ssh-ed25519 BBBB no"})
    shop.ask("POST", f"/api/v0/instances/{contracts[2]}/ssh/", {"ssh_key": "ssh-ed25519 AAAAC3 me"})
    machine = shop.machine(4)
    shop.control("POST", f"machines/{machine}/ports", {"count": 0})
    for seconds in (60, 400):
        shop.wait(seconds)
        again = shop.reopened()
        assert again.state() == shop.state()
        assert again.sandbox.port_table.open == shop.sandbox.port_table.open
        assert again.sandbox.market.instances == shop.sandbox.market.instances
    assert [row["authorized_keys"] for row in again.state()["instances"]] == [
        ["ssh-ed25519 AAAA boot"],
        ["ssh-ed25519 AAAA boot"],
        ["ssh-ed25519 AAAAC3 me"],
    ]
    assert again.chunks(machine)[0]["direct_port_count"] == 0


def test_a_new_instance_after_a_restart_gets_no_port_of_a_saved_one(tmp_path: Path) -> None:
    shop = Shop(state=tmp_path / "market.state")
    old = shop.rented()
    again = shop.reopened()
    assert again.get(again.rented())["ssh_port"] != again.get(old)["ssh_port"]
