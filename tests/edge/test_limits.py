"""The HTTP addresses and the calls of spending limits, over a real database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from grpc import StatusCode

from gpuproxy.billing.limits import SpendingLimits
from gpuproxy.edge.rpc.limits import LimitCalls
from gpuproxy.store import keys
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests import databases
from tests.edge.engine import StubEngine, service_over
from tests.edge.face import key_row
from tests.edge.http_face import Both, both_faces

LIMITS = "/api/v1/guardrails/limits"
SPENDING = "/api/v1/guardrails/spending"
NOW = datetime(2026, 6, 12, 12, tzinfo=UTC)


@asynccontextmanager
async def served() -> AsyncIterator[Both]:
    """Both interfaces over an empty database that knows two API keys."""
    db = databases.opened(lambda: NOW)
    for key in (key_row("gp_user", "user"), key_row("gp_other", "viewer", project="p2")):
        await db.write(lambda tx, key=key: keys.insert(tx, key))  # type: ignore[misc]
    calls = LimitCalls(SpendingLimits(db, "stop_newest"))
    async with both_faces(service_over(StubEngine(), others=(calls,))) as both:
        yield both


async def test_an_admin_sets_a_limit_and_every_user_of_the_project_reads_it() -> None:
    async with served() as both:
        wanted = {"window": "24H ", "limit": 12.5, "project": "p1", "policy": "No_New"}
        made = await both.send("PUT", LIMITS, wanted, key="gp_admin")
        assert made.status == 200
        shown = {"window": "24h", "limit": 12.5, "project": "p1", "policy": "no_new", "scope": "project"}
        assert shown.items() <= made.json["limit"].items()
        for key in ("gp_user", "gp_viewer"):
            assert (await both.send("GET", LIMITS, key=key)).json["limits"] == [made.json["limit"]]
        again = await both.send("PUT", LIMITS, {**wanted, "limit": 3}, key="gp_admin")
        assert again.json["limit"]["limit"] == 3
        assert [each["limit"] for each in (await both.send("GET", LIMITS)).json["limits"]] == [3]
        gone = await both.send("PUT", LIMITS, {**wanted, "limit": 0}, key="gp_admin")
        assert (gone.status, gone.json["limit"]["limit"]) == (200, 0)
        assert (await both.send("GET", LIMITS)).json["limits"] == []


async def test_a_user_sees_the_limits_of_all_projects_its_own_and_those_of_its_keys_and_an_admin_sees_all() -> None:
    async with served() as both:
        for wanted in (
            {"window": "1h", "limit": 1},
            {"window": "1h", "limit": 2, "project": "p1"},
            {"window": "1h", "limit": 3, "project": "p2"},
            {"window": "1h", "limit": 4, "key_id": "id-user"},
            {"window": "1h", "limit": 5, "key_id": "id-viewer"},
        ):
            assert (await both.send("PUT", LIMITS, wanted, key="gp_admin")).status == 200

        async def seen(key: str) -> list[float]:
            return sorted(each["limit"] for each in (await both.send("GET", LIMITS, key=key)).json["limits"])

        assert await seen("gp_user") == [1, 2, 4]
        assert await seen("gp_admin") == [1, 2, 3, 4, 5]
        listed = (await both.grpc.call("ListSpendingLimits")).limits
        assert {each.key_id for each in listed} == {"", "id-user"}
        assert {each.scope for each in listed} == {"global", "project", "key"}


async def test_a_user_does_not_see_the_limit_of_a_project_whose_name_is_a_part_of_its_own() -> None:
    async with served() as both:
        for amount, project in enumerate(("p", "1", "p1", "p12"), start=1):
            wanted = {"window": "1h", "limit": amount, "project": project}
            assert (await both.send("PUT", LIMITS, wanted, key="gp_admin")).status == 200
        for key in ("gp_user", "gp_viewer"):
            shown = (await both.send("GET", LIMITS, key=key)).json["limits"]
            assert [each["project"] for each in shown] == ["p1"], key
        assert len((await both.send("GET", LIMITS, key="gp_admin")).json["limits"]) == 4


@pytest.mark.parametrize(("key", "status"), [("gp_user", 403), ("gp_viewer", 403), (None, 401), ("gp_wrong", 401)])
async def test_nobody_but_an_admin_sets_a_limit(key: str | None, status: int) -> None:
    async with served() as both:
        assert (await both.send("PUT", LIMITS, {"window": "1h", "limit": 1}, key=key)).status == status
        assert (await both.send("GET", LIMITS, key="gp_admin")).json["limits"] == []


async def test_a_wrong_limit_names_every_field_on_both_interfaces_and_sets_nothing() -> None:
    wrong = {"window": "4m", "limit": -1, "policy": "kill", "project": "p1", "key_id": "id-user"}
    async with served() as both:
        answer = await both.send("PUT", LIMITS, wrong, key="gp_admin")
        request = pb.SetSpendingLimitRequest(**wrong)  # type: ignore[arg-type]
        refused = await both.grpc.refused("SetSpendingLimit", request, key="gp_admin")
        assert (answer.status, refused.code) == (400, StatusCode.INVALID_ARGUMENT)
        assert answer.violations() == refused.fields
        assert refused.fields.keys() == {"window", "limit", "policy", "key_id"}
        assert "5m to 90d" in refused.fields["window"]
        assert "warn, no_new, stop_newest, release_newest" in refused.fields["policy"]
        assert (await both.send("GET", LIMITS, key="gp_admin")).json["limits"] == []


@pytest.mark.parametrize("amount", ["NaN", "Infinity", -0.01, 1e300, 4e-7])
async def test_an_amount_that_is_none_is_refused_by_name(amount: object) -> None:
    async with served() as both:
        answer = await both.send("PUT", LIMITS, {"window": "1h", "limit": amount}, key="gp_admin")
        assert answer.status == 400
        assert answer.violations().keys() == {"limit"}
        if amount != 4e-7:  # as an amount that is checked, that is 0
            check = await both.send("POST", f"{SPENDING}/check", {"amount": amount})
            assert (check.status, check.violations().keys()) == (400, {"amount"})


async def test_a_limit_of_a_key_that_there_is_not_is_not_found() -> None:
    async with served() as both:
        answer = await both.send("PUT", LIMITS, {"window": "1h", "limit": 1, "key_id": "id-nobody"}, key="gp_admin")
        assert answer.status == 404
        assert "id-nobody" in answer.error["message"]


async def test_a_check_says_which_limits_would_refuse_and_what_is_left_of_them() -> None:
    async with served() as both:
        for window, amount, policy in (("1h", 2, "no_new"), ("24h", 5, "no_new"), ("30d", 1, "warn")):
            wanted = {"window": window, "limit": amount, "project": "p1", "policy": policy}
            await both.send("PUT", LIMITS, wanted, key="gp_admin")
        fits = await both.send("POST", f"{SPENDING}/check", {"amount": 2})
        over = await both.send("POST", f"{SPENDING}/check", {"amount": 5.000001}, key="gp_viewer")
        one = await both.grpc.call("CheckSpendingLimit", pb.CheckSpendingLimitRequest(amount=2.000001))
    assert (fits.status, fits.json["allowed"], fits.json["would_exceed"]) == (200, True, [])
    assert (over.status, over.json["allowed"]) == (200, False)
    assert [(each["window"], each["limit"], each["remaining"]) for each in over.json["would_exceed"]] == [
        ("1h", 2, 2), ("24h", 5, 5),
    ]  # fmt: skip
    assert "in 1h for project p1" in over.json["reason"]
    assert "rented." not in over.json["reason"]  # nothing was to be rented
    assert [each.window for each in one.would_exceed] == ["1h"]


async def test_the_spending_shows_three_windows_always_and_more_where_there_is_a_limit() -> None:
    async with served() as both:
        before = (await both.send("GET", SPENDING)).json
        await both.send("PUT", LIMITS, {"window": "month", "limit": 9}, key="gp_admin")
        await both.send("PUT", LIMITS, {"window": "24h", "limit": 4, "project": "p1"}, key="gp_admin")
        await both.send("PUT", LIMITS, {"window": "7d", "limit": 4, "project": "p2"}, key="gp_admin")
        after = (await both.send("GET", SPENDING)).json
    assert [(each["window"], each["limit"]) for each in before["windows"]] == [("1h", 0), ("24h", 0), ("30d", 0)]
    assert (before["guard_rails_enabled"], after["guard_rails_enabled"]) == (False, True)
    assert [(each["window"], each["limit"], each["scope"]) for each in after["windows"]] == [
        ("1h", 0, "project"), ("24h", 4, "project"), ("30d", 0, "project"), ("month", 9, "global"),
    ]  # fmt: skip
    assert [each["remaining"] for each in after["windows"]] == [0, 4, 0, 9]
    assert not any(each["exceeded"] for each in after["windows"])
