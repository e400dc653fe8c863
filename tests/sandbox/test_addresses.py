"""The addresses of an instance: proxy, direct, Jupyter's and requested ports, and which of them answer."""

import asyncio
from typing import Any

import pytest

from gpuproxy.sandbox.server.in_process import InProcessProbe
from tests.sandbox.shop import Shop

SSH, PROXY_ONLY = "ssh_direc ssh_proxy", "ssh_proxy"
JUPYTER, ENTRYPOINT = "jupyter_direc ssh_direc ssh_proxy", "args"
WEB = {"-p 8000:8000": "1"}


def _mapped(row: dict[str, Any]) -> dict[str, int]:
    return {name: int(bound[0]["HostPort"]) for name, bound in row.get("ports", {}).items()}


def _said(shop: Shop, contract: int) -> dict[str, str]:
    """What answers now at each address of an instance: ssh, tcp (something else), or nothing: -."""
    row = shop.get(contract)
    ports = {"proxy": row["ssh_port"], "proxy + 1": row["ssh_port"] + 1, **_mapped(row)}
    return {name: asyncio.run(_what(shop, port)) for name, port in ports.items()}


async def _what(shop: Shop, port: int) -> str:
    probe = InProcessProbe(shop.sandbox)
    for kind in ("ssh", "tcp"):
        if await probe.reachable(kind, "127.0.0.1", port, 1.0):  # type: ignore[arg-type]
            return kind
    return "-"


def _booted(shop: Shop, runtype: str, fault: str = "", machine: int | None = None, **body: Any) -> int:
    if fault:
        shop.arm("create", fault)
    offer = None if machine is None else _free(shop, machine)
    contract = shop.rented(offer, runtype=runtype, **body)
    shop.wait(60)
    return contract


def _free(shop: Shop, machine: int) -> int:
    offer: int = next(one["id"] for one in shop.chunks(machine) if one["rentable"] and one["num_gpus"] == 1)
    return offer


def _shown(shop: Shop, contract: int) -> dict[str, Any]:
    row: dict[str, Any] = next(one for one in shop.state()["instances"] if one["id"] == str(contract))
    return row


@pytest.mark.parametrize(
    ("runtype", "expected"),
    [
        (SSH, {"proxy": "ssh", "proxy + 1": "-", "22/tcp": "ssh", "8000/tcp": "tcp"}),
        ("ssh_direct", {"proxy": "ssh", "proxy + 1": "-", "22/tcp": "ssh", "8000/tcp": "tcp"}),
        (PROXY_ONLY, {"proxy": "ssh", "proxy + 1": "-", "8000/tcp": "tcp"}),
        ("ssh", {"proxy": "ssh", "proxy + 1": "-", "8000/tcp": "tcp"}),
        (JUPYTER, {"proxy": "tcp", "proxy + 1": "ssh", "22/tcp": "ssh", "8080/tcp": "tcp", "8000/tcp": "tcp"}),
        (ENTRYPOINT, {"proxy": "-", "proxy + 1": "-", "8000/tcp": "tcp"}),
    ],
)
def test_each_run_type_has_its_addresses_and_without_a_defect_all_answer(
    runtype: str, expected: dict[str, str]
) -> None:
    shop = Shop()
    contract = _booted(shop, runtype, env=WEB)
    ports = [shop.get(contract)["ssh_port"], *_mapped(shop.get(contract)).values()]
    assert len(set(ports)) == len(ports)
    assert shop.get(contract)["ssh_host"] == "127.0.0.1"
    assert _said(shop, contract) == expected
    assert _shown(shop, contract)["fault"] == ""


@pytest.mark.parametrize(("runtype", "proxy"), [(SSH, "proxy"), (JUPYTER, "proxy + 1"), (ENTRYPOINT, "")])
def test_a_host_without_direct_ports_maps_nothing(runtype: str, proxy: str) -> None:
    shop = Shop()
    machine = shop.machine(2)
    assert shop.control("POST", f"machines/{machine}/ports", {"count": 0}) == {"id": machine, "count": 0}
    assert {one["direct_port_count"] for one in shop.chunks(machine)} == {0}
    contract = _booted(shop, runtype, machine=machine, env=WEB)
    row = shop.get(contract)
    assert row["actual_status"] == "running"
    assert "ports" not in row
    assert [name for name, answer in _said(shop, contract).items() if answer == "ssh"] == ([proxy] if proxy else [])


def test_a_host_maps_no_more_ports_than_it_has_and_ssh_first() -> None:
    shop = Shop()
    machine = shop.machine(4)
    shop.control("POST", f"machines/{machine}/ports", {"count": 2})
    contract = _booted(shop, SSH, machine=machine, env={"-p 8000:8000": "1", "-p 9000:9000": "1"})
    assert set(_mapped(shop.get(contract))) == {"22/tcp", "8000/tcp"}
    elsewhere = _booted(shop, SSH, env={"-p 8000:8000": "1", "-p 9000:9000": "1"})
    assert set(_mapped(shop.get(elsewhere))) == {"22/tcp", "8000/tcp", "9000/tcp"}


@pytest.mark.parametrize("count", [None, -1, "x"])
def test_an_invalid_number_of_ports_is_refused(count: Any) -> None:
    shop = Shop()
    path = f"/sandbox/v1/machines/{shop.machine(2)}/ports"
    assert shop.ask("POST", path, {"count": count}, key=None)[0] == 400


def test_a_search_finds_hosts_by_their_ports() -> None:
    shop = Shop()
    before = {one["machine_id"] for one in shop.search(direct_port_count={"gte": 1})}
    machine = next(iter(before))
    shop.control("POST", f"machines/{machine}/ports", {"count": 0})
    assert {one["machine_id"] for one in shop.search(direct_port_count={"gte": 1})} == before - {machine}


FAULTS = [
    ("", SSH, {"proxy": "ssh", "22/tcp": "ssh", "8000/tcp": "tcp"}),
    ("proxy_down", SSH, {"proxy": "-", "22/tcp": "ssh", "8000/tcp": "tcp"}),
    ("direct_down", SSH, {"proxy": "ssh", "22/tcp": "-", "8000/tcp": "-"}),
    ("no_ssh", SSH, {"proxy": "-", "22/tcp": "-", "8000/tcp": "-"}),
    ("ssh_down", SSH, {"proxy": "-", "22/tcp": "-", "8000/tcp": "tcp"}),
    ("ssh_down", JUPYTER, {"proxy": "tcp", "proxy + 1": "-", "22/tcp": "-", "8080/tcp": "tcp"}),
    ("proxy_down", JUPYTER, {"proxy + 1": "-", "22/tcp": "ssh", "8080/tcp": "tcp"}),
    ("direct_down", JUPYTER, {"proxy": "tcp", "proxy + 1": "ssh", "22/tcp": "-", "8080/tcp": "-"}),
    ("proxy_down", ENTRYPOINT, {"proxy": "-", "8000/tcp": "tcp"}),
    ("direct_down", ENTRYPOINT, {"proxy": "-", "8000/tcp": "-"}),
]


@pytest.mark.parametrize(("fault", "runtype", "expected"), FAULTS)
@pytest.mark.parametrize("whose", ["instance", "machine"])
def test_which_addresses_answer_is_a_defect_of_an_instance_or_of_all_on_a_machine(
    whose: str, fault: str, runtype: str, expected: dict[str, str]
) -> None:
    shop = Shop()
    machine = shop.machine(4)
    if whose == "machine":
        shop.control("POST", f"machines/{machine}/break", {"how": fault})
    contract = _booted(shop, runtype, fault if whose == "instance" else "", machine, env=WEB)
    said = _said(shop, contract)
    assert {name: said[name] for name in expected} == expected
    assert shop.get(contract)["actual_status"] == "running"
    assert _shown(shop, contract)["fault"] == fault
    assert len(_shown(shop, contract)["ssh_addresses"]) == [*said.values()].count("ssh")
    shop.control("POST", f"machines/{machine}/repair")
    assert _shown(shop, _booted(shop, runtype, machine=machine))["fault"] == ""


@pytest.mark.parametrize("fault", ["proxy_down", "direct_down"])
def test_the_rows_show_the_same_addresses_whether_they_answer_or_not(fault: str) -> None:
    shop = Shop()
    contract = _booted(shop, SSH, fault, env=WEB)
    row = shop.get(contract)
    assert (row["ssh_host"], row["ssh_port"] > 0, set(row["ports"])) == ("127.0.0.1", True, {"22/tcp", "8000/tcp"})


def test_a_defect_of_an_address_outlives_a_stop_and_a_start() -> None:
    shop = Shop()
    contract = _booted(shop, SSH, "proxy_down")
    shop.manage(contract, state="stopped")
    assert _shown(shop, contract)["ssh_addresses"] == []
    shop.manage(contract, state="running")
    shop.wait(60)
    row = shop.get(contract)
    assert _shown(shop, contract)["ssh_addresses"] == [f"127.0.0.1:{_mapped(row)['22/tcp']}"]


@pytest.mark.parametrize(("share", "few", "most"), [(0.0, 0, 0), (0.5, 8, 22), (1.0, 30, 30)])
def test_a_share_of_instances_has_one_address_that_answers_and_the_others_have_two(
    share: float, few: int, most: int
) -> None:
    shop = Shop(one_address_share=share, machines=300)
    contracts = [shop.rented(runtype=SSH) for _ in range(30)]
    shop.wait(60)
    rows = [_shown(shop, contract) for contract in contracts]
    assert {len(row["ssh_addresses"]) for row in rows if row["fault"]} <= {1}
    assert {len(row["ssh_addresses"]) for row in rows if not row["fault"]} <= {2}
    assert few <= sum(bool(row["fault"]) for row in rows) <= most
    if share == 1.0:
        assert {row["fault"] for row in rows} == {"proxy_down", "direct_down"}


@pytest.mark.parametrize(("runtype", "addresses"), [(PROXY_ONLY, 1), (ENTRYPOINT, 0)])
def test_an_instance_with_one_address_keeps_it_whatever_the_share(runtype: str, addresses: int) -> None:
    shop = Shop(one_address_share=1.0)
    rows = [_shown(shop, _booted(shop, runtype)) for _ in range(5)]
    assert {(row["fault"], len(row["ssh_addresses"])) for row in rows} == {("", addresses)}


@pytest.mark.parametrize(("share", "few", "most"), [(0.0, 0, 0), (0.5, 35, 85), (1.0, 120, 120)])
def test_a_share_of_machines_has_no_direct_ports(share: float, few: int, most: int) -> None:
    machines = Shop(portless_share=share).sandbox.market.machines.values()
    assert few <= sum(machine.direct_ports == 0 for machine in machines) <= most


def test_a_machine_is_the_same_with_and_without_a_share_of_hosts_without_ports() -> None:
    def facts(share: float) -> list[Any]:
        machines = Shop(portless_share=share).sandbox.market.machines.values()
        return [{**one.columns, "direct_port_count": None} for one in machines]

    assert facts(0.0) == facts(1.0)


def test_the_market_knows_since_when_an_instance_can_be_used() -> None:
    shop = Shop()
    contract = shop.rented(runtype=SSH)
    instance = shop.sandbox.market.instances[contract]
    assert instance.works_since is None
    shop.wait(60)
    shop.state()
    assert instance.works_since == instance.boot_at
    shop.control("POST", f"instances/{contract}/kill", {"how": "host"})
    assert instance.works_since is None
    shop.wait(100)
    shop.control("POST", f"machines/{instance.machine_id}/reconnect")
    assert instance.works_since == shop.state()["now"]


@pytest.mark.parametrize(
    ("runtype", "fault", "direct_ports", "env", "works"),
    [
        (SSH, "", 9, {}, True),
        (SSH, "proxy_down", 9, {}, True),
        (SSH, "direct_down", 9, {}, True),
        (SSH, "no_ssh", 9, {}, False),
        (SSH, "proxy_down", 0, {}, False),
        (PROXY_ONLY, "proxy_down", 9, {}, False),
        (PROXY_ONLY, "proxy_down", 9, WEB, True),
        (JUPYTER, "", 0, {}, True),
        ("jupyter_proxy", "proxy_down", 9, {}, False),  # only its web page answers
        (ENTRYPOINT, "no_ssh", 0, {}, True),  # nothing to connect to
        (ENTRYPOINT, "", 9, WEB, True),
        (ENTRYPOINT, "proxy_down", 9, WEB, True),
        (ENTRYPOINT, "direct_down", 9, WEB, False),
        (ENTRYPOINT, "", 0, WEB, False),
        (ENTRYPOINT, "", 0, {"-p 5353:5353/udp": "1"}, True),
    ],
)
def test_an_instance_can_be_used_while_one_address_that_counts_answers(
    runtype: str, fault: str, direct_ports: int, env: dict[str, str], works: bool
) -> None:
    shop = Shop()
    machine = shop.machine(4)
    shop.control("POST", f"machines/{machine}/ports", {"count": direct_ports})
    contract = _booted(shop, runtype, fault, machine, env=env)
    shop.state()
    assert (shop.sandbox.market.instances[contract].works_since is not None) is works
