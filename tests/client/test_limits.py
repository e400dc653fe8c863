"""The methods of both clients for spending limits: what they send, what they return, and which error they raise."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from gpuproxy import AsyncClient
from gpuproxy.billing.limits import SpendingLimits
from gpuproxy.client import InvalidArgument, NotFound, PermissionDenied
from gpuproxy.edge.rpc.limits import LimitCalls
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests import databases
from tests.client.test_calls import OtherEnd, end
from tests.edge.engine import StubEngine, service_over
from tests.edge.face import facing

__all__ = ["end"]
NOW = datetime(2026, 6, 12, 12, tzinfo=UTC)
LIMIT = pb.SpendingLimit(window="24h", limit=5, scope="project", project="p1", policy="no_new")
WINDOW = pb.SpendingWindow(window="24h", spent=1, held=2, limit=5, remaining=2, scope="project")


@asynccontextmanager
async def client_of(key: str) -> AsyncIterator[AsyncClient]:
    """An asynchronous client of a server with an empty database."""
    calls = LimitCalls(SpendingLimits(databases.opened(lambda: NOW), "stop_newest"))
    async with (
        facing(service_over(StubEngine(), others=(calls,))) as face,
        AsyncClient(f"127.0.0.1:{face.port}", key) as client,
    ):
        yield client


@pytest.mark.parametrize(
    ("call", "rpc", "asked", "returned"),
    [
        (
            lambda client: client.set_spending_limit("24h", 5, project="p1", policy="no_new"),
            "SetSpendingLimit",
            (
                pb.SetSpendingLimitRequest(window="24h", limit=5, project="p1", policy="no_new"),
                pb.SetSpendingLimitResponse(limit=LIMIT),
            ),
            LIMIT,
        ),
        (
            lambda client: client.set_spending_limit("1h", 0, key_id="key-1"),
            "SetSpendingLimit",
            (pb.SetSpendingLimitRequest(window="1h", key_id="key-1"), pb.SetSpendingLimitResponse(limit=LIMIT)),
            LIMIT,
        ),
        (
            lambda client: list(client.spending_limits()),
            "ListSpendingLimits",
            (pb.ListSpendingLimitsRequest(), pb.ListSpendingLimitsResponse(limits=[LIMIT, LIMIT])),
            [LIMIT, LIMIT],
        ),
        (
            lambda client: client.check_spending(2.5),
            "CheckSpendingLimit",
            (
                pb.CheckSpendingLimitRequest(amount=2.5),
                pb.CheckSpendingLimitResponse(reason="no", would_exceed=[WINDOW]),
            ),
            pb.CheckSpendingLimitResponse(reason="no", would_exceed=[WINDOW]),
        ),
        (
            lambda client: client.spending(),
            "GetSpendingInfo",
            (
                pb.GetSpendingInfoRequest(),
                pb.GetSpendingInfoResponse(windows=[WINDOW], guard_rails_enabled=True, total_spent_24h=1),
            ),
            pb.GetSpendingInfoResponse(windows=[WINDOW], guard_rails_enabled=True, total_spent_24h=1),
        ),
    ],
)
def test_the_blocking_client_sends_what_it_was_given_and_returns_what_was_asked_for(
    end: OtherEnd, call: Callable[[Any], Any], rpc: str, asked: tuple[Any, Any], returned: Any
) -> None:
    request, answer = asked
    made = end.begin(call)
    assert end.answers(rpc, answer) == request
    assert made.result(60) == returned


async def test_the_asynchronous_client_sets_lists_checks_and_removes_a_limit() -> None:
    async with client_of("gp_admin") as client:
        made = await client.set_spending_limit("24h", 5, project="p1", policy="no_new")
        assert made == LIMIT
        assert list(await client.spending_limits()) == [LIMIT]
        assert (await client.check_spending(5)).allowed
        refused = await client.check_spending(5.01)
        assert (refused.allowed, [each.window for each in refused.would_exceed]) == (False, ["24h"])
        shown = await client.spending()
        assert shown.guard_rails_enabled
        assert [each.limit for each in shown.windows if each.window == "24h"][-1] == 5
        await client.set_spending_limit("24h", 0, project="p1")
        assert list(await client.spending_limits()) == []


async def test_the_asynchronous_clients_errors_name_the_field_and_the_kind() -> None:
    async with client_of("gp_admin") as client:
        with pytest.raises(InvalidArgument) as wrong:
            await client.set_spending_limit("4m", -1, policy="kill")
        assert wrong.value.violations.keys() == {"window", "limit", "policy"}
        with pytest.raises(InvalidArgument) as negative:
            await client.check_spending(-1)
        assert negative.value.violations.keys() == {"amount"}
        with pytest.raises(NotFound):
            await client.set_spending_limit("1h", 1, key_id="id-nobody")
    async with client_of("gp_user") as client:
        with pytest.raises(PermissionDenied):
            await client.set_spending_limit("1h", 1)
