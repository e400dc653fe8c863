"""vast.ai's logs: a request returns a URL, and the URL returns the log after a second (404 until then).

The URL contains all parameters, so the market stores nothing between the two calls.
"""

from datetime import UTC, datetime
from urllib.parse import urlencode

from gpuproxy.ports import HttpResponse
from gpuproxy.sandbox.dialects.vast import errors
from gpuproxy.sandbox.market.addresses import run_kind
from gpuproxy.sandbox.market.exchange import SimulatedMarket
from gpuproxy.sandbox.market.instances import Instance, Phase
from gpuproxy.sandbox.protocol.wire import Incoming, answer, text_answer

_READY_AFTER = 1.0
_SECRET = 32
_PLAIN = {"content-type": "text/plain; charset=utf-8"}


def requested(market: SimulatedMarket, instance: Instance, request: Incoming) -> HttpResponse:
    """`PUT /api/v0/instances/request_logs/{id}/`. Raises BadBody."""
    body = request.json()
    wanted = {name: str(body[name]) for name in ("tail", "filter", "daemon_logs") if body.get(name)}
    query = urlencode({"ready": f"{market.now + _READY_AFTER:.3f}", **wanted})
    secret = instance.api_key[:_SECRET]
    url = f"{request.origin}/instance_logs/{instance.id}-{secret}.log?{query}"
    return answer({"success": True, "result_url": url, "msg": "Log request submitted."})


def text(market: SimulatedMarket, number: int, secret: str, request: Incoming) -> HttpResponse:
    """`GET /instance_logs/...`: anybody with the URL may read the log."""
    instance = market.instances.get(number)
    query = request.query
    try:
        ready, tail = float(query.get("ready", "inf")), int(query.get("tail", 0))
    except ValueError:
        return errors.not_found(request.path)
    if instance is None or secret != instance.api_key[:_SECRET] or market.now < ready:
        return errors.not_found(request.path)
    lines = _daemon(instance) if query.get("daemon_logs") == "true" else _container(market, instance)
    lines = [line for line in lines if query.get("filter", "") in line]
    return text_answer("".join(f"{line}\n" for line in lines[-tail:] if line), 200, _PLAIN)


def _container(market: SimulatedMarket, instance: Instance) -> list[str]:
    booted = instance.boot_at is not None and instance.boot_at <= market.now
    lines = []
    if booted and instance.boot_at is not None:
        at = _at(instance.boot_at)
        lines = [f"{at} container {instance.id} starts"]
        if run_kind(instance.launch) != "args":
            lines.append(f"{at} sshd listens on port 22")
        lines += market.printed.get(instance.id, ())
    if instance.phase is Phase.EXITED:
        lines.append(instance.status_msg)
    return lines


def _daemon(instance: Instance) -> list[str]:
    lines = [
        f"{_at(instance.created_at)} contract {instance.id} begins",
        f"{_at(instance.loading_at)} pulling {instance.launch.image}",
    ]
    mounts = instance.launch.volumes.items()
    lines += [f"{_at(instance.created_at)} mounting V.{number} at {path}" for number, path in mounts]
    if instance.failure is not None and instance.failure.message:
        lines.append(f"{_at(instance.loading_at)} {instance.failure.message}")
    return lines


def _at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
