"""Traces: a span for each call on both interfaces, joined to the caller's trace, without secrets."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from grpc import aio
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from gpuproxy.adapters.system import ScaledClock
from gpuproxy.app import main
from gpuproxy.app.metrics import Counted, Metrics
from gpuproxy.app.tracing import Tracing, exporting
from gpuproxy.config.environment import ConfigError
from gpuproxy.config.loading import load_settings
from gpuproxy.edge.rpc.dispatch import Around
from gpuproxy.model.demands import LaunchSpec
from gpuproxy.model.errors import ProviderError
from gpuproxy.model.leases import InstanceId
from gpuproxy.model.offers import Offer, OfferFilter
from gpuproxy.ports import Capabilities, Inventory, ListedInstance, Receipt, Spend
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.edge.engine import StubEngine, service_over
from tests.edge.http_face import both_faces
from tests.edge.test_http_ends import Slow

pytestmark = pytest.mark.long

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
STATE = {"traceparent": TRACEPARENT, "tracestate": "team=s3cret-7"}
PATH = "/api/v1/loadbalancer/strategy"


class Spans:
    """What was traced."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracing = Tracing(SimpleSpanProcessor(self._exporter))
        self.around: Around = self.tracing.rpc

    @property
    def all(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    @property
    def only(self) -> ReadableSpan:
        (span,) = self.all
        return span


def said(span: ReadableSpan) -> Mapping[str, Any]:
    return dict(span.attributes or {})


async def test_every_call_is_a_span_that_is_linked_with_our_trace_id() -> None:
    spans = Spans()
    async with both_faces(service_over(StubEngine()), around=spans.around) as both:
        answer = await both.send("GET", PATH)
        call = both.grpc.call("GetLoadBalancerStrategy")
        await call
        trailers = dict(await call.trailing_metadata())
    for span, trace_id in zip(spans.all, (answer.headers["X-Trace-Id"], trailers["x-trace-id"]), strict=True):
        assert (span.name, span.kind) == ("GetLoadBalancerStrategy", SpanKind.SERVER)
        assert said(span) == {
            "rpc.service": "gpuproxy.v1.GPUProxyService",
            "rpc.method": "GetLoadBalancerStrategy",
            "gpuproxy.trace_id": trace_id,
            "gpuproxy.code": "OK",
        }


async def test_a_callers_traceparent_is_the_parent_on_both_interfaces() -> None:
    spans = Spans()
    async with both_faces(service_over(StubEngine()), around=spans.around) as both:
        await both.send("GET", PATH, headers={"traceparent": TRACEPARENT})
        await both.grpc.call("GetLoadBalancerStrategy", metadata={"x-api-key": "gp_user", "traceparent": TRACEPARENT})
    assert len(spans.all) == 2
    for span in spans.all:
        assert span.context is not None
        assert span.parent is not None
        assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)


@pytest.mark.parametrize("header", ["", "nonsense", f"00-{'0' * 32}-{PARENT}-01", "00-" + "f" * 5000])
async def test_an_invalid_traceparent_starts_a_new_trace(header: str) -> None:
    spans = Spans()
    async with both_faces(service_over(StubEngine()), around=spans.around) as both:
        assert (await both.send("GET", PATH, headers={"traceparent": header})).status == 200
    assert spans.only.parent is None


async def test_a_refused_call_has_its_code_and_only_internal_errors_are_marked() -> None:
    spans = Spans()
    async with both_faces(object(), around=spans.around) as both:
        await both.send("GET", PATH, key="wrong")
        await both.send("GET", PATH)
    refused, missing = spans.all
    assert (said(refused)["gpuproxy.code"], refused.status.status_code) == ("UNAUTHENTICATED", StatusCode.UNSET)
    assert (said(missing)["gpuproxy.code"], missing.status.status_code) == ("UNIMPLEMENTED", StatusCode.ERROR)


async def test_a_call_whose_client_disconnects_is_a_span_too() -> None:
    spans, slow = Spans(), Slow()
    async with both_faces(slow, around=spans.around) as both:
        call = both.grpc.call("GetLoadInfo")
        await slow.began.wait()
        call.cancel()
        async with asyncio.timeout(120):
            await slow.cancelled.wait()
            await both.grpc.dispatcher.idle(10)
    assert said(spans.only)["gpuproxy.code"] == "CANCELLED"


async def test_nothing_that_a_client_sends_is_in_a_span() -> None:
    spans = Spans()
    request = pb.ReserveGPUsRequest(
        count=1, env={"TOKEN": "s3cret-1"}, labels={"team": "s3cret-2"}, onstart="s3cret-3", request_id="s3cret-4"
    )
    async with both_faces(service_over(StubEngine()), around=spans.around) as both:
        await both.grpc.call("ReserveGPUs", request, metadata={"x-api-key": "gp_user"} | STATE)
        await both.send(
            "POST", "/api/v1/gpu/instances/reserve", {"count": 0, "image": "s3cret-5"}, key="gp_s3cret-6", headers=STATE
        )
    assert len(spans.all) == 2
    for span in spans.all:
        assert not any(word in span.to_json() for word in ("s3cret", "gp_user"))
        assert not span.events


async def test_the_spans_of_a_broken_handler_hold_no_exception() -> None:
    class Broken:
        async def GetLoadInfo(self, _request: object, _caller: object) -> pb.GetLoadInfoResponse:  # noqa: N802
            raise RuntimeError("s3cret")

    spans = Spans()
    async with both_faces(Broken(), around=spans.around) as both:
        with pytest.raises(aio.AioRpcError):
            await both.grpc.call("GetLoadInfo")
    assert said(spans.only)["gpuproxy.code"] == "INTERNAL"
    assert "s3cret" not in spans.only.to_json()


# ------------------------------------------------------------------------------------------------------- marketplaces


class Marketplace:
    """Answers, or fails with a text that must stay internal."""

    name = "vast.ai"
    account = "vast-1"
    capabilities = Capabilities()

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    async def search(self, wanted: OfferFilter) -> AsyncIterator[Sequence[Offer]]:
        yield []
        yield []

    async def create(self, offer: Offer, spec: LaunchSpec, label: str) -> Receipt:
        raise AssertionError

    async def list(self) -> Inventory:
        if self.error:
            raise self.error
        return Inventory(instances=())

    async def get(self, instance_id: InstanceId) -> ListedInstance | None:
        return None

    async def destroy(self, instance_id: InstanceId) -> bool:
        raise AssertionError

    async def spend(self) -> Spend:
        raise asyncio.CancelledError


def counted(spans: Spans, error: Exception | None = None) -> Counted:
    return Counted(Marketplace(error), Metrics(), ScaledClock(), spans.tracing.provider_call)


async def test_every_call_to_a_marketplace_is_a_span_with_its_outcome() -> None:
    spans = Spans()
    provider = counted(spans)
    assert not (await provider.list()).instances
    async for _ in provider.search(OfferFilter()):
        pass
    with pytest.raises(asyncio.CancelledError):
        await provider.spend()
    names = [(span.name, span.kind, said(span)["gpuproxy.outcome"]) for span in spans.all]
    client = SpanKind.CLIENT
    expected = [
        ("vast.ai list", client, "ok"),
        ("vast.ai search", client, "ok"),
        ("vast.ai spend", client, "cancelled"),
    ]
    assert names == expected
    assert {said(span)["gpuproxy.account"] for span in spans.all} == {"vast-1"}


async def test_a_failed_call_has_the_reason_and_not_the_text() -> None:
    spans = Spans()
    with pytest.raises(ProviderError):
        await counted(spans, ProviderError("s3cret")).list()
    assert spans.only.status.status_code is StatusCode.ERROR
    assert said(spans.only)["gpuproxy.outcome"] == ProviderError.reason
    assert "s3cret" not in spans.only.to_json()


async def test_a_call_to_a_marketplace_belongs_to_the_call_that_made_it() -> None:
    spans = Spans()
    provider = counted(spans)

    class Asking:
        async def GetLoadInfo(self, _request: object, _caller: object) -> pb.GetLoadInfoResponse:  # noqa: N802
            await provider.list()
            return pb.GetLoadInfoResponse()

    async with both_faces(Asking(), around=spans.around) as both:
        await both.grpc.call("GetLoadInfo")
    inner, outer = spans.all
    assert inner.parent is not None
    assert outer.context is not None
    assert inner.parent.span_id == outer.context.span_id


# ------------------------------------------------------------------------------------------------------------- export


async def test_spans_go_to_the_collector_and_the_rest_goes_at_shutdown() -> None:
    received: list[tuple[str, bytes]] = []

    async def take(request: web.Request) -> web.Response:
        received.append((request.path, await request.read()))
        return web.Response()

    app = web.Application()
    app.router.add_post("/{any:.*}", take)
    async with TestServer(app) as collector:
        tracing = exporting(f"http://127.0.0.1:{collector.port}/")
        tracing.provider_call(Marketplace(), "list")("ok")
        await tracing.close()
    ((path, body),) = received
    assert path == "/v1/traces"
    assert b"vast.ai list" in body


async def test_an_unreachable_collector_neither_breaks_a_call_nor_delays_shutdown() -> None:
    tracing = exporting("http://127.0.0.1:1")
    async with both_faces(service_over(StubEngine()), around=tracing.rpc) as both:
        assert (await both.send("GET", PATH)).status == 200
    async with asyncio.timeout(120):
        await tracing.close()


# ------------------------------------------------------------------------------------------------------ when it is off


def test_without_an_endpoint_no_tracing_module_is_imported() -> None:
    code = (
        "import sys, gpuproxy.app.main, gpuproxy.cli.server, gpuproxy.app.upkeep\n"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=1200, check=False).returncode == 0


async def test_an_endpoint_without_the_extra_prevents_startup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gpuproxy.app.tracing", None)
    settings = load_settings({"GPUPROXY_OTEL_ENDPOINT": "http://127.0.0.1:4318"}, None)
    async with AsyncExitStack() as stack:
        with pytest.raises(ConfigError, match=r"gpuproxy\[otel\]"):
            main._tracing(settings, stack)
