"""The counters of the load balancer as messages."""

from gpuproxy.edge.messages.times import timestamp
from gpuproxy.instances.load import LoadReport, LoadRow
from gpuproxy.v1 import gpuproxy_pb2 as pb


def load_answer(report: LoadReport, kind: str) -> pb.GetLoadInfoResponse:
    """The load counters; `kind` is "server", "provider" or "all"."""
    return pb.GetLoadInfoResponse(
        server_load=[_load(row) for row in report.server] if kind in ("server", "all") else [],
        provider_load=[_load(row) for row in report.provider] if kind in ("provider", "all") else [],
        current_strategy=report.strategy,
    )


def _load(row: LoadRow) -> pb.LoadInfo:
    return pb.LoadInfo(
        instance_id=row.id,
        provider=row.provider,
        connections=row.connections,
        avg_response_time_ms=row.response_ms,
        load_score=row.connections / row.gpus if row.gpus else 0.0,
        total_connections=row.picks,
        weight=row.weight,
        last_used=timestamp(row.last_used),
        samples=row.samples,
        ejected_until=timestamp(row.ejected_until),
    )
