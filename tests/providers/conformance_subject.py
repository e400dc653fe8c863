"""The subject of the conformance suite: vast.ai's adapter on the sandbox."""

import json
from collections.abc import Callable, Mapping

from gpuproxy.conformance import KnownRefusal, Subject, VolumeFacts
from gpuproxy.model.errors import AuthFailed, InsufficientFunds, InvalidRequest, OfferGone, RateLimited
from gpuproxy.model.leases import InstanceId
from gpuproxy.ports import Clock, HttpRequest, HttpResponse
from gpuproxy.providers.vast import DESCRIPTOR
from gpuproxy.sandbox.dialects.vast import errors as said
from gpuproxy.sandbox.options import SandboxOptions
from gpuproxy.sandbox.server.in_process import InProcessHttp
from gpuproxy.sandbox.world import build

KEY = "sandbox-key"
REFUSALS = (
    KnownRefusal(answer=said.no_such_ask(5), error=OfferGone),
    KnownRefusal(answer=said.ask_unavailable(5), error=OfferGone),
    KnownRefusal(answer=said.insufficient_credit(), error=InsufficientFunds),
    KnownRefusal(answer=said.unknown_key(), error=AuthFailed),
    KnownRefusal(answer=said.session_expired(), error=AuthFailed),
    KnownRefusal(answer=said.bad_args("no such image"), error=InvalidRequest),
    KnownRefusal(answer=HttpResponse(status=429, headers={}, body=b"Too many requests"), error=RateLimited),
)


def subject(clock: Clock) -> Subject:
    """A new market and the adapter connected to it."""
    sandbox = build(SandboxOptions(rate_limits="off", machines=40, search_page=64, accounts=(KEY,)), clock)

    def machines() -> dict[InstanceId, str]:
        instances = sandbox.market.instances.values()
        return {InstanceId(str(each.id)): each.label or "" for each in instances}

    def volumes() -> dict[InstanceId, str]:
        existing = (each for each in sandbox.market.volumes.all.values() if each.deleted_at is None)
        return {InstanceId(f"V.{each.id}"): (each.name or "").replace("_", "-") for each in existing}

    def spoil_row() -> None:
        args = {"kind": "no_id", "whose": "mine"}
        sandbox.faults.arm({"provider": "vast.ai", "call": "list", "fault": "odd_row", "times": 1, "args": args})

    return Subject(
        descriptor=DESCRIPTOR,
        key=KEY,
        http=InProcessHttp(sandbox),
        clock=clock,
        is_create=_is_create,
        machines=machines,
        machines_for_pages=30,
        refusals=REFUSALS,
        error_with_id=_error_with_id,
        spoil_row=spoil_row,
        volumes=VolumeFacts(
            is_create=lambda request: request.method == "PUT" and request.url.endswith("/api/v0/volumes/"),
            volumes=volumes,
            some_id=InstanceId("V.20118481"),
            error_with_id=_error_with_volume_id,
        ),
    )


def _is_create(request: HttpRequest) -> bool:
    return request.method == "PUT" and "/asks/" in request.url


def _error_with_volume_id(volume_id: InstanceId) -> HttpResponse:
    body = {"success": False, "error": "invalid_args", "msg": "failed", "volume_name": volume_id}
    return HttpResponse(status=400, headers={}, body=json.dumps(body).encode())


def _error_with_id(instance_id: InstanceId) -> HttpResponse:
    body = {"success": False, "error": "internal_error", "msg": "failed", "new_contract": int(instance_id)}
    return HttpResponse(status=500, headers={}, body=json.dumps(body).encode())


SUBJECTS: Mapping[str, Callable[[Clock], Subject]] = {"vast.ai": subject}
"""The subject of each installed marketplace that the sandbox speaks, by name."""
