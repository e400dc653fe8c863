"""Both interfaces get the same random requests and give equal answers and equivalent errors."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status import rpc_status
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuproxy.edge.http.answers import BY_REASON, CODES
from gpuproxy.edge.http.routes import Route, all_routes
from gpuproxy.edge.messages.json_values import plain
from gpuproxy.instances.requests import LeaseView
from gpuproxy.model.errors import FailedPrecondition, Unavailable
from gpuproxy.model.money import Micro
from gpuproxy.model.reasons import Reason
from tests.edge.engine import StubEngine, lease, offer, service_over, view
from tests.edge.http_face import Answer, Both, both_faces
from tests.edge.pools import StubPools

pytestmark = pytest.mark.long

_WORDS = st.sampled_from(
    ["", "vast.ai", "all", "vast-1", "9001", "res-1", "RTX 4090", "US", "single", "lowest_price", "price_per_hour desc"]
)
_TEXT = st.one_of(_WORDS, _WORDS, st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12))
_NUMBERS = st.one_of(st.sampled_from([0.0, 0.4, 1.0, 16.0, -1.0, 1e300]), st.floats(0, 100))
_WHOLES = st.one_of(st.integers(-1, 20), st.sampled_from([2**31 - 1, -(2**31)]))
_TIMES = st.sampled_from(["2026-12-20T15:30:00Z", "1999-01-01T00:00:00Z", "2030-06-01T00:00:00.250Z"])
_PERIODS = st.sampled_from(["0s", "60s", "86400s", "-5s", "400000000s"])
_LEFT_OUT = {"CreateAPIKey": {"token"}}
"""Credentials in the body are a call's identity: another test's matter."""

ROUTES = {
    route.rpc: route
    for route in reversed(all_routes())
    if hasattr(service_over(StubEngine(), StubPools()), route.rpc) and not route.method.server_streaming
}


@dataclass(frozen=True)
class Asked:
    """A call and the values of its fields, as JSON has them."""

    route: Route
    values: Mapping[str, Any]


def values_of(field: Any) -> st.SearchStrategy[Any]:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return st.dictionaries(_TEXT.filter(bool), _TEXT, max_size=2)
    if kind is not None and kind.full_name == "google.protobuf.Timestamp":
        return _TIMES
    if kind is not None and kind.full_name == "google.protobuf.Duration":
        return _PERIODS
    if kind is not None:
        return objects_of(kind, frozenset())
    by_type = {field.TYPE_STRING: _TEXT, field.TYPE_BOOL: st.booleans(), field.TYPE_DOUBLE: _NUMBERS}
    one = by_type.get(field.type, _WHOLES)
    return st.lists(one, max_size=3) if field.is_repeated else one


def objects_of(message: Any, without: frozenset[str]) -> st.SearchStrategy[dict[str, Any]]:
    fields = {field.name: values_of(field) for field in message.fields if field.name not in without}
    return st.fixed_dictionaries({}, optional=fields)


@st.composite
def questions(draw: st.DrawFn) -> Asked:
    route = ROUTES[draw(st.sampled_from(sorted(ROUTES)))]
    values = draw(objects_of(route.method.input_type, frozenset(_LEFT_OUT.get(route.rpc, ()))))
    for name in route.path_fields:
        named = ["vast.ai", "vast-1", "9001", "res-1", "no such thing", "id-user"]
        numbers = [123, 1, 0, -7, 2**63 - 1]
        values[name] = draw(st.sampled_from(numbers if name == "machine_id" else named))
    if route.rpc == "ReserveGPUs":
        values["count"] = draw(st.integers(-1, 18))
    return Asked(route, values)


@settings(max_examples=50, deadline=None)
@given(asked=st.lists(questions(), min_size=5, max_size=20), failing=st.sampled_from(["no", "no", "few", "silent"]))
def test_both_interfaces_answer_alike(asked: list[Asked], failing: str) -> None:
    asyncio.run(_compare_all(asked, failing))


async def _compare_all(asked: list[Asked], failing: str) -> None:
    engine = StubEngine(
        offers=[offer(number, price=300_000 + 7 * number, gpus=1 + number % 2) for number in range(1, 6)],
        mine=[LeaseView(lease=lease(1), cost=Micro(12))],
    )
    if failing == "few":
        engine.answer = FailedPrecondition(
            "Not enough GPUs.", reason=Reason.NOT_ENOUGH_GPUS, metadata={"requested": "4"}
        )
    if failing == "silent":
        engine.answer = engine.market_refusal = Unavailable("No market can be read.", retry_after=3)
    else:
        engine.answer = engine.answer if failing == "few" else view(lease(1), lease(2))
    pools = StubPools()
    if failing == "few":
        pools.view = FailedPrecondition("It is in failover.", reason=Reason.POOL_STATE, metadata={"state": "failover"})
    async with both_faces(service_over(engine, pools)) as both:
        for each in asked:
            await _compare(both, engine, pools, each)


async def _compare(both: Both, engine: StubEngine, pools: StubPools, asked: Asked) -> None:
    message = GetMessageClass(asked.route.method.input_type)()
    ParseDict(asked.values, message)
    expected, demanded = await _by_grpc(both, asked.route.rpc, message), _taken(engine, pools)
    answer, demanded_again = await _by_http(both, asked), _taken(engine, pools)
    assert demanded == demanded_again
    if isinstance(expected, Message):
        assert answer.status in (200, 201, 202), (asked, answer.body)
        assert _timeless(answer.json) == _timeless(plain(expected)), asked
        return
    code, reason, text, violations = expected
    assert (answer.error["status"], answer.error["reason"], answer.error["message"]) == (code.name, reason, text), asked
    assert answer.status == BY_REASON.get(reason, CODES[code])
    assert (list(answer.violations()) if code.name == "INVALID_ARGUMENT" else []) == list(dict.fromkeys(violations))


async def _by_grpc(both: Both, rpc: str, message: Message) -> Any:
    try:
        return await both.grpc.call(rpc, message, key="gp_admin")
    except aio.AioRpcError as error:
        status = rpc_status.from_call(error)
        assert status is not None
        return _refused(error.code(), status)


def _refused(code: Any, status: Any) -> tuple[Any, str, str, list[str]]:
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
    return code, info.reason, status.message, [violation.field for violation in bad.field_violations]


async def _by_http(both: Both, asked: Asked) -> Answer:
    values, route = dict(asked.values), asked.route
    path = route.path
    for name in route.path_fields:
        path = path.replace(f"{{{name}}}", _quoted(str(values.pop(name))))
    if route.has_body:
        return await both.send(route.verb, path, values, key="gp_admin")
    pairs = [pair for name, value in values.items() for pair in _pairs(name, value)]
    query = "&".join(f"{_quoted(name)}={_quoted(text)}" for name, text in pairs)
    return await both.send(route.verb, f"{path}?{query}", key="gp_admin")


def _pairs(name: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [(f"{name}[{key}]", text) for key, text in value.items()]
    if isinstance(value, list):
        return [(name, _text(each)) for each in value]
    return [(name, _text(value))]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _quoted(text: str) -> str:
    return quote(text, safe="")


def _taken(engine: StubEngine, pools: StubPools) -> tuple[list[Any], ...]:
    records = engine.demands, engine.asked, pools.asked
    taken = tuple(list(record) for record in records)
    for record in records:
        record.clear()
    return taken


def _timeless(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in ("timestamp", "as_of")}
