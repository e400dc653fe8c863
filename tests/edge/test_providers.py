"""ListProviders over both interfaces: what marketplaces can do, and how the accounts are."""

from pathlib import Path
from typing import Any

import pytest

from gpuproxy.health.sheets import Sheet, Sheets
from gpuproxy.model.errors import NotFound
from gpuproxy.ports import Capabilities
from gpuproxy.ports.provider import CAPABILITY_NAMES
from gpuproxy.providers.vast import DESCRIPTOR
from gpuproxy.v1 import gpuproxy_pb2 as pb
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
        assert {each.name for each in info.capabilities} == CAPABILITY_NAMES
        lacking = {each.name: each.reason for each in info.capabilities if not each.available}
        assert lacking == dict(DESCRIPTOR.capabilities.missing)
        assert all(not each.reason for each in info.capabilities if each.available)
        assert [(each.name, each.state, each.circuit) for each in info.accounts] == [("vast-1", "healthy", "closed")]
        assert [each["name"] for each in shown["accounts"]] == ["vast-1"]
        assert shown["pools_per_account"] is None
        assert shown["late_execution_seconds"] == 300
        assert {call["name"] for call in shown["calls"]} == {call.name for call in DESCRIPTOR.calls}
        assert not any(key in str(body) + str(answer) for key in KEYS)
        status, body = await world.http("GET", "/api/v1/providers?provider=moon", headers={"X-API-Key": made.text})
        assert (status, body["error"]["reason"]) == (404, "NOT_FOUND")
        assert "There are: vast.ai" in body["error"]["message"]


async def account_states(world: World) -> dict[str, tuple[str, str, str]]:
    [sheet] = await world.engine.sheets.read()
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
        [sheet] = await world.engine.sheets.read()
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


def test_a_figure_of_pools_per_account_is_shown_if_there_is_one() -> None:
    async def story(world: World) -> None:
        engine = world.engine
        sheets = Sheets(
            world.db, engine.accounts, engine.watches, world.clock, (DESCRIPTOR,), {},
            pools_per_account=lambda able: int(able.create_interval * 10),
        )  # fmt: skip
        [sheet] = await sheets.read()
        assert sheet.pools_per_account == 45
        with pytest.raises(NotFound):
            await sheets.read("moon")

    in_world(story, paced=True)
