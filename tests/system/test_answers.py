"""What callers of a real server are told when they ask for what can't be: the answers of the contract, section 1.3.

One market and one server for all of them; after each, the market has seen no create.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc import StatusCode
from grpc_status import rpc_status

from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.providers.test_vast_create import noise
from tests.system.processes import KIND, PATIENCE, UNPACED, Client, Market, Server, until

_TRACE = re.compile(r"[a-z2-7]{20}")
_NAN, _INF = float("nan"), float("inf")
INVALID, FAILED, MISSING = StatusCode.INVALID_ARGUMENT, StatusCode.FAILED_PRECONDITION, StatusCode.NOT_FOUND


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A refusal as a client reads it."""

    code: StatusCode
    text: str
    trace_id: str
    reason: str = ""
    domain: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    fields: tuple[str, ...] = ()
    retry_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """A market and the server in front of it."""

    market: Market
    server: Server
    client: Client

    def creates(self) -> int:
        return int(self.market.state()["calls"]["vast.ai"].get("create", 0))

    def refused(
        self,
        rpc: str,
        request: Message,
        *,
        metadata: tuple[tuple[str, str], ...] | None = None,
        seconds: float = PATIENCE,
    ) -> Told:
        said = self.client.metadata if metadata is None else metadata
        with pytest.raises(grpc.RpcError) as raised:
            getattr(self.client.stub, rpc)(request, metadata=said, timeout=seconds)
        return _told(raised.value)


@pytest.fixture(name="shop", scope="module")
def _shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    home = tmp_path_factory.mktemp("answers")
    with (
        Market(home, *KIND, "--machines", "40") as market,
        Server(home, market, **UNPACED) as server,
        server.client() as client,
    ):
        until(lambda: client.call("ListGPUInstances", pb.ListGPUInstancesRequest(verified_only=False)).instances)
        yield Shop(market=market, server=server, client=client)


def reserve(**fields: Any) -> pb.ReserveGPUsRequest:
    return pb.ReserveGPUsRequest(**{"count": 1, "max_price": 5} | fields)


BAD: list[tuple[str, str, Message]] = [
    ("ReserveGPUs", "count", reserve(count=0)),
    ("ReserveGPUs", "count", reserve(count=17)),
    ("ReserveGPUs", "provider", reserve(provider="aws")),
    ("ReserveGPUs", "strategy", reserve(strategy="fastest")),
    ("ReserveGPUs", "packing", reserve(packing="tight")),
    ("ReserveGPUs", "min_vram", reserve(min_vram=-1)),
    ("ReserveGPUs", "max_price", reserve(max_price=_NAN)),
    ("ReserveGPUs", "max_price", reserve(max_price=-_INF)),
    ("ReserveGPUs", "image", reserve(image="A B")),
    ("ReserveGPUs", "ports[0]", reserve(ports=[70_000])),
    ("ReserveGPUs", "env", reserve(env={"1A": "x"})),
    ("ReserveGPUs", "request_id", reserve(request_id="x" * 129)),
    ("CreateGPUInstance", "instance_id", pb.CreateGPUInstanceRequest(provider="vast.ai", instance_id="123")),
    ("DestroyGPUInstance", "instance_id", pb.DestroyGPUInstanceRequest(provider="vast.ai", instance_id="vast-1")),
    ("ListGPUInstances", "min_vram", pb.ListGPUInstancesRequest(min_vram=_NAN)),
    ("GetReservation", "reservation_id", pb.GetReservationRequest(reservation_id="a b")),
    ("SetLoadBalancerStrategy", "strategy", pb.SetLoadBalancerStrategyRequest(strategy="fastest")),
]


@pytest.mark.parametrize(("rpc", "field_", "request_"), BAD, ids=[f"{r}-{f}-{n}" for n, (r, f, _) in enumerate(BAD)])
def test_bad_input_is_named_by_its_field(shop: Shop, rpc: str, field_: str, request_: Message) -> None:
    told = shop.refused(rpc, request_)
    assert (told.code, told.reason, told.domain) == (INVALID, "INVALID_ARGUMENT", "gpuproxy.v1")
    assert field_ in told.fields
    assert shop.creates() == 0


def test_a_start_script_that_is_too_long_for_the_marketplace_is_refused_with_its_size(shop: Shop) -> None:
    told = shop.refused("ReserveGPUs", reserve(onstart=noise(40_000), request_id="long"))
    assert (told.code, told.reason, told.fields) == (INVALID, "INVALID_ARGUMENT", ("onstart",))
    assert re.search(r"is [0-9]{2},[0-9]{3} characters after compression; vast\.ai takes at most 4,048", told.text)
    _nothing_happened(shop)


def test_at_most_fifty_violations_are_reported(shop: Shop) -> None:
    told = shop.refused("ReserveGPUs", reserve(ports=[70_000 + n for n in range(60)]))
    assert 1 <= len(told.fields) <= 50
    assert shop.creates() == 0


def test_more_than_there_is_is_refused_with_what_there_is(shop: Shop) -> None:
    told = shop.refused("ReserveGPUs", reserve(count=16, gpu_model="H100 SXM", max_price=0.01))
    assert (told.code, told.reason) == (FAILED, "NOT_ENOUGH_GPUS")
    assert (told.metadata["requested"], told.metadata["available"]) == ("16", "0")
    assert {"sizes", "unreachable"} <= told.metadata.keys()
    assert "Nothing was rented" in told.text
    _nothing_happened(shop)


def test_fewer_than_min_count_is_refused_but_says_the_nearest_price(shop: Shop) -> None:
    told = shop.refused("ReserveGPUs", reserve(count=4, min_count=2, max_price=0.02, verified_only=False))
    assert (told.code, told.reason) == (FAILED, "NOT_ENOUGH_GPUS")
    assert float(told.metadata["nearest_price"]) > 0.02
    _nothing_happened(shop)


def test_singles_that_do_not_suffice_are_not_enough(shop: Shop) -> None:
    told = shop.refused("ReserveGPUs", reserve(count=16, packing="single_host", max_price=0.3))
    assert (told.code, told.reason) == (FAILED, "NOT_ENOUGH_GPUS")
    _nothing_happened(shop)


def test_an_offer_that_is_not_on_the_market_is_gone(shop: Shop) -> None:
    told = shop.refused("CreateGPUInstance", pb.CreateGPUInstanceRequest(provider="vast.ai", instance_id="vast-1"))
    assert (told.code, told.reason) == (FAILED, "OFFER_GONE")
    _nothing_happened(shop)


@pytest.mark.parametrize(
    ("rpc", "request_"),
    [
        ("GetGPUInstance", pb.GetGPUInstanceRequest(provider="vast.ai", instance_id="999")),
        ("DestroyGPUInstance", pb.DestroyGPUInstanceRequest(provider="vast.ai", instance_id="999")),
        ("GetReservation", pb.GetReservationRequest(reservation_id="res-nobodys")),
        ("ReleaseReservation", pb.ReleaseReservationRequest(reservation_id="res-nobodys")),
        (
            "ExtendReservation",
            pb.ExtendReservationRequest(reservation_id="res-nobodys", expires_at=Timestamp(seconds=4_000_000_000)),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_machine_that_the_database_does_not_know_is_not_found(shop: Shop, rpc: str, request_: Message) -> None:
    told = shop.refused(rpc, request_)
    assert (told.code, told.reason) == (MISSING, "NOT_FOUND")
    assert shop.market.state()["calls"]["vast.ai"].get("destroy", 0) == 0


@pytest.mark.parametrize(
    "metadata",
    [(), (("x-api-key", "gp_wrong"),), (("authorization", "Bearer gp_wrong"),)],
    ids=["none", "key", "bearer"],
)
def test_a_call_without_a_valid_key_is_refused_without_a_reason(
    shop: Shop, metadata: tuple[tuple[str, str], ...]
) -> None:
    told = shop.refused("ReserveGPUs", reserve(), metadata=metadata)
    assert (told.code, told.reason) == (StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert told.text == shop.refused("ListReservations", pb.ListReservationsRequest(), metadata=()).text
    assert shop.creates() == 0


def test_a_viewer_may_look_and_not_rent(shop: Shop) -> None:
    key = shop.client.call("CreateAPIKey", pb.CreateAPIKeyRequest(name="v", role="viewer")).api_key
    told = shop.refused("ReserveGPUs", reserve(), metadata=(("x-api-key", key),))
    assert (told.code, told.reason) == (StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    _nothing_happened(shop)


def test_a_dry_run_rents_nothing_and_says_what_it_would_cost(shop: Shop) -> None:
    answer = shop.client.call("ReserveGPUs", reserve(count=2, dry_run=True, verified_only=False))
    assert not answer.reservation_id
    assert not answer.reserved_instances
    assert "nothing was rented" in answer.message
    assert answer.price_per_hour > 0
    _nothing_happened(shop)


@pytest.mark.parametrize(
    ("fault", "code", "reason"),
    [
        ("insufficient_credit", FAILED, "PROVIDER_FUNDS"),
        ("auth_error", FAILED, "PROVIDER_CREDENTIALS"),
        ("rate_limited", StatusCode.UNAVAILABLE, "CREATE_QUEUE"),  # it waits for its turn until the call ends
        ("offer_gone", StatusCode.INTERNAL, "INSTANCE_CREATION_FAILED"),
    ],
)
def test_when_every_create_is_refused_the_reason_is_the_marketplaces(
    tmp_path: Any, fault: str, code: StatusCode, reason: str
) -> None:
    with Market(tmp_path, *KIND, "--machines", "4", "--time-scale", "50") as market:
        market.arm("create", fault, times=0)
        with Server(tmp_path, market, GPUPROXY_TIME_SCALE="50", **UNPACED) as server, server.client() as client:
            shop = Shop(market=market, server=server, client=client)
            until(client.knows_offers)
            for number in range(5):  # on a busy machine the client's own deadline may pass before the answer arrives
                # A repeat under the same request_id would find the first reservation, whose creates still wait.
                told = shop.refused("ReserveGPUs", reserve(verified_only=False, request_id=f"r{number}"), seconds=20)
                if told.code is not StatusCode.DEADLINE_EXCEEDED and told.reason != "UNAVAILABLE":
                    break
            assert (told.code, told.reason) == (code, reason)
            assert market.state()["instances"] == []
            until(lambda: client.instances() == [])


def test_a_market_that_never_answered_is_unavailable_and_never_too_small(tmp_path: Any) -> None:
    with Market(tmp_path, *KIND, "--machines", "4") as market:
        market.arm("search", "status_500_before", times=0)
        with Server(tmp_path, market, **UNPACED) as server, server.client() as client:
            told = Shop(market=market, server=server, client=client).refused("ReserveGPUs", reserve())
            assert told.code is StatusCode.UNAVAILABLE
            assert told.retry_seconds is not None
            assert told.retry_seconds > 0
            assert market.state()["calls"]["vast.ai"].get("create", 0) == 0


def test_a_request_id_names_one_demand(tmp_path: Any) -> None:
    with (
        Market(tmp_path, *KIND, "--machines", "10") as market,
        Server(tmp_path, market, **UNPACED) as server,
        server.client() as client,
    ):
        shop = Shop(market=market, server=server, client=client)
        until(client.knows_offers)
        first = client.call("ReserveGPUs", reserve(verified_only=False, request_id="r"))
        again = client.call("ReserveGPUs", reserve(verified_only=False, request_id="r"))
        assert again.reservation_id == first.reservation_id
        told = shop.refused("ReserveGPUs", reserve(verified_only=False, request_id="r", count=2))
        assert (told.code, told.reason) == (StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
        assert shop.creates() == 1


def _nothing_happened(shop: Shop) -> None:
    """Nothing was rented, and nothing was stored."""
    assert shop.creates() == 0
    assert not shop.client.call("ListReservations", pb.ListReservationsRequest()).reservations


def _told(error: grpc.RpcError) -> Told:
    """Every refusal of the server has an ErrorInfo and a trace id, whatever it says."""
    trailers = dict(error.trailing_metadata() or ())
    if error.code() is StatusCode.DEADLINE_EXCEEDED and not trailers:  # the client's own: no server said it
        return Told(code=error.code(), text=error.details() or "", trace_id="")
    assert _TRACE.fullmatch(trailers.get("x-trace-id", "")), trailers
    status = rpc_status.from_call(error)
    assert status is not None
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    has_retry = False
    for packed in status.details:
        for kind in (info, bad, retry):
            if packed.Is(kind.DESCRIPTOR):
                packed.Unpack(kind)
                has_retry = has_retry or kind is retry
    return Told(
        code=error.code(),
        text=error.details() or "",
        trace_id=trailers["x-trace-id"],
        reason=info.reason,
        domain=info.domain,
        metadata=dict(info.metadata),
        fields=tuple(violation.field for violation in bad.field_violations),
        retry_seconds=retry.retry_delay.ToTimedelta().total_seconds() if has_retry else None,
    )
