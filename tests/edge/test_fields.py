"""Validation: every rule about a field, over a real channel; invalid requests never reach the engine."""

import base64
import struct
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode

from gpuproxy.edge.messages.demands import Defaults, create_demand, reserve_demand
from gpuproxy.edge.rpc.listing import list_query
from gpuproxy.model.demands import DEFAULT_IMAGE, DEFAULT_READY_TIMEOUT
from gpuproxy.model.errors import InvalidArgument
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.edge.engine import StubEngine, service_over
from tests.edge.face import facing

NAN, INF = float("nan"), float("inf")
MARKETPLACES = {"vast": "vast.ai", "ionet": "io.net"}
DEFAULTS = Defaults(max_price=10.0, marketplaces=MARKETPLACES)
SECRET = "hunter2-canary"


def ssh_key(kind: str = "ssh-ed25519", inner: str = "") -> str:
    blob = struct.pack(">I", len(inner or kind)) + (inner or kind).encode() + struct.pack(">I", 32) + b"k" * 32
    return f"{kind} {base64.b64encode(blob).decode()} me@home"


def ecdsa_key() -> str:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    return public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def auth(**fields: str) -> pb.RegistryAuth:
    return pb.RegistryAuth(**{"server": "ghcr.io", "username": "me", "secret": SECRET} | fields)


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("count", {"count": 0}),
    ("count", {"count": 17}),
    ("count", {"count": -1}),
    ("provider", {"provider": "aws"}),
    ("provider", {"provider": "vast"}),
    ("min_vram", {"min_vram": -1.0}),
    ("min_vram", {"min_vram": NAN}),
    ("max_price", {"max_price": -0.01}),
    ("max_price", {"max_price": INF}),
    ("max_price", {"max_price": -INF}),
    ("gpu_model", {"gpu_model": "x" * 200}),
    ("location", {"location": "U\nS"}),
    ("min_reliability", {"min_reliability": 1.01}),
    ("min_reliability", {"min_reliability": NAN}),
    ("min_cuda", {"min_cuda": -12.1}),
    ("min_cpu_cores", {"min_cpu_cores": -1}),
    ("min_cpu_cores", {"min_cpu_cores": 10_001}),
    ("min_ram_gb", {"min_ram_gb": NAN}),
    ("min_ram_gb", {"min_ram_gb": 100_001}),
    ("min_disk_bandwidth", {"min_disk_bandwidth": -0.5}),
    ("min_disk_bandwidth", {"min_disk_bandwidth": INF}),
    ("min_inet_down", {"min_inet_down": -1}),
    ("min_inet_down", {"min_inet_down": 1e9}),
    ("min_inet_up", {"min_inet_up": NAN}),
    ("min_inet_up", {"min_inet_up": 1e9}),
    ("max_traffic_price", {"max_traffic_price": -0.01}),
    ("max_traffic_price", {"max_traffic_price": NAN}),
    ("max_traffic_price", {"max_traffic_price": 1001}),
    ("exclude_hosts", {"exclude_hosts": [str(i) for i in range(257)]}),
    ("exclude_hosts[0]", {"exclude_hosts": ["x" * 200]}),
    ("strategy", {"strategy": "fastest"}),
    ("packing", {"packing": "tight"}),
    ("min_count", {"count": 4, "min_count": 5}),
    ("min_count", {"count": 4, "min_count": 0}),
    ("min_count", {"count": 4, "min_count": -1}),
    ("image", {"image": "Pytorch/Pytorch"}),
    ("image", {"image": "pytorch:tag with space"}),
    ("image", {"image": "img; rm -rf /"}),
    ("image", {"image": "a/" * 300 + "b"}),
    ("image", {"image": "ghcr.io/org/img@sha256:abc"}),
    ("registry_auth.server", {"registry_auth": auth(server="http://ghcr.io")}),
    ("registry_auth.username", {"registry_auth": auth(username="")}),
    ("registry_auth.secret", {"registry_auth": auth(secret="")}),
    ("env", {"env": {"1ABC": "x"}}),
    ("env", {"env": {"-p 8080:8080": "1"}}),
    ("env", {"env": {"": "x"}}),
    ("env.A", {"env": {"A": "nul\0"}}),
    ("env", {"env": {f"N{i}": "" for i in range(129)}}),
    ("env", {"env": {"A": "x" * 33_000}}),
    ("secret_env", {"secret_env": {"A B": SECRET}}),
    ("secret_env", {"env": {"A": "1"}, "secret_env": {"A": SECRET}}),
    ("ports[0]", {"ports": [0]}),
    ("ports[1]", {"ports": [22, 65536]}),
    ("ports[0]", {"ports": [-22]}),
    ("ports", {"ports": list(range(1, 70))}),
    ("disk_gb", {"disk_gb": 7.9}),
    ("disk_gb", {"disk_gb": -1}),
    ("disk_gb", {"disk_gb": NAN}),
    ("disk_gb", {"disk_gb": 1e9}),
    ("ssh_public_keys[0]", {"ssh_public_keys": ["ssh-ed25519"]}),
    ("ssh_public_keys[0]", {"ssh_public_keys": ["-----BEGIN OPENSSH PRIVATE KEY-----"]}),
    ("ssh_public_keys[0]", {"ssh_public_keys": [ssh_key(inner="ssh-rsa")]}),
    ("ssh_public_keys[1]", {"ssh_public_keys": [ssh_key(), ssh_key().replace(" me", "\nssh-rsa")]}),
    ("onstart", {"onstart": "x" * 65_537}),
    ("ssh_public_keys", {"ssh_public_keys": [ssh_key()], "run_mode": "entrypoint"}),
    ("run_mode", {"run_mode": "vnc"}),
    ("args", {"args": ["x"] * 129}),
    ("request_id", {"request_id": "r" * 129}),
    ("request_id", {"request_id": "a\nb"}),
    ("lease_duration", {"lease_duration": Duration(seconds=-1)}),
    ("lease_duration", {"lease_duration": Duration(seconds=315_576_000_000)}),
    ("ready_timeout", {"ready_timeout": Duration(nanos=-5)}),
    ("ready_timeout", {"ready_timeout": Duration(nanos=2**31 - 1)}),
    ("ready_timeout", {"ready_timeout": Duration(seconds=1, nanos=-1)}),
    ("ready_timeout", {"ready_timeout": Duration(seconds=86_400, nanos=1)}),
    ("lease_duration", {"lease_duration": Duration(nanos=1)}),
    ("lease_duration", {"lease_duration": Duration(nanos=999)}),
    ("lease_duration", {"lease_duration": Duration(seconds=3600, nanos=10**9)}),
    ("release_idle_after", {"release_idle_after": Duration(nanos=1)}),
    ("release_idle_after", {"release_idle_after": Duration(seconds=599)}),
    ("release_idle_after", {"release_idle_after": Duration(seconds=-600)}),
    ("release_idle_after", {"release_idle_after": Duration(seconds=315_576_000_000)}),
    ("wait_for", {"wait_for": "forever"}),
    ("on_not_ready", {"on_not_ready": "cry"}),
    ("labels", {"labels": {"": "x"}}),
    ("labels", {"labels": {"k" * 64: "x"}}),
    ("labels.team", {"labels": {"team": "v" * 256}}),
    ("labels", {"labels": {f"k{i}": "" for i in range(65)}}),
]


@pytest.mark.parametrize(("field", "fields"), WRONG, ids=[f"{field}-{at}" for at, (field, _) in enumerate(WRONG)])
async def test_an_invalid_field_is_named_and_the_engine_is_not_called(field: str, fields: dict[str, Any]) -> None:
    engine = StubEngine()
    async with facing(service_over(engine)) as face:
        refused = await face.refused("ReserveGPUs", pb.ReserveGPUsRequest(**{"count": 1} | fields))
    assert (refused.code, refused.info.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert field in refused.fields
    assert SECRET not in refused.text + str(refused.trailers)
    assert not engine.demands


RIGHT: list[dict[str, Any]] = [
    {},
    {"count": 16},
    {"provider": "all"},
    {"provider": "Vast.AI"},
    {"provider": "io.net"},
    {"image": "ubuntu"},
    {"image": "nvidia/cuda:12.1.0-devel-ubuntu22.04"},
    {"image": "localhost:5000/a/b_c/d-e.f:1.0_x"},
    {"image": "ghcr.io/org/img:v1@sha256:" + "0" * 64},
    {"registry_auth": auth()},
    {"registry_auth": auth(server="")},
    {"env": {"_A1": "multi\nline", "B": ""}},
    {"ports": [1, 65535]},
    {"disk_gb": 8},
    {"ssh_public_keys": [ssh_key(), ecdsa_key()]},
    {"min_count": 1},
    {"strategy": "Round-Robin"},
    {"request_id": "r" * 128},
    {"labels": {"k" * 63: "v" * 255}},
    {"lease_duration": Duration(seconds=3600)},
    {"release_idle_after": Duration(seconds=600)},
]


@pytest.mark.parametrize("fields", RIGHT, ids=[str(at) for at in range(len(RIGHT))])
async def test_values_at_the_limits_are_accepted(fields: dict[str, Any]) -> None:
    engine = StubEngine()
    async with facing(service_over(engine)) as face:
        await face.call("ReserveGPUs", pb.ReserveGPUsRequest(**{"count": 1} | fields))
    assert len(engine.demands) == 1


async def test_all_violations_are_reported_together_with_the_valid_words() -> None:
    request = pb.ReserveGPUsRequest(count=99, provider="aws", strategy="best", packing="tight", max_price=NAN)
    async with facing(service_over(StubEngine())) as face:
        refused = await face.refused("ReserveGPUs", request)
    assert refused.fields.keys() == {"count", "provider", "strategy", "packing", "max_price"}
    assert "least_connections" in refused.fields["strategy"]
    assert "single_host" in refused.fields["packing"]
    assert "vast.ai" in refused.fields["provider"]


OTHERS: list[tuple[str, str, Message]] = [
    ("ListGPUInstances", "provider", pb.ListGPUInstancesRequest(provider="aws")),
    ("ListGPUInstances", "min_vram", pb.ListGPUInstancesRequest(min_vram=NAN)),
    ("ListGPUInstances", "max_price", pb.ListGPUInstancesRequest(max_price=-1)),
    ("ListGPUInstances", "num_gpus", pb.ListGPUInstancesRequest(num_gpus=-1)),
    ("ListGPUInstances", "disk_gb", pb.ListGPUInstancesRequest(disk_gb=1)),
    ("ListGPUInstances", "order_by", pb.ListGPUInstancesRequest(order_by="colour")),
    ("ListGPUInstances", "order_by", pb.ListGPUInstancesRequest(order_by="vram_gb down")),
    ("ListGPUInstances", "page_size", pb.ListGPUInstancesRequest(page_size=-1)),
    ("ListGPUInstances", "page_token", pb.ListGPUInstancesRequest(page_token="!")),
    ("ListGPUInstances", "page_token", pb.ListGPUInstancesRequest(page_token="WzEsMl0=")),
    ("ListGPUInstances", "state", pb.ListGPUInstancesRequest(state="gone")),
    ("GetGPUInstance", "instance_id", pb.GetGPUInstanceRequest(provider="vast.ai")),
    ("GetGPUInstance", "instance_id", pb.GetGPUInstanceRequest(instance_id="vast-123")),
    ("GetGPUInstance", "provider", pb.GetGPUInstanceRequest(provider="aws", instance_id="123")),
    ("DestroyGPUInstance", "instance_id", pb.DestroyGPUInstanceRequest(provider="vast.ai", instance_id="vast-123")),
    ("DestroyGPUInstance", "instance_id", pb.DestroyGPUInstanceRequest(provider="vast.ai", instance_id="1 2")),
    ("CreateGPUInstance", "instance_id", pb.CreateGPUInstanceRequest(provider="vast.ai", instance_id="123")),
    ("CreateGPUInstance", "instance_id", pb.CreateGPUInstanceRequest(provider="io.net", instance_id="vast-123")),
    ("CreateGPUInstance", "instance_id", pb.CreateGPUInstanceRequest()),
    ("CreateGPUInstance", "image", pb.CreateGPUInstanceRequest(instance_id="vast-1", image="A B")),
    (
        "CreateGPUInstance",
        "release_idle_after",
        pb.CreateGPUInstanceRequest(instance_id="vast-1", release_idle_after=Duration(seconds=60)),
    ),
    ("CreateGPUInstance", "ports[0]", pb.CreateGPUInstanceRequest(instance_id="vast-1", ports=[70000])),
    ("CreateGPUInstance", "max_price", pb.CreateGPUInstanceRequest(instance_id="vast-1", max_price=NAN)),
    ("GetReservation", "reservation_id", pb.GetReservationRequest()),
    ("GetReservation", "reservation_id", pb.GetReservationRequest(reservation_id="a b")),
    ("ReleaseReservation", "reservation_id", pb.ReleaseReservationRequest()),
    ("ExtendReservation", "expires_at", pb.ExtendReservationRequest(reservation_id="r")),
    (
        "ExtendReservation",
        "expires_at",
        pb.ExtendReservationRequest(reservation_id="r", expires_at=Timestamp(seconds=2**31, nanos=10**9)),
    ),
    ("ListReservations", "page_size", pb.ListReservationsRequest(page_size=-1)),
    ("GetLoadInfo", "type", pb.GetLoadInfoRequest(type="disk")),
    ("CreateAPIKey", "name", pb.CreateAPIKeyRequest()),
    ("CreateAPIKey", "role", pb.CreateAPIKeyRequest(name="n", role="root")),
    ("RevokeAPIKey", "id", pb.RevokeAPIKeyRequest()),
]


@pytest.mark.parametrize(
    ("name", "field", "request_"), OTHERS, ids=[f"{n}-{f}-{at}" for at, (n, f, _) in enumerate(OTHERS)]
)
async def test_invalid_fields_of_the_other_calls_are_named(name: str, field: str, request_: Message) -> None:
    engine = StubEngine()
    async with facing(service_over(engine)) as face:
        refused = await face.refused(name, request_)
    assert refused.code is StatusCode.INVALID_ARGUMENT
    assert field in refused.fields
    assert not engine.demands
    assert not engine.asked


def test_unset_fields_get_the_documented_defaults() -> None:
    demand = reserve_demand(pb.ReserveGPUsRequest(count=3), DEFAULTS)
    assert demand.filter.max_price == 10.0
    assert demand.filter.verified_only
    assert demand.filter.providers == frozenset()
    assert (demand.filter.disk_gb, demand.spec.disk_gb) == (50, 50)
    assert (demand.packing, demand.strategy, demand.wait, demand.wait_for) == ("any", "", True, "created")
    assert (demand.ready_timeout, demand.on_not_ready) == (DEFAULT_READY_TIMEOUT, "replace")
    assert demand.lease_duration is None
    assert (demand.spec.image, demand.spec.run_mode, demand.spec.demanded) == (DEFAULT_IMAGE, "ssh", frozenset())


def test_an_explicit_false_is_not_the_default() -> None:
    demand = reserve_demand(pb.ReserveGPUsRequest(count=1, verified_only=False, wait=False), DEFAULTS)
    assert not demand.filter.verified_only
    assert not demand.wait


def test_only_what_the_caller_set_is_demanded() -> None:
    request = pb.ReserveGPUsRequest(count=1, image=DEFAULT_IMAGE, secret_env={"A": "b"}, onstart="x")
    assert reserve_demand(request, DEFAULTS).spec.demanded == {"image", "secret_env", "onstart"}


@pytest.mark.parametrize(
    ("fields", "cuda", "assumed", "compute_cap"),
    [
        ({}, 12.1, True, 5.0),
        ({"image": "nvidia/cuda:13.0.1-base"}, 13.0, True, 7.5),
        ({"image": "a/b:cu128"}, 12.8, True, 5.0),
        ({"image": "localhost:5000/cuda11.8/img:latest"}, 0.0, True, 0.0),
        ({"image": "a/b:2.1.0-cuda12.1", "min_cuda": 11.8}, 11.8, False, 5.0),
        ({"min_cuda": 12.8}, 12.8, False, 5.0),
    ],
)
def test_the_image_says_which_cuda_and_which_gpus_it_needs_unless_the_caller_says_more(
    fields: dict[str, Any], cuda: float, assumed: bool, compute_cap: float
) -> None:
    wanted = reserve_demand(pb.ReserveGPUsRequest(count=1, **fields), DEFAULTS).filter
    assert (wanted.min_cuda, wanted.cuda_assumed, wanted.min_compute_cap) == (cuda, assumed, compute_cap)


def test_an_offer_that_the_caller_chose_is_not_measured_by_the_image() -> None:
    request = pb.CreateGPUInstanceRequest(instance_id="vast-1", image="nvidia/cuda:13.0.1-base", ports=[1, 2])
    wanted = create_demand(request, DEFAULTS).filter
    assert (wanted.min_cuda, wanted.min_compute_cap, wanted.ports) == (0.0, 0.0, 0)


BOUNDS: dict[str, float] = {
    "min_cpu_cores": 16,
    "min_ram_gb": 64.5,
    "min_disk_bandwidth": 900,
    "min_inet_down": 500,
    "min_inet_up": 100,
    "max_traffic_price": 0.0,
}


def test_filters_of_machines_are_the_same_for_reservations_and_lists() -> None:
    reserved = reserve_demand(pb.ReserveGPUsRequest(count=1, **BOUNDS), DEFAULTS).filter  # type: ignore[arg-type]
    listed = list_query(pb.ListGPUInstancesRequest(**BOUNDS), DEFAULTS).filter  # type: ignore[arg-type]
    for name, value in BOUNDS.items():
        assert getattr(reserved, name) == getattr(listed, name) == value
    unset = reserve_demand(pb.ReserveGPUsRequest(count=1), DEFAULTS).filter
    assert {name: getattr(unset, name) for name in BOUNDS} == {**dict.fromkeys(BOUNDS, 0), "max_traffic_price": None}


def test_same_model_is_off_unless_asked_for() -> None:
    asked = reserve_demand(pb.ReserveGPUsRequest(count=1, same_model=True), DEFAULTS)
    assert (asked.alike.model, asked.alike.country) == (True, False)
    assert not reserve_demand(pb.ReserveGPUsRequest(count=1), DEFAULTS).alike


@pytest.mark.parametrize("word", ["replace", "release", "keep", "RELEASE", " Keep "])
def test_what_happens_to_a_machine_that_is_not_ready_is_one_of_three_words(word: str) -> None:
    demand = reserve_demand(pb.ReserveGPUsRequest(count=1, on_not_ready=word), DEFAULTS)
    assert demand.on_not_ready == word.strip().lower()


def test_another_word_for_a_machine_that_is_not_ready_is_refused_with_the_three() -> None:
    with pytest.raises(InvalidArgument, match="must be one of replace, release, keep, not 'drop'"):
        reserve_demand(pb.ReserveGPUsRequest(count=1, on_not_ready="drop"), DEFAULTS)


def test_the_defaults_that_can_exclude_offers_are_known() -> None:
    assert reserve_demand(pb.ReserveGPUsRequest(count=1), DEFAULTS).defaulted == {
        "verified_only", "max_price", "disk_gb",
    }  # fmt: skip
    given = pb.ReserveGPUsRequest(count=1, verified_only=True, max_price=1, disk_gb=50)
    assert reserve_demand(given, DEFAULTS).defaulted == frozenset()


def test_as_many_direct_ports_are_needed_as_different_ports_were_asked_for() -> None:
    demand = reserve_demand(pb.ReserveGPUsRequest(count=1, ports=[80, 443, 80], same_country=True), DEFAULTS)
    assert (demand.filter.ports, demand.same_country) == (2, True)
    plain = reserve_demand(pb.ReserveGPUsRequest(count=1), DEFAULTS)
    assert (plain.filter.ports, plain.same_country) == (0, False)


def test_the_servers_lease_duration_applies_where_the_caller_names_none() -> None:
    defaults = Defaults(max_price=1.0, lease_duration=timedelta(hours=2))
    own = pb.ReserveGPUsRequest(count=1, lease_duration=Duration(seconds=60))
    assert reserve_demand(own, defaults).lease_duration == timedelta(minutes=1)
    assert reserve_demand(pb.ReserveGPUsRequest(count=1), defaults).lease_duration == timedelta(hours=2)


def test_the_error_for_a_too_short_lease_does_not_say_that_0_has_no_end() -> None:
    with pytest.raises(InvalidArgument, match="at least 10 s, or 0 for the server's GPUPROXY_LEASE_DURATION"):
        reserve_demand(pb.ReserveGPUsRequest(count=1, lease_duration=Duration(seconds=9)), DEFAULTS)


def test_secrets_are_not_in_the_repr_of_a_demand() -> None:
    request = pb.ReserveGPUsRequest(count=1, secret_env={"TOKEN": SECRET}, registry_auth=auth())
    assert SECRET not in repr(reserve_demand(request, DEFAULTS))


@pytest.mark.parametrize("field", ["labels", "env", "secret_env"])
def test_faults_of_a_map_are_reported_in_the_order_of_its_keys(field: str) -> None:
    long = "v" * 256 if field == "labels" else "\0"
    faulty = [("a", long), ("b", long), *((f"c{i}\x1f", "") for i in range(8)), ("d", long)]
    told = []
    for entries in (faulty, faulty[::-1]):
        request = pb.ReserveGPUsRequest(count=1)
        getattr(request, field).update(dict(entries))
        with pytest.raises(InvalidArgument) as refused:
            reserve_demand(request, DEFAULTS)
        told.append([violation.field for violation in refused.value.violations])
    assert told[0] == told[1] == [f"{field}.a", f"{field}.b", *[field] * 8, f"{field}.d"]


def test_an_idle_machine_is_released_only_if_the_caller_says_after_what_time() -> None:
    asked = Duration(seconds=7200)
    reserve = pb.ReserveGPUsRequest(count=1, release_idle_after=asked)
    create = pb.CreateGPUInstanceRequest(instance_id="vast-1", release_idle_after=asked)
    assert reserve_demand(reserve, DEFAULTS).release_idle_after == timedelta(hours=2)
    assert create_demand(create, DEFAULTS).release_idle_after == timedelta(hours=2)
    assert reserve_demand(pb.ReserveGPUsRequest(count=1), DEFAULTS).release_idle_after == timedelta(0)
