"""The rules of the dispatcher for every call, seen by a real client on loopback."""
# ruff: noqa: N802 - methods of a service are named as in the contract

import asyncio
from typing import Any

import pytest
from google.rpc import error_details_pb2
from grpc import StatusCode, aio

from gpuproxy.edge.grpc.server import GrpcServer, raw_rpc
from gpuproxy.edge.rpc.dispatch import MAX_SECONDS
from gpuproxy.edge.rpc.rpcs import ADMIN_ONLY, CONTRACT, OPEN, READS, SECONDS, WRITES
from gpuproxy.model import errors
from gpuproxy.model.demands import Caller
from gpuproxy.model.reasons import Reason
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.edge.face import KeyBook, all_keys, facing, key_row

SECRET = "sk-canary-5150"


class Echo:
    """Answers with the request and the caller."""

    def __init__(self) -> None:
        self.callers: list[Caller] = []

    async def GetReservation(self, request: pb.GetReservationRequest, caller: Caller) -> pb.GetReservationResponse:
        self.callers.append(caller)
        return pb.GetReservationResponse(
            reservation=pb.Reservation(reservation_id=getattr(request, "reservation_id", ""))
        )

    ReleaseReservation = SetSpendingLimit = HealthCheck = ReserveGPUs = CreateAPIKey = GetReservation


class Raises:
    """Every call ends with one error."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    async def GetReservation(self, request: pb.GetReservationRequest, caller: Caller) -> pb.GetReservationResponse:
        raise self._error


async def test_an_internal_cancelled_error_is_answered() -> None:
    async with facing(Raises(asyncio.CancelledError())) as face:
        refused = await face.refused("GetReservation")
    assert refused.code is StatusCode.INTERNAL
    assert refused.text == "internal error"


async def test_a_client_that_cancels_cancels_the_handler() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    class Slow:
        async def GetReservation(self, request: Any, caller: Caller) -> pb.GetReservationResponse:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            raise AssertionError

    async with facing(Slow()) as face:
        call = face.call("GetReservation")
        task = asyncio.ensure_future(call)
        await begun.wait()
        call.cancel()
        await asyncio.wait_for(ended.wait(), 120)
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_the_text_of_an_unexpected_error_never_reaches_a_client() -> None:
    async with facing(Raises(KeyError(SECRET))) as face:
        refused = await face.refused("GetReservation")
    assert refused.code is StatusCode.INTERNAL
    assert refused.text == "internal error"
    assert SECRET not in str(refused.trailers)
    assert refused.info.metadata["trace_id"] == refused.trailers["x-trace-id"]


@pytest.mark.parametrize(
    "error", [errors.AuthFailed(SECRET, body=SECRET), errors.Conflict(SECRET), TimeoutError(SECRET)]
)
async def test_the_text_of_a_marketplace_error_never_reaches_a_client(error: Exception) -> None:
    async with facing(Raises(error)) as face:
        refused = await face.refused("GetReservation")
    assert refused.code is StatusCode.INTERNAL
    assert SECRET not in refused.text + str(refused.trailers)


@pytest.mark.parametrize(
    ("refusal", "code", "reason"),
    [
        (errors.InvalidArgument([errors.Violation("count", "x")]), StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
        (errors.NotFound("x"), StatusCode.NOT_FOUND, "NOT_FOUND"),
        (
            errors.FailedPrecondition("x", reason=Reason.NOT_ENOUGH_GPUS),
            StatusCode.FAILED_PRECONDITION,
            "NOT_ENOUGH_GPUS",
        ),
        (errors.AlreadyExists("x"), StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED"),
        (errors.Unavailable("x"), StatusCode.UNAVAILABLE, "UNAVAILABLE"),
        (errors.DeadlineExceeded("x"), StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
        (errors.CreationFailed("x"), StatusCode.INTERNAL, "INSTANCE_CREATION_FAILED"),
        (errors.NotBuilt("x"), StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED"),
        (errors.PermissionDenied("x"), StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED"),
    ],
)
async def test_every_refusal_has_its_code_and_an_error_info(
    refusal: errors.Refusal, code: StatusCode, reason: str
) -> None:
    async with facing(Raises(refusal)) as face:
        refused = await face.refused("GetReservation")
    assert (refused.code, refused.info.reason, refused.info.domain) == (code, reason, "gpuproxy.v1")
    assert refused.text == refusal.message
    assert refused.trailers["x-trace-id"]


async def test_unavailable_says_when_to_retry() -> None:
    async with facing(Raises(errors.Unavailable("x", retry_after=2.5))) as face:
        refused = await face.refused("GetReservation")
    retry = refused.detail(error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToMilliseconds() == 2500


async def test_a_refusal_of_any_size_fits_into_the_trailers() -> None:
    violations = [errors.Violation(f"field_{i}" * 9, "ä" * 400) for i in range(400)]
    many = errors.InvalidArgument(violations)
    many.metadata.update({f"key{i}" * 20: "v" * 1000 for i in range(400)})
    async with facing(Raises(many)) as face:
        refused = await face.refused("GetReservation")
    assert refused.code is StatusCode.INVALID_ARGUMENT
    assert 10 <= len(refused.detail(error_details_pb2.BadRequest).field_violations) <= 50
    assert refused.size < 8192


async def test_fifty_short_violations_are_all_reported() -> None:
    short = errors.InvalidArgument([errors.Violation(f"ports[{i}]", "is not 1-65535") for i in range(60)])
    async with facing(Raises(short)) as face:
        refused = await face.refused("GetReservation")
    assert len(refused.fields) == 50


async def test_every_answer_carries_a_trace_id_of_its_own() -> None:
    async with facing(Echo()) as face:
        ids = []
        for _ in range(2):
            call = face.call("GetReservation", pb.GetReservationRequest(reservation_id="r1"))
            assert (await call).reservation.reservation_id == "r1"
            ids.append(dict(await call.trailing_metadata())["x-trace-id"])
    assert len(set(ids)) == 2
    assert all(ids)


async def test_both_service_names_serve_the_same_handlers() -> None:
    async with facing(Echo()) as face:
        for service in ("gpuproxy.v1.GPUProxyService", "gpuproxy.GPUProxyService"):
            answer = await face.call("GetReservation", pb.GetReservationRequest(reservation_id="r"), service=service)
            assert answer.reservation.reservation_id == "r"


@pytest.mark.parametrize("name", ["GetWarmPoolStatus", "WatchWarmPool", "GetCostReport"])
async def test_a_call_that_is_not_implemented_says_so(name: str) -> None:
    async with facing(Echo()) as face:
        call = face.call(name)
        with pytest.raises(aio.AioRpcError) as caught:
            await (call.read() if CONTRACT.methods_by_name[name].server_streaming else call)
    assert caught.value.code() is StatusCode.UNIMPLEMENTED
    assert dict(caught.value.trailing_metadata() or ())["x-trace-id"]


async def test_undecodable_bytes_are_an_invalid_argument() -> None:
    async with facing(Echo()) as face:
        call = face.channel.unary_unary("/gpuproxy.v1.GPUProxyService/GetReservation")
        with pytest.raises(aio.AioRpcError) as caught:
            await call(b"\xff\xff\xff", metadata=(("x-api-key", "gp_user"),), timeout=120)
    assert caught.value.code() is StatusCode.INVALID_ARGUMENT


# ------------------------------------------------------------------------------------------------------------ deadlines


@pytest.mark.parametrize(
    ("name", "timeout", "seconds"),
    [("GetReservation", None, 30), ("ReserveGPUs", None, 120), ("GetReservation", 77, 77), ("ReserveGPUs", 9999, 1800)],
)
async def test_the_deadline_is_the_callers_or_the_rpcs_own_and_at_most_half_an_hour(
    name: str, timeout: float | None, seconds: float
) -> None:
    assert MAX_SECONDS == 1800
    echo = Echo()
    async with facing(echo, scale=60.0) as face:
        before = face.clock.monotonic()
        call = face.call(name, timeout=timeout)
        async with asyncio.timeout(120):
            await call
        left = (echo.callers[0].deadline - before) / face.clock.scale
    assert seconds - 1 <= left <= seconds + 9


async def test_a_call_that_exceeds_the_rpcs_own_time_limit_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = asyncio.Event()

    class Slow:
        async def HealthCheck(self, request: Any, caller: Caller) -> pb.HealthCheckResponse:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            raise AssertionError

    monkeypatch.setitem(SECONDS, "HealthCheck", 0.05)
    async with facing(Slow()) as face:
        refused = await face.refused("HealthCheck", timeout=None)
    assert refused.code is StatusCode.DEADLINE_EXCEEDED
    assert ended.is_set()


async def test_an_inner_timeout_that_is_not_the_deadline_is_an_internal_error() -> None:
    class Impatient:
        async def GetReservation(self, request: Any, caller: Caller) -> pb.GetReservationResponse:
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()
            raise AssertionError

    async with facing(Impatient()) as face:
        assert (await face.refused("GetReservation")).code is StatusCode.INTERNAL


# -------------------------------------------------------------------------------------------------------------- callers


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"x-api-key": "gp_wrong"},
        {"x-api-key": ""},
        {"authorization": "Bearer gp_wrong"},
        {"authorization": "Basic gp_user"},
        {"authorization": "Bearer"},
        {"authorization": "gp_user"},
        {"authorization": "Bearer gp_wrong", "x-api-key": "gp_user"},
        {"authorization": "Basic gp_user", "x-api-key": "gp_wrong"},
    ],
)
async def test_a_missing_and_a_wrong_key_get_the_same_answer(metadata: dict[str, str]) -> None:
    keys = all_keys()
    async with facing(Echo(), keys=keys) as face:
        refused = await face.refused("GetReservation", metadata=metadata)
    assert refused.code is StatusCode.UNAUTHENTICATED
    said = (
        "No valid API key or token was sent. Send it as `authorization: Bearer <key or token>` or `x-api-key: <key>`."
    )
    assert refused.text == said
    assert refused.info.reason == "UNAUTHENTICATED"
    assert keys.lookups == 1


@pytest.mark.parametrize(
    "metadata",
    [
        {"x-api-key": "gp_user"},
        {"authorization": "Bearer gp_user"},
        {"authorization": "bearer  gp_user "},
        {"authorization": "Basic abc", "x-api-key": "gp_user"},
        {"authorization": "Bearer", "x-api-key": "gp_user"},
        {"authorization": "Bearer gp_user", "x-api-key": "gp_admin"},
        {"authorization": "Bearer gp_user", "x-api-key": "gp_wrong"},
    ],
)
async def test_a_valid_key_gives_its_project_and_role(metadata: dict[str, str]) -> None:
    echo = Echo()
    async with facing(echo) as face:
        await face.call("GetReservation", metadata=metadata)
    assert (echo.callers[0].project, echo.callers[0].role, echo.callers[0].key_id) == ("p1", "user", "id-user")


async def test_a_revoked_key_stops_working_within_a_second() -> None:
    keys = all_keys()
    async with facing(Echo(), keys=keys, scale=1000.0) as face:
        await face.call("GetReservation")
        await face.call("GetReservation")
        assert keys.lookups == 1
        keys.rows.clear()
        face.clock._started -= 1.0  # a real second passes
        assert (await face.refused("GetReservation")).code is StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("key", "name", "allowed"),
    [
        ("gp_viewer", "GetReservation", True),
        ("gp_viewer", "ReleaseReservation", False),
        ("gp_user", "ReleaseReservation", True),
        ("gp_user", "SetSpendingLimit", False),
        ("gp_admin", "SetSpendingLimit", True),
    ],
)
async def test_roles_determine_the_allowed_calls(key: str, name: str, allowed: bool) -> None:
    async with facing(Echo()) as face:
        if allowed:
            await face.call(name, key=key)
        else:
            refused = await face.refused(name, key=key)
            assert (refused.code, refused.info.reason) == (StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")


async def test_a_health_check_needs_no_key() -> None:
    async with facing(Echo()) as face:
        await face.call("HealthCheck", metadata={})


async def test_create_api_key_accepts_its_token_as_a_field() -> None:
    async with facing(Echo()) as face:
        await face.call("CreateAPIKey", pb.CreateAPIKeyRequest(name="n", token="gp_user"), metadata={})
        refused = await face.refused("CreateAPIKey", pb.CreateAPIKeyRequest(name="n", token="bad"), metadata={})
    assert refused.code is StatusCode.UNAUTHENTICATED


def test_every_rule_names_an_existing_rpc() -> None:
    assert {*OPEN, *READS, *WRITES, *ADMIN_ONLY, *SECONDS} <= set(CONTRACT.methods_by_name)


async def test_a_key_of_another_project_gives_that_project() -> None:
    echo, row = Echo(), key_row("gp_other", "user", project="p2")
    async with facing(echo, keys=KeyBook({row.sha256: row})) as face:
        await face.call("GetReservation", key="gp_other")
    assert echo.callers[0].project == "p2"


# --------------------------------------------------------------------------------------------------------------- server


async def test_a_second_server_on_the_port_is_an_error() -> None:
    async with facing(Echo()) as face:
        second = GrpcServer(face.dispatcher, Echo())
        with pytest.raises(RuntimeError):
            await second.start(f"127.0.0.1:{face.port}")


async def test_a_drain_waits_for_the_finally_blocks_of_cancelled_handlers() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    class Slow:
        async def GetReservation(self, request: Any, caller: Caller) -> pb.GetReservationResponse:
            try:
                begun.set()
                await asyncio.Event().wait()
            finally:
                for _ in range(50):
                    await asyncio.sleep(0)
                ended.set()
            raise AssertionError

    async with facing(Slow()) as face:
        call = asyncio.ensure_future(face.call("GetReservation"))
        await begun.wait()
        assert await face.server.drain(0.2)
        assert ended.is_set()
        with pytest.raises((aio.AioRpcError, asyncio.CancelledError)):
            await call


async def test_an_answer_too_large_for_a_client_is_refused_with_advice() -> None:
    class Huge:
        async def GetInstanceLogs(self, request: Any, caller: Caller) -> pb.GetInstanceLogsResponse:
            return pb.GetInstanceLogsResponse(lines=["x" * 1_000_000] * 5)

    async with facing(Huge()) as face:
        refused = await face.refused("GetInstanceLogs")
    assert (refused.code, refused.info.reason) == (StatusCode.FAILED_PRECONDITION, "ANSWER_TOO_LARGE")


async def test_encoded_bytes_are_an_answer() -> None:
    class Ready:
        async def GetReservation(self, request: Any, caller: Caller) -> bytes:
            return pb.GetReservationResponse(reservation=pb.Reservation(reservation_id="r9")).SerializeToString()

    async with facing(Ready()) as face:
        assert (await face.call("GetReservation")).reservation.reservation_id == "r9"


async def test_a_benchmark_call_goes_through_the_same_dispatcher() -> None:
    async def double(raw: bytes) -> bytes:
        return raw * 2

    async with facing(Echo(), extra={"bench.Bench/Bytes": raw_rpc("Bytes", double)}) as face:
        call = face.channel.unary_unary("/bench.Bench/Bytes")
        assert await call(b"ab", metadata=(("x-api-key", "gp_user"),), timeout=120) == b"abab"
        with pytest.raises(aio.AioRpcError) as caught:
            await call(b"ab", timeout=120)
    assert caught.value.code() is StatusCode.UNAUTHENTICATED
