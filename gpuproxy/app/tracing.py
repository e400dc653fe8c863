"""OpenTelemetry traces: a span for each call of the API and for each call to a marketplace.

Needs the extra `otel`, and is imported only if an endpoint is set. Attributes are our own words (calls, codes,
providers, names of accounts), never text that a client or a marketplace sent. OpenTelemetry's own variables, such as
OTEL_TRACES_SAMPLER, set the sampling and other options.
"""

import asyncio
from collections.abc import Awaitable, Callable

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gpuproxy.edge.rpc.dispatch import Call, Reply
from gpuproxy.edge.rpc.status import code_of
from gpuproxy.ports import Provider

_SERVICE = "gpuproxy.v1.GPUProxyService"
_EXPORT_SECONDS = 3.0
"""The time limit for one batch, repeats included. A collector that is down delays the server's end by this time."""
_OURS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Codes of the server's errors; the others are the caller's errors."""


class Tracing:
    """Passes spans to a processor. The global tracer of other libraries is not changed."""

    def __init__(self, processor: SpanProcessor) -> None:
        resource = Resource({"service.name": "gpuproxy"}).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("gpuproxy")
        self._context = TraceContextTextMapPropagator()

    async def rpc(self, call: Call, trace_id: str, answer: Awaitable[Reply]) -> Reply:
        """Wait for `answer` inside a span. If the caller sent a W3C traceparent, the span is a child of the caller's.

        The caller's tracestate is left out, because it is free text and would be in the span.
        """
        with self._tracer.start_as_current_span(
            call.rpc.name,
            context=self._context.extract({"traceparent": call.metadata.get("traceparent", "")}),
            kind=SpanKind.SERVER,
            attributes={"rpc.service": _SERVICE, "rpc.method": call.rpc.name, "gpuproxy.trace_id": trace_id},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                reply = await answer
            except asyncio.CancelledError:
                span.set_attribute("gpuproxy.code", "CANCELLED")
                raise
            _judge(span, "OK" if reply.refusal is None else code_of(reply.refusal).name)
            return reply

    def provider_call(self, provider: Provider, call: str) -> Callable[[str], None]:
        """Begin the span of a call to a marketplace. Call the result with the outcome to end the span."""
        span = self._tracer.start_span(
            f"{provider.name} {call}",
            kind=SpanKind.CLIENT,
            attributes={
                "gpuproxy.provider": provider.name,
                "gpuproxy.account": provider.account,
                "gpuproxy.call": call,
            },
        )

        def ended(outcome: str) -> None:
            span.set_attribute("gpuproxy.outcome", outcome)
            if outcome not in ("ok", "cancelled"):
                span.set_status(StatusCode.ERROR)
            span.end()

        return ended

    async def close(self) -> None:
        """Send the remaining spans."""
        await asyncio.to_thread(self._provider.shutdown)


def exporting(endpoint: str) -> Tracing:
    """Export by OTLP over HTTP to `endpoint`, in batches, from a thread. Spans that can't be delivered are dropped."""
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=_EXPORT_SECONDS)
    return Tracing(BatchSpanProcessor(exporter))


def _judge(span: Span, code: str) -> None:
    span.set_attribute("gpuproxy.code", code)
    if code in _OURS:
        span.set_status(StatusCode.ERROR)
