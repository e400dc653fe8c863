"""The published document's own calls, read from its text: paths, field names, nulls, message texts and defaults."""

import json
import shlex
from dataclasses import replace
from typing import Any

from gpuproxy.edge.http.routes import all_routes
from gpuproxy.model.demands import DEFAULT_IMAGE, Caller
from gpuproxy.model.pools import PoolState, PoolView
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests import published
from tests.edge.engine import StubEngine, service_over
from tests.edge.http_face import Answer, both_faces
from tests.edge.pools import StubPools
from tests.edge.test_pools import same_shape

EXACT = frozenset({
    "machine_id", "state", "host_machine_id", "volume_id", "primary_gpu_id", "standby_gpu_id", "standby_state",
    "failover_count", "error_message", "gpu_name", "total_gpus", "available_gpus", "avg_price_per_hour",
    "reliability", "verified", "geolocation", "can_create_warm_pool", "offer_id", "num_gpus", "price_per_hour",
    "success", "message", "fallback", "recovery_time_seconds", "new_primary_gpu_id",
})  # fmt: skip
"""Fields whose values in the examples are those of the stub, to the letter. The others are compared by their types."""
TIMES = ("last_health_check", "last_failover_at")


class AsPublished(StubPools):
    """The pool of the examples, which is disabled once that was asked for."""

    async def disable(self, caller: Caller, machine_id: int) -> PoolView:
        view = await super().disable(caller, machine_id)
        return replace(view, pool=replace(view.pool, state=PoolState.DISABLED))


async def answered(call: published.Call, pools: StubPools, body: dict[str, Any] | None = None) -> Answer:
    """What the call's own command gets; `body` stands for the one in the command."""
    words = shlex.split(call.command)
    verb = words[words.index("-X") + 1] if "-X" in words else "GET"
    address = next(word for word in words if word.startswith(published.HOST))
    if body is None and "-d" in words:
        body = json.loads(words[words.index("-d") + 1])
    async with both_faces(service_over(StubEngine(), pools, pool_max_price=2.5)) as both:
        headers = {"Authorization": "Bearer gp_user"}
        return await both.send(verb, address.removeprefix(published.HOST), body, key=None, headers=headers)


def test_every_section_is_a_path_and_every_command_goes_there() -> None:
    calls = published.calls()
    assert len(calls) == 7
    paths = {(route.verb, route.path) for route in all_routes()}
    for call in calls.values():
        assert (call.verb, published.PREFIX + call.path) in paths, call.title
        address = next(word for word in shlex.split(call.command) if word.startswith(published.HOST))
        where = address.removeprefix(published.HOST).partition("?")[0]
        assert where == published.PREFIX + call.path.replace("{machine_id}", published.MACHINE)


def test_the_states_are_the_published_ones() -> None:
    assert published.states() == list(PoolState)


async def test_every_command_is_answered_as_printed() -> None:
    for call in published.calls().values():
        answer = await answered(call, AsPublished())
        assert answer.status == 200, call.title
        same_shape(call.answer, answer.json)
        exactly(call.answer, answer.json, call.title)


def exactly(printed: Any, given: Any, place: str) -> None:
    """The fields in EXACT are as printed, at every depth; times have the printed form."""
    if isinstance(printed, list):
        exactly(printed[0], given[0], place)
        return
    for name, value in printed.items():
        if isinstance(value, dict | list):
            exactly(value, given[name], f"{place} {name}")
        elif name in EXACT or (name == "status" and isinstance(value, str)):
            assert given[name] == value, f"{place} {name}"
        elif name in TIMES:
            assert len(given[name]) == len(value)
            assert given[name].endswith("Z")


async def test_a_pool_that_is_missing_has_the_published_fields_and_nulls() -> None:
    call = published.calls()["GET /warmpool/status/{machine_id}"]
    answer = (await answered(call, StubPools(view=None))).json
    assert set(call.answer) <= set(answer)
    known = {"machine_id": int(published.MACHINE), "state": "disabled", "standby_state": "none", "failover_count": 0}
    assert {name: answer[name] for name in call.answer} == dict.fromkeys(call.answer) | known


async def test_the_printed_request_reaches_the_engine_field_by_field() -> None:
    call = published.calls()["POST /warmpool/provision"]
    pools = AsPublished()
    assert call.body is not None
    assert (await answered(call, pools, call.body)).status == 200
    demand = pools.asked[0][1]
    spec = demand.spec
    sent = {
        "machine_id": demand.machine_id,
        "host_machine_id": demand.host_machine_id,
        "gpu_name": spec.gpu_model,
        "image": spec.image,
        "disk_size": spec.disk_gb,
        "volume_size": spec.volume_gb,
    }
    assert sent == call.body


async def test_the_printed_defaults_are_ours() -> None:
    """null: the field may be left out. "pytorch/..." stands for the image of the example."""
    calls = published.calls()
    hosts, provision = calls["GET /warmpool/hosts"], calls["POST /warmpool/provision"]
    assert hosts.parameters == {
        "gpu_name": ("string?", "null"),
        "min_gpus": ("int", "2"),
        "max_price": ("float?", "null"),
        "verified": ("bool", "true"),
    }
    pools = AsPublished()
    bare = replace(hosts, command=hosts.command.replace("?gpu_name=RTX_4090&min_gpus=2", ""))
    assert (await answered(bare, pools)).status == 200
    query = pools.asked[0][1]
    assert (query.gpu_model, query.min_gpus, query.verified_only) == ("", 2, True)

    required = {name: 7 for name, (_, default) in provision.parameters.items() if default == "-"}
    assert set(required) == {"machine_id", "host_machine_id"}
    assert (await answered(provision, pools, required)).status == 200
    spec = pools.asked[1][1].spec
    ours = {
        "gpu_name": "null",
        "image": "pytorch/...",
        "disk_size": f"{spec.disk_gb}",
        "volume_size": f"{spec.volume_gb}",
    }
    assert {name: default for name, (_, default) in provision.parameters.items() if name not in required} == ours
    assert spec.gpu_model == ""
    assert provision.body is not None
    assert spec.image == provision.body["image"] == DEFAULT_IMAGE


async def test_without_a_required_field_the_refusal_names_it() -> None:
    call = published.calls()["POST /warmpool/provision"]
    for name in ("machine_id", "host_machine_id"):
        body = {field: value for field, value in (call.body or {}).items() if field != name}
        refused = await answered(call, AsPublished(), body)
        assert (refused.status, list(refused.violations())) == (400, [name])


def test_the_messages_have_the_published_fields_under_the_published_names() -> None:
    calls = published.calls()
    messages = {
        "GET /warmpool/status/{machine_id}": pb.WarmPoolStatus,
        "GET /warmpool/hosts": pb.ListWarmPoolHostsResponse,
        "POST /warmpool/provision": pb.ProvisionWarmPoolResponse,
        "POST /warmpool/enable/{machine_id}": pb.EnableWarmPoolResponse,
        "POST /warmpool/disable/{machine_id}": pb.DisableWarmPoolResponse,
        "POST /warmpool/failover/test/{machine_id}": pb.TestWarmPoolFailoverResponse,
        "DELETE /warmpool/cleanup/{machine_id}": pb.CleanupWarmPoolResponse,
    }
    assert set(messages) == set(calls)
    for title, message in messages.items():
        assert set(calls[title].answer) <= set(message.DESCRIPTOR.fields_by_name), title
