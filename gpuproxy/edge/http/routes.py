"""The HTTP route of each call, and how an HTTP request becomes the call's message.

Routes come from the google.api.http annotations of the contract. Only the published nested body of ReserveGPUs is
defined here, because annotations can't express it.

A field may be both in the path and in the body if both values are equal. The header `Idempotency-Key` sets request_id
and `Last-Event-ID` sets resume_token, if the call has such a field. It counts before a resume_token in the query.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from google.api import annotations_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from gpuproxy.edge.messages import json_codec
from gpuproxy.edge.messages.violations import Violations
from gpuproxy.edge.rpc.rpcs import CONTRACT
from gpuproxy.model.reservations import ENDED
from gpuproxy.v1 import gpuproxy_pb2 as pb

_FILTERS = (
    "min_vram max_price provider gpu_model location verified_only min_reliability min_cuda exclude_hosts "
    "min_cpu_cores min_ram_gb min_disk_bandwidth min_inet_down min_inet_up max_traffic_price same_model same_country"
)
_CONFIG = "image registry_auth env secret_env ports disk_gb ssh_public_keys onstart run_mode args"
GROUPS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "ReserveGPUs": {"filters": _FILTERS.split(), "config": _CONFIG.split()},
}
"""By call: the objects in a request body that group fields of the message."""
_VERBS = ("get", "put", "post", "delete", "patch")
_CREATES = frozenset({"CreateAPIKey", "AddSSHKey", "CreateGPUInstance", "ReserveGPUs"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One verb and path of one call. `path` contains `{field}` as the placeholder of a field."""

    rpc: str
    verb: str
    path: str
    has_body: bool
    method: MethodDescriptor

    @property
    def path_fields(self) -> tuple[str, ...]:
        """The names of the fields in the path, in order."""
        return tuple(part[1:-1] for part in self.path.split("/") if part.startswith("{"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """The parts of an HTTP request, not validated yet."""

    path: Mapping[str, str]
    query: Mapping[str, Sequence[str]] = field(default_factory=lambda: MappingProxyType({}))
    body: bytes = b""
    request_id: str | None = None
    """The header Idempotency-Key; None if it is absent."""
    resume_token: str = ""
    """The header Last-Event-ID."""


def all_routes() -> tuple[Route, ...]:
    """All routes of all calls, in the contract's order."""
    return tuple(route for method in CONTRACT.methods for route in _bindings(method))


def request_of(route: Route, received: Received) -> Message:
    """The call's message; raises InvalidArgument with all violations."""
    message = GetMessageClass(route.method.input_type)()
    found = Violations()
    valid = [name for name in message.DESCRIPTOR.fields_by_name if name not in route.path_fields]
    if route.has_body:
        body = json_codec.parse(received.body)
        _fill_groups(route, message, body, found, [*GROUPS.get(route.rpc, {}), *valid])
        for name in received.query:
            found.add(json_codec.printable(name), "must be in the body, not in the query")
    else:
        for name, texts in received.query.items():
            json_codec.fill_text(message, name, texts, found, valid)
    for name, text in received.path.items():
        _agree(message, name, text, found)
    if received.request_id == "" and "request_id" in message.DESCRIPTOR.fields_by_name:
        found.add("Idempotency-Key", "must not be empty; omit the header if the call needs no repeats")
    for name, text in (("request_id", received.request_id or ""), ("resume_token", received.resume_token)):
        if text and name in message.DESCRIPTOR.fields_by_name:
            if name == "resume_token":  # a browser repeats the address with which it has opened the stream
                message.ClearField(name)
            _agree(message, name, text, found)
    found.finish()
    return message


def status_of_answer(rpc: str, answer: object) -> int:
    """The HTTP status of an answer: 201 if something was created, 202 if the result is still incomplete, else 200.

    A repeat of a request_id whose reservation has ended is 200: there is no machine, and there will be none.
    """
    if isinstance(answer, pb.ReserveGPUsResponse):
        if not answer.reservation_id or answer.state in ENDED:  # a dry run creates nothing
            return 200
        return 202 if answer.state == "pending" else 201
    if isinstance(answer, pb.CreateGPUInstanceResponse):
        return {"reserved": 201, "unknown": 202}.get(answer.status, 200)
    if isinstance(answer, pb.ProvisionWarmPoolResponse) and answer.status.state == "provisioning":
        return 202
    if isinstance(answer, pb.CleanupWarmPoolResponse | pb.DeleteRetainedVolumeResponse) and answer.pending_ids:
        return 202
    return 201 if rpc in _CREATES else 200


def _bindings(method: MethodDescriptor) -> list[Route]:
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    return [_route(method, each) for each in (rule, *rule.additional_bindings) if each.WhichOneof("pattern")]


def _route(method: MethodDescriptor, rule: Any) -> Route:
    verb = rule.WhichOneof("pattern")
    if verb not in _VERBS or rule.body not in ("", "*"):
        raise ValueError(f"{method.name}: only whole bodies and plain paths are supported")
    return Route(rpc=method.name, verb=verb.upper(), path=getattr(rule, verb), has_body=rule.body == "*", method=method)


def _fill_groups(
    route: Route, message: Message, body: Mapping[str, Any], found: Violations, valid: Sequence[str]
) -> None:
    """Set the flat fields first, then those in groups; a field in both places must have the same value."""
    groups = GROUPS.get(route.rpc, {})
    flat = {name: value for name, value in body.items() if name not in groups}
    json_codec.fill(message, flat, found, valid=valid)
    for group, names in groups.items():
        values = body.get(group)
        if values is None:
            continue
        if not isinstance(values, dict):
            found.add(group, "must be an object")
            continue
        for name, value in values.items():
            if name not in names:
                found.add(json_codec.printable(f"{group}.{name}"), json_codec.unknown_field(name, names))
            elif value is None or body.get(name) is None:
                json_codec.fill(message, {name: value}, found, f"{group}.")
            elif body[name] != value:
                found.add(f"{group}.{name}", f"differs from {name}; give only one of them")


def _agree(message: Message, name: str, text: str, found: Violations) -> None:
    """Set a field from the path or a header; if the body has set it too, the values must be equal."""
    before = getattr(message, name)
    message.ClearField(name)
    json_codec.fill_text(message, name, [text], found)
    if before and getattr(message, name) != before:
        found.add(name, "differs from the value in the path or header; give only one of them")
