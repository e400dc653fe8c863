"""Each call has its HTTP path of the contract, and both interfaces have the same calls."""

import json
import re
from pathlib import Path

import pytest

from gpuproxy.edge.http.openapi import document
from gpuproxy.edge.http.routes import GROUPS, Received, all_routes, request_of
from gpuproxy.edge.rpc.rpcs import CONTRACT, built_of, rpcs_of
from gpuproxy.model.errors import InvalidArgument
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.edge.engine import StubEngine, service_over
from tests.edge.http_face import both_faces

SEED = Path(__file__).resolve().parents[2].parent / "shared" / "seeds" / "gpu-warm-pool-api.pt.md"
ROUTES = all_routes()
EVERY_CALL = sorted(method.name for method in CONTRACT.methods)

PUBLISHED = """
POST /api/v1/auth/login Login
GET /api/v1/gpu/instances ListGPUInstances
POST /api/v1/gpu/instances/reserve ReserveGPUs
GET /api/v1/gpu/instances/{provider}/{instance_id} GetGPUInstance
POST /api/v1/gpu/instances/{provider}/{instance_id} CreateGPUInstance
DELETE /api/v1/gpu/instances/{provider}/{instance_id} DestroyGPUInstance
GET /api/v1/reservations ListReservations
GET /api/v1/reservations/{reservation_id} GetReservation
DELETE /api/v1/reservations/{reservation_id} ReleaseReservation
POST /api/v1/reservations/{reservation_id}/extend ExtendReservation
GET /api/v1/reservations/{reservation_id}/events WatchReservation
GET /api/v1/loadbalancer/strategy GetLoadBalancerStrategy
PUT /api/v1/loadbalancer/strategy SetLoadBalancerStrategy
GET /api/v1/loadbalancer/loads GetLoadInfo
GET /api/v1/loadbalancer/load GetLoadInfo
GET /api/v1/billing/transactions GetTransactions
GET /api/v1/guardrails/spending GetSpendingInfo
POST /api/v1/guardrails/spending/check CheckSpendingLimit
GET /api/v1/warmpool/status/{machine_id} GetWarmPoolStatus
GET /api/v1/warmpool ListWarmPools
GET /api/v1/warmpool/hosts ListWarmPoolHosts
GET /api/v1/warmpool/events/{machine_id} WatchWarmPool
POST /api/v1/warmpool/provision ProvisionWarmPool
POST /api/v1/warmpool/enable/{machine_id} EnableWarmPool
POST /api/v1/warmpool/disable/{machine_id} DisableWarmPool
POST /api/v1/warmpool/failover/test/{machine_id} TestWarmPoolFailover
POST /api/v1/warmpool/failover/{machine_id} FailoverWarmPool
DELETE /api/v1/warmpool/cleanup/{machine_id} CleanupWarmPool
DELETE /api/v1/warmpool/volumes/{machine_id}/{volume_id} DeleteRetainedVolume
"""


@pytest.mark.parametrize("line", PUBLISHED.strip().splitlines())
def test_published_paths_lead_to_their_calls(line: str) -> None:
    verb, path, rpc = line.split()
    assert [each.rpc for each in ROUTES if (each.verb, each.path) == (verb, path)] == [rpc]


@pytest.mark.parametrize("name", EVERY_CALL)
def test_every_call_is_on_both_interfaces(name: str) -> None:
    assert any(route.rpc == name for route in ROUTES), f"{name} has no google.api.http annotation"
    assert name in {rpc.name for rpc in rpcs_of(object())}


@pytest.mark.parametrize("name", EVERY_CALL)
async def test_a_call_that_is_not_implemented_says_so_on_both_interfaces(name: str) -> None:
    route = next(each for each in ROUTES if each.rpc == name)
    path = re.sub(r"\{(\w+)\}", lambda field: "1", route.path)
    async with both_faces(object()) as both:
        answer = await both.send(route.verb, path, key="gp_admin")
        refused = await both.grpc.refused(name, key="gp_admin") if not route.method.server_streaming else None
    assert (answer.status, answer.error["reason"]) == (501, "NOT_IMPLEMENTED")
    assert refused is None or refused.code.name == answer.error["status"] == "UNIMPLEMENTED"


def published_warm_pool() -> list[tuple[str, str]]:
    """Verb and path of each section of the second document, and of each of its curl commands."""
    if not SEED.exists():
        pytest.skip("the published document is not here")
    text = SEED.read_text(encoding="utf-8")
    titles = [(verb, f"/api/v1{path}") for verb, path in re.findall(r"^### ([A-Z]+) (/\S+)$", text, re.MULTILINE)]
    assert len(titles) == 7
    commands = re.findall(r"curl (?:-X (\w+) )?\"?https://[^/\s]+(/api/v1/warmpool[^\s\"?]*)", text)
    return sorted({*titles, *((verb or "GET", path) for verb, path in commands)})


async def test_every_path_of_the_second_document_exists_and_says_that_it_is_not_implemented() -> None:
    published = published_warm_pool()
    async with both_faces(object()) as both:
        for verb, path in published:
            answer = await both.send(verb, re.sub(r"\{\w+\}", "123", path), key="gp_admin")
            assert (answer.status, answer.error["code"], answer.error["reason"]) == (501, 501, "NOT_IMPLEMENTED"), path
            assert {"status", "message", "details", "trace_id"} <= set(answer.error)
        elsewhere = await both.send("GET", "/api/v1/warmpool/nothing/123", key="gp_admin")
    assert elsewhere.status == 404


def test_no_two_calls_share_a_path() -> None:
    places = [(route.verb, re.sub(r"\{\w+\}", "{}", route.path)) for route in ROUTES]
    assert len(places) == len(set(places))


def test_fields_of_paths_and_groups_are_fields_of_the_message() -> None:
    for route in ROUTES:
        fields = set(route.method.input_type.fields_by_name)
        assert set(route.path_fields) <= fields
        for names in GROUPS.get(route.rpc, {}).values():
            assert set(names) <= fields


def test_filters_of_machines_are_in_the_description_of_lists_and_reservations() -> None:
    described = document(built_of(service_over(StubEngine())))
    names = {"min_cpu_cores", "min_ram_gb", "min_disk_bandwidth", "min_inet_down", "min_inet_up", "max_traffic_price"}
    listing = described["paths"]["/api/v1/gpu/instances"]["get"]
    assert names <= {each["name"] for each in listing["parameters"]}
    text = json.dumps(described["paths"]["/api/v1/gpu/instances/reserve"]) + json.dumps(described["components"])
    assert all(f'"{name}"' in text for name in names | {"same_country", "same_model"})


def test_the_description_has_exactly_the_implemented_calls() -> None:
    built = built_of(service_over(StubEngine()))
    described = document(built)
    operations = {each["operationId"] for verbs in described["paths"].values() for each in verbs.values()}
    assert operations == built | {"GetLoadInfo_load"}


def test_a_server_without_a_call_has_a_shorter_description() -> None:
    assert not document(frozenset())["paths"]


def _refused(rpc: str, *, body: bytes = b"", query: dict[str, list[str]] | None = None) -> str:
    """The error text for a request to the call."""
    route = next(each for each in ROUTES if each.rpc == rpc)
    path = dict.fromkeys(route.path_fields, "1")
    with pytest.raises(InvalidArgument) as refused:
        request_of(route, Received(path=path, body=body, query=query or {}))
    return str(refused.value)


def test_an_unknown_field_is_refused_with_the_valid_ones_but_not_those_of_the_path() -> None:
    said = _refused("ExtendReservation", body=b'{"duration": "2h"}')
    assert said == "duration: is not a field of this call. Valid fields: expires_at"


def test_the_most_similar_field_is_named_first() -> None:
    assert _refused("ExtendReservation", body=b'{"expires": "2h"}').startswith(
        "expires: is not a field of this call. Did you mean expires_at?"
    )
    assert "Did you mean min_vram?" in _refused("ListGPUInstances", query={"min-vram": ["4"]})


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"gpus": 4}', "gpus: is not a field of this call. Valid fields: filters, config, count, provider, "),
        (
            b'{"filters": {"vram": 4}}',
            "filters.vram: is not a field of this call. Did you mean min_vram? Valid fields: ",
        ),
        (
            b'{"registry_auth": {"password": "x"}}',
            "registry_auth.password: is not a field of this call. Valid fields: server, username, secret",
        ),
    ],
)
def test_groups_and_nested_objects_name_their_own_fields(body: bytes, said: str) -> None:
    assert _refused("ReserveGPUs", body=body).startswith(said)


def test_a_list_that_is_given_flat_and_in_a_group_counts_once() -> None:
    route = next(each for each in ROUTES if each.rpc == "ReserveGPUs")
    flat, grouped, other = ({"args": args, "ports": [8000]} for args in (["a", "b"], ["a", "b"], ["a"]))
    for body in ({**flat, "config": grouped}, {"args": None, "config": grouped}, {**flat, "config": {"args": None}}):
        made = request_of(route, Received(path={}, body=json.dumps(body).encode()))
        assert isinstance(made, pb.ReserveGPUsRequest)
        assert (list(made.args), list(made.ports)) == (["a", "b"], [8000])
    said = _refused("ReserveGPUs", body=json.dumps({**flat, "config": other}).encode())
    assert said == "config.args: differs from args; give only one of them"


def test_a_call_without_fields_says_so() -> None:
    said = _refused("ReleaseReservation", query={"force": ["1"]})
    assert said == "force: is not a field of this call, which has no fields here"


@pytest.mark.parametrize("rpc", EVERY_CALL)
def test_every_call_names_its_valid_fields(rpc: str) -> None:
    for route in ROUTES:
        if route.rpc == rpc:
            path = dict.fromkeys(route.path_fields, "1")
            body, query = (b'{"zzz": 1}', {}) if route.has_body else (b"", {"zzz": ["1"]})
            with pytest.raises(InvalidArgument, match="zzz: is not a field of this call") as refused:
                request_of(route, Received(path=path, body=body, query=query))
            names = set(route.method.input_type.fields_by_name) - set(route.path_fields)
            assert all(name in str(refused.value) for name in names)
