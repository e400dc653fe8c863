"""Reads marked as polls are logged at debug; nothing else can be hidden in this way."""
# ruff: noqa: N802 - methods of a service are named as in the contract

from contextlib import suppress

import pytest
import structlog
from grpc import aio

from gpuproxy.model import errors
from gpuproxy.model.demands import Caller
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.edge.face import facing

POLLING = {"x-api-key": "gp_user", "x-gpuproxy-poll": "1"}


class Answers:
    """Every call is answered, or ends with `error`."""

    def __init__(self, error: errors.Refusal | None = None) -> None:
        self._error = error

    async def GetReservation(self, request: object, caller: Caller) -> pb.GetReservationResponse:
        if self._error is not None:
            raise self._error
        return pb.GetReservationResponse()

    ReleaseReservation = ReserveGPUs = CreateAPIKey = GetReservation


async def lines(name: str, metadata: dict[str, str], error: errors.Refusal | None = None) -> list[tuple[str, str]]:
    """Level and code of each log line of a call."""
    with structlog.testing.capture_logs() as logged:
        async with facing(Answers(error)) as face:
            with suppress(aio.AioRpcError):
                await face.call(name, metadata=metadata)
    return [(line["log_level"], line["code"]) for line in logged if line["event"] == "rpc_finished"]


async def test_a_read_marked_as_a_poll_is_logged_at_debug() -> None:
    assert await lines("GetReservation", POLLING) == [("debug", "OK")]


async def test_a_read_that_is_not_marked_is_logged_at_info() -> None:
    assert await lines("GetReservation", {"x-api-key": "gp_user"}) == [("info", "OK")]
    assert await lines("GetReservation", POLLING | {"x-gpuproxy-poll": "0"}) == [("info", "OK")]


async def test_a_failed_poll_is_logged_at_info() -> None:
    assert await lines("GetReservation", POLLING, errors.NotFound("x")) == [("info", "NOT_FOUND")]


async def test_a_poll_without_valid_credentials_is_logged_at_info() -> None:
    assert await lines("GetReservation", {"x-gpuproxy-poll": "1"}) == [("info", "UNAUTHENTICATED")]


@pytest.mark.parametrize("name", ["ReleaseReservation", "ReserveGPUs", "CreateAPIKey"])
async def test_a_call_that_changes_something_is_logged_at_info_although_it_is_marked(name: str) -> None:
    assert await lines(name, POLLING) == [("info", "OK")]
