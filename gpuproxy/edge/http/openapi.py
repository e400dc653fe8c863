"""The HTTP face described as OpenAPI 3.1, made from the contract's descriptors, its comments and the route table.

Calls that this server does not have yet are left out: they answer 501. Only what descriptors can't say is written
here: the published examples, the nested body of ReserveGPUs, the headers and the form of errors.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from gpuproxy.edge.http.events import EVENTS_TYPE
from gpuproxy.edge.http.examples import MARKETPLACE, example
from gpuproxy.edge.http.routes import GROUPS, Route, all_routes
from gpuproxy.edge.messages.json_codec import MOMENT, PERIOD, SPANS
from gpuproxy.edge.rpc.rpcs import CONTRACT, OPEN

Schema = dict[str, Any]
"""A piece of the document."""

_Field = Any
_ABOUT = """\
The calls of `gpuproxy.v1.GPUProxyService` as JSON. Field names are those of the contract, 64-bit integers are numbers,
times are RFC 3339, durations are `86400s` or `24h`, what is absent is null. `Request-Timeout: 30` is the caller's
deadline in seconds. Every response carries `X-Trace-Id`.
"""
_EXAMPLES: Mapping[str, Any] = {
    "ReserveGPUs": {"count": 4, "filters": {"min_vram": 16, "max_price": 2.0, "provider": "all"}},
    "SetLoadBalancerStrategy": {"strategy": "least_connections"},
    "ProvisionWarmPool": {"machine_id": 123, "host_machine_id": 88888, "gpu_name": "RTX_4090"},
    "CreateGPUInstance": {"image": "pytorch/pytorch:2.1.0-cuda12.1-cudnn8-runtime", "disk_gb": 50},
    "ExtendReservation": {"expires_at": "2024-12-20T15:30:00Z"},
    "CreateAPIKey": {"name": "training", "role": "user"},
    "CheckSpendingLimit": {"amount": 12.5},
    "ListWarmPoolHosts": {"gpu_name": "RTX_4090", "min_gpus": 2},
    "ListGPUInstances": {"provider": "all", "min_vram": 16, "max_price": 2.0},
}
"""As the published documents show the calls, of any marketplace; for what only reads, values of the query."""
_RESOURCES: Mapping[str, str] = {
    "auth": "Login and keys",
    "keys": "Login and keys",
    "ssh-keys": "SSH keys",
    "health": "Health and providers",
    "providers": "Health and providers",
    "gpu": "Market and machines",
    "loadbalancer": "Load balancing",
    "billing": "Costs",
    "guardrails": "Spending limits",
    "warmpool": "Warm pools",
}
"""By the word after /api/v1/."""
_SUCCESSES: Mapping[str, tuple[int, ...]] = {
    "ReserveGPUs": (201, 202, 200),
    "CreateGPUInstance": (201, 202, 200),
    "CreateAPIKey": (201,),
    "AddSSHKey": (201,),
    "ProvisionWarmPool": (200, 202),
    "CleanupWarmPool": (200, 202),
    "DeleteRetainedVolume": (200, 202),
}
_WORDS = {
    200: "Done.",
    201: "Made.",
    202: "Accepted; not all of it is known yet.",
    400: "The request, or the state of the world, does not allow it.",
    401: "No valid key.",
    402: "A spending limit does not allow it.",
    403: "The key's role does not allow it.",
    404: "There is no such thing in your project.",
    409: "It exists already with another content.",
    429: "Too many calls at once; see Retry-After.",
    500: "It failed; nothing is rented by it.",
    503: "It can't be done now; see Retry-After.",
    504: "The deadline passed.",
}
_ERRORS = tuple(code for code in _WORDS if code >= 400)


def document(built: frozenset[str], marketplaces: Sequence[str] = ()) -> Schema:
    """The whole description, of the calls that are `built`; examples name the first of `marketplaces`, if any."""
    examples = _EXAMPLES if not marketplaces else {rpc: _at(marketplaces[0], _EXAMPLES[rpc]) for rpc in _EXAMPLES}
    routes = [route for route in all_routes() if route.rpc in built]
    paths: Schema = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.verb.lower()] = _operation(route, routes, examples)
    answers = {name for route in routes for name in _reachable(route.method.output_type)}
    requests = {name for route in routes if route.has_body for name in _reachable(route.method.input_type)}
    messages = CONTRACT.file.message_types_by_name
    market = marketplaces[0] if marketplaces else MARKETPLACE
    schemas: Schema = {name: _answer_schema(messages[name], market) for name in sorted(answers)}
    schemas |= {_given(name): _request_schema(messages[name]) for name in sorted(requests)}
    for rpc in GROUPS.keys() & built:
        _group(rpc, schemas[_given(CONTRACT.methods_by_name[rpc].input_type.name)])
    return {
        "openapi": "3.1.0",
        "info": {"title": "GPU Proxy", "version": version("gpuproxy"), "description": _ABOUT},
        "security": [{"api_key": []}, {"bearer": []}],
        "tags": [{"name": name} for name in dict.fromkeys(_resource(route.path) for route in routes)],
        "paths": paths,
        "components": {
            "schemas": schemas | {"Error": _ERROR},
            "securitySchemes": {
                "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _at(marketplace: str, example: Mapping[str, Any]) -> Schema:
    """The example with its provider named."""
    named = {"provider": marketplace} if "provider" in example else {}
    return {name: _at(marketplace, part) if isinstance(part, dict) else part for name, part in example.items()} | named


def _operation(route: Route, routes: list[Route], examples: Mapping[str, Any]) -> Schema:
    first = next(each for each in routes if each.rpc == route.rpc)
    text = _comments()[route.rpc]
    operation: Schema = {
        "operationId": route.rpc if route == first else f"{route.rpc}_{route.path.rpartition('/')[2]}",
        "tags": [_resource(route.path)],
        "summary": text.split(". ")[0].removeprefix(f"{route.rpc} ").rstrip("."),
        "description": text,
        "parameters": _parameters(route, examples.get(route.rpc, {})),
        "responses": _responses(route),
    }
    if route.has_body:
        schema = {"$ref": f"#/components/schemas/{_given(route.method.input_type.name)}"}
        content: Schema = {"schema": schema}
        if route.rpc in examples:
            content["examples"] = {"published": {"value": examples[route.rpc]}}
        operation["requestBody"] = {"content": {"application/json": content}}
    if route.rpc in OPEN:
        operation["security"] = []
    if route.method.server_streaming:
        operation["x-event"] = route.method.output_type.name
    return operation


def _resource(path: str) -> str:
    """The group of a path in the documentation; a resource without a name of its own has that of its path."""
    word = path.removeprefix("/api/v1/").partition("/")[0]
    return _RESOURCES.get(word, word.replace("-", " ").capitalize())


def _parameters(route: Route, example: Mapping[str, Any]) -> list[Schema]:
    message = route.method.input_type
    made = [_parameter(message.fields_by_name[name], "path") for name in route.path_fields]
    if not route.has_body:
        others = (field for field in message.fields if field.name not in route.path_fields)
        made += [_parameter(field, "query", example) for field in others]
    elif "request_id" in message.fields_by_name:
        text = "As request_id: makes the call safe to repeat."
        schema = {"type": "string", "minLength": 1, "maxLength": 128}
        made.append({"name": "Idempotency-Key", "in": "header", "description": text, "schema": schema})
    return made


def _parameter(field: _Field, where: str, examples: Mapping[str, Any] | None = None) -> Schema:
    made: Schema = {
        "name": field.name,
        "in": where,
        "description": _comment(field),
        "schema": _value(field, _plural=True),
    }
    if where == "path":
        made["required"] = True
        made["schema"] |= {"minLength": 1} if made["schema"].get("type") == "string" else {}
    if _is_map(field):
        made |= {"style": "deepObject", "explode": True}
    if examples and field.name in examples:
        made["example"] = examples[field.name]
    return made


def _responses(route: Route) -> Schema:
    answer = {"$ref": f"#/components/schemas/{route.method.output_type.name}"}
    kind = "application/json"
    if route.method.server_streaming:
        kind, answer = EVENTS_TYPE, {"type": "string", "description": f"Events whose data is {answer['$ref']}."}
    made: Schema = {}
    for code in _SUCCESSES.get(route.rpc, (200,)):
        made[str(code)] = {"description": _WORDS[code], "content": {kind: {"schema": answer}}}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    for code in _ERRORS:
        made[str(code)] = {"description": _WORDS[code], "content": error}
    return made


def _answer_schema(message: Descriptor, marketplace: str) -> Schema:
    """Every field is there; null where it is absent."""
    properties = {}
    for field in message.fields:
        schema = _value(field, _plural=True)
        if not (field.message_type and field.message_type.full_name not in _TIMES and not _is_map(field)):
            given = example(message.name, field.name, schema)
            schema = schema | {"examples": [marketplace if given == MARKETPLACE else given]}
        if field.has_presence:
            schema = {"anyOf": [schema, {"type": "null"}]}
        properties[field.name] = schema | {"description": _comment(field)}
    return {
        "type": "object",
        "description": _comments()[message.name],
        "properties": properties,
        "required": list(properties),
    }


def _request_schema(message: Descriptor) -> Schema:
    """Nothing else is read; null is as good as absent."""
    return {
        "type": "object",
        "description": _comments()[message.name],
        "properties": {field.name: _optional(field) for field in message.fields},
        "additionalProperties": False,
    }


def _optional(field: _Field) -> Schema:
    return {"anyOf": [_value(field, _given, _plural=True), {"type": "null"}], "description": _comment(field)}


def _group(rpc: str, schema: Schema) -> None:
    """The published body has some of the fields in objects."""
    for group, names in GROUPS[rpc].items():
        properties = {name: schema["properties"][name] for name in names}
        grouped = {"type": "object", "properties": properties, "additionalProperties": False}
        schema["properties"][group] = {
            "anyOf": [grouped, {"type": "null"}],
            "description": f"{', '.join(names)}, in one object or beside it.",
        }


def _value(field: _Field, named: Any = str, *, _plural: bool) -> Schema:
    if _is_map(field):
        return {
            "type": "object",
            "additionalProperties": _value(field.message_type.fields_by_name["value"], named, _plural=False),
        }
    if _plural and field.is_repeated:
        return {"type": "array", "items": _value(field, named, _plural=False)}
    if field.message_type is not None:
        full_name = field.message_type.full_name
        return _TIMES.get(full_name) or {"$ref": f"#/components/schemas/{named(field.message_type.name)}"}
    if field.type in SPANS:
        least, most = SPANS[field.type]
        return {"type": "integer", "minimum": least, "maximum": most}
    return {"type": _TYPES[field.type]}


_TYPES = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BOOL: "boolean",
    FieldDescriptor.TYPE_DOUBLE: "number",
}
_TIMES: Mapping[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time", "pattern": f"^{MOMENT.pattern}$"},
    "google.protobuf.Duration": {"type": "string", "pattern": f"^{PERIOD.pattern}$"},
}
_ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "status", "reason", "message", "details", "trace_id"],
            "properties": {
                "code": {"type": "integer", "description": "The HTTP status."},
                "status": {"type": "string", "description": "The gRPC code."},
                "reason": {"type": "string", "description": "A constant; docs/api.md has the table."},
                "message": {"type": "string", "description": "For people."},
                "details": {"type": "array", "items": {"type": "object"}, "description": "google.rpc error details."},
                "trace_id": {"type": "string", "description": "Under which the log has the call."},
            },
        }
    },
}


def _reachable(message: Descriptor) -> set[str]:
    """The names of a message and of all messages in it."""
    names = {message.name}
    for field in message.fields:
        part = field.message_type
        if part is not None and part.full_name not in _TIMES and not _is_map(field):
            names |= _reachable(part)
    return names


def _given(name: str) -> str:
    """What a message is called where clients send it: requests are laxer than answers."""
    return name if name.endswith("Request") else f"{name}Given"


def _is_map(field: _Field) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _comment(field: _Field) -> str:
    return _comments()[f"{field.containing_type.name}.{field.name}"]


@cache
def _comments() -> Mapping[str, str]:
    texts: dict[str, str] = json.loads(files("gpuproxy.v1").joinpath("comments.json").read_text(encoding="utf-8"))
    return texts
