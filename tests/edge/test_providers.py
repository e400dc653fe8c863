"""ListProviders over both interfaces: what marketplaces can do, and how the accounts are."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import current_thread
from typing import Any

import pytest

from gpuproxy.health.sheets import Sheet
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import InvalidArgument
from gpuproxy.ports import Capabilities
from gpuproxy.ports.provider import CAPABILITY_NAMES
from gpuproxy.providers.vast import DESCRIPTOR
from gpuproxy.v1 import gpuproxy_pb2 as pb
from gpuproxy.warmpool.free_gpus import pools_per_account
from tests.deployed import deployed
from tests.world import KEYS, World, in_world


async def test_both_interfaces_show_the_capabilities_and_the_accounts_and_no_key(tmp_path: Path) -> None:
    async with deployed(tmp_path) as world:
        made = await world.access.keys.create("p1", "look", "viewer")
        answer = await world.grpc.call("ListProviders", pb.ListProvidersRequest(), key=made.text)
        status, body = await world.http("GET", "/api/v1/providers", headers={"X-API-Key": made.text})
        assert status == 200
        [info] = answer.providers
        [shown] = body["providers"]
        assert (info.provider, info.offer_prefix, info.billing) == ("vast.ai", "vast", "metered")
        assert {each.name for each in info.capabilities} == set(CAPABILITY_NAMES)
        lacking = {each.name: each.reason for each in info.capabilities if not each.available}
        assert lacking == dict(DESCRIPTOR.capabilities.missing)
        assert all(not each.reason for each in info.capabilities if each.available)
        assert [(each.name, each.state, each.circuit) for each in info.accounts] == [("vast-1", "healthy", "closed")]
        assert [each["name"] for each in shown["accounts"]] == ["vast-1"]
        assert shown["pools_per_account"] is None
        assert shown["late_execution_seconds"] == 300
        assert {call["name"] for call in shown["calls"]} == {call.name for call in DESCRIPTOR.calls}
        assert not any(key in str(body) + str(answer) for key in KEYS)
        assert shown["accounts"][0]["measured"] == []
        status, body = await world.http("GET", "/api/v1/providers/vast.ai/probe", headers={"X-API-Key": made.text})
        assert (status, "never probed" in body["error"]["message"]) == (404, True)
        status, every = await world.http("GET", "/api/v1/providers?provider=all", headers={"X-API-Key": made.text})
        assert (status, len(every["providers"])) == (200, 1)
        unknown = "provider: must be one of vast.ai, all or empty, not 'moon'"
        for path in ("providers?provider=moon", "gpu/instances?provider=moon", "gpu/instances/moon/7001"):
            status, body = await world.http("GET", f"/api/v1/{path}", headers={"X-API-Key": made.text})
            assert (status, body["error"]["message"]) == (400, unknown), path


async def test_a_probe_is_planned_begun_and_shown_over_both_interfaces_and_only_an_admin_begins_one(
    tmp_path: Path,
) -> None:
    async with deployed(tmp_path) as world:
        user = {"X-API-Key": (await world.access.keys.create("p1", "u", "user")).text}
        admin = {"X-API-Key": (await world.access.keys.create("p1", "a", "admin")).text}
        path = "/api/v1/providers/vast.ai/probe"
        status, body = await world.http("POST", path, {"max_spend": 5, "dry_run": True}, headers=user)
        assert (status, body["error"]["reason"]) == (403, "PERMISSION_DENIED")
        for wrong in (0, -1):
            status, body = await world.http("POST", path, {"max_spend": wrong}, headers=admin)
            assert status == 400
            assert "max_spend: must be more than 0" in body["error"]["message"]
        status, body = await world.http("POST", path, {"max_spend": 5, "dry_run": True}, headers=admin)
        assert (status, body["probe"]["state"], len(body["probe"]["parts"])) == (200, "planned", 4)
        most = body["probe"]["max_cost"]
        assert 0 < most < 5
        assert most == pytest.approx(sum(part["max_cost"] for part in body["probe"]["parts"]))
        status, body = await world.http("POST", path, {"max_spend": most / 2}, headers=admin)
        assert (status, body["error"]["reason"]) == (402, "BUDGET_EXCEEDED")
        request = pb.ProbeProviderRequest(provider="vast.ai", max_spend=5)
        begun = (await world.grpc.call("ProbeProvider", request, key=admin["X-API-Key"])).probe
        assert (begun.state, begun.account) == ("running", "vast-1")
        status, body = await world.http("POST", path, {"max_spend": 5}, headers=admin)
        assert (status, body["error"]["reason"]) == (400, "PROBE_RUNNING")
        for name in ("moon", "all"):
            unknown = f"provider: must be one of vast.ai, not '{name}'"
            for verb, sent in (("GET", None), ("POST", {"max_spend": 5, "dry_run": True})):
                status, body = await world.http(verb, f"/api/v1/providers/{name}/probe", sent, headers=admin)
                assert (status, body["error"]["message"]) == (400, unknown)
        status, body = await world.http("GET", path, headers=user)
        assert (status, body["probe"]["reservation_id"]) == (200, begun.reservation_id)
        await world.engine.reservations.release(Caller(project="p1", role="admin"), begun.reservation_id)


async def test_sheets_read_circuits_and_queues_in_the_thread_of_the_event_loop_only(tmp_path: Path) -> None:
    async with deployed(tmp_path) as world:
        threads: set[str] = set()
        accounts: Any = world.engine.accounts
        for name in ("circuit", "creates", "keys"):
            setattr(accounts, name, partial(_noting, threads, getattr(accounts, name)))
        await world.engine.sheets.read()
        assert threads == {current_thread().name}


def _noting(threads: set[str], call: Callable[..., Any], *arguments: Any) -> Any:
    threads.add(current_thread().name)
    return call(*arguments)


async def account_states(world: World) -> dict[str, tuple[str, str, str]]:
    [sheet] = await world.engine.sheets.read("vast.ai")
    return {each.name: (each.state, each.reason, each.circuit) for each in sheet.accounts}


def test_each_state_of_an_account_is_shown_and_ends() -> None:
    async def story(world: World) -> None:
        await world.sleep(40)
        assert set((await account_states(world)).values()) == {("healthy", "", "closed")}
        world.arm("create", "insufficient_credit", times=1, account=KEYS[0])
        made = await world.reserve(2, request_id="a", packing="single")
        states = await account_states(world)
        assert states == {"vast-1": ("paused", "PROVIDER_FUNDS", "closed"), "vast-2": ("healthy", "", "closed")}
        [sheet] = await world.engine.sheets.read("vast.ai")
        second = sheet.accounts[1]
        own = [lease for lease in made.kept if lease.account == "vast-2"]
        assert (second.machines, second.unknown) == (len(own), 0)
        assert 0 < second.rate <= sum(lease.observed.price for lease in own)
        await world.sleep(200)
        world.arm("create", "refuse_connection", times=1, account=KEYS[0])
        await world.reserve(1, request_id="b")
        assert (await account_states(world))["vast-1"] == ("failing", "", "resting")
        await world.sleep(30)
        assert (await account_states(world))["vast-1"] == ("failing", "", "half_open")
        world.arm("create", "rate_limited", times=1, account=KEYS[0], retry_after=30)
        await world.reserve(1, request_id="c")
        assert (await account_states(world))["vast-1"] == ("limited", "", "closed")
        await world.sleep(40)
        world.arm("list", "html_502", times=0, account=KEYS[1])
        await world.sleep(100)
        assert (await account_states(world))["vast-2"] == ("silent", "PROVIDER_UNAVAILABLE", "closed")
        world.control("DELETE", "faults")
        await world.sleep(100)
        assert set((await account_states(world)).values()) == {("healthy", "", "closed")}
        await world.engine.billing_checks[0].step()
        [sheet] = await world.engine.sheets.read("vast.ai")
        credit = sheet.accounts[0].credit
        assert credit is not None
        assert credit > 0

    in_world(story, accounts=2)


@pytest.mark.parametrize(
    ("capabilities", "rule"),
    [
        ({}, "Billed by use until the destroy. Nothing is paid in advance."),
        ({"billing": "prepaid"}, "Whole hours are paid in advance. A destroy pays nothing back."),
        (
            {"billing": "prepaid", "refund_after": 3600.0},
            "Whole hours are paid in advance. A destroy pays back the time after the first 1 h of use.",
        ),
    ],
)
def test_the_refund_rule_is_a_sentence(capabilities: dict[str, Any], rule: str) -> None:
    sheet = Sheet(
        marketplace=DESCRIPTOR, capabilities=Capabilities(**capabilities), intervals={}, pools_per_account=None,
        accounts=(),
    )  # fmt: skip
    assert sheet.refund_rule == rule


def test_pools_per_account_is_what_an_account_can_look_for_and_none_where_there_are_no_pools() -> None:
    async def story(world: World) -> None:
        [ionet, vast] = await world.engine.sheets.read()
        assert vast.pools_per_account == pools_per_account(vast.capabilities, world.settings.pool_limits)
        assert vast.pools_per_account == 144
        assert ionet.pools_per_account is None
        with pytest.raises(InvalidArgument):
            await world.engine.sheets.read("moon")

    in_world(story, paced=True, prepaid_accounts=1)
