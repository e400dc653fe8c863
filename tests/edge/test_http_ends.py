"""The end of HTTP calls (deadlines, disconnected clients, drains), and the pages beside the API."""

import asyncio

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.edge.engine import StubEngine, service_over
from tests.edge.http_face import METRICS, both_faces


class Slow:
    """Waits forever, and records how it ended."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.deadlines: list[float] = []

    async def GetLoadInfo(self, _request: object, caller: Caller) -> pb.GetLoadInfoResponse:  # noqa: N802
        self.deadlines.append(caller.deadline)
        self.began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        raise AssertionError


@pytest.mark.parametrize("timeout", ["0.05", "50ms", "0.05s"])
async def test_the_callers_deadline_is_observed(timeout: str) -> None:
    async with both_faces(Slow()) as both:
        answer = await both.send("GET", "/api/v1/loadbalancer/loads", headers={"Request-Timeout": timeout})
    assert (answer.status, answer.error["status"]) == (504, "DEADLINE_EXCEEDED")


@pytest.mark.parametrize("timeout", ["soon", "0", "-1", "nan", "1 year", ""])
async def test_an_invalid_deadline_is_refused(timeout: str) -> None:
    async with both_faces(Slow()) as both:
        answer = await both.send("GET", "/api/v1/loadbalancer/loads", headers={"Request-Timeout": timeout})
    assert (answer.status, set(answer.violations())) == (400, {"Request-Timeout"})


async def test_a_client_that_disconnects_cancels_its_call() -> None:
    slow = Slow()
    async with both_faces(slow) as both:
        _, writer = await asyncio.open_connection("127.0.0.1", both.port)
        writer.write(b"GET /api/v1/loadbalancer/loads HTTP/1.1\r\nHost: x\r\nX-API-Key: gp_user\r\n\r\n")
        await slow.began.wait()
        writer.close()
        async with asyncio.timeout(120):
            await slow.cancelled.wait()


async def test_without_a_deadline_a_call_has_two_minutes() -> None:
    slow = Slow()
    async with both_faces(slow) as both:
        call = asyncio.create_task(both.send("GET", "/api/v1/loadbalancer/loads"))
        await slow.began.wait()
        left = slow.deadlines[0] - both.grpc.clock.monotonic()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    assert 100 < left <= 120


async def test_calls_beyond_the_limit_are_refused_at_once() -> None:
    slow = Slow()
    async with both_faces(slow, max_concurrent=1) as both:
        call = asyncio.create_task(both.send("GET", "/api/v1/loadbalancer/loads"))
        await slow.began.wait()
        answer = await both.send("GET", "/api/v1/loadbalancer/loads")
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    assert (answer.status, answer.error["status"]) == (429, "RESOURCE_EXHAUSTED")
    assert answer.headers["Retry-After"] == "1"


async def test_a_drain_cancels_calls_that_do_not_end() -> None:
    slow = Slow()
    async with both_faces(slow) as both:
        call = asyncio.create_task(both.send("GET", "/api/v1/loadbalancer/loads"))
        await slow.began.wait()
        await both.http.drain()
        assert slow.cancelled.is_set()
        await asyncio.gather(call, return_exceptions=True)


# -------------------------------------------------------------------------------------------------------------- pages


async def test_health_readiness_and_metrics_need_no_key() -> None:
    async with both_faces(service_over(StubEngine())) as both:
        assert (await both.send("GET", "/healthz", key=None)).json == {"status": "ok"}
        assert (await both.send("GET", "/metrics", key=None)).body == METRICS
        starting = await both.send("GET", "/readyz", key=None)
        both.pages.serving = True
        ready = await both.send("GET", "/readyz", key=None)
        both.checks["database"] = "can't be written"
        broken = await both.send("GET", "/readyz", key=None)
    assert (starting.status, ready.status, broken.status) == (503, 200, 503)
    assert broken.json["checks"] == {"server": "ok", "database": "can't be written"}


async def test_the_documentation_loads_no_external_resources() -> None:
    async with both_faces(service_over(StubEngine())) as both:
        page = await both.send("GET", "/docs", key=None)
        description = await both.send("GET", "/openapi.json", key=None)
    assert description.json["openapi"].startswith("3.1")
    text = page.body.decode()
    assert "/api/v1/gpu/instances/reserve" in text
    assert text.count("<script") == text.count("<script>") == 1
    assert "src=" not in text
