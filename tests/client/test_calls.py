"""The client's requests, and how it reads the answers, on a test channel."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import grpc_testing
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from gpuproxy import Client
from gpuproxy.client import (
    GPUProxyError,
    InvalidArgument,
    NotBuilt,
    NotEnoughGPUs,
    NotFound,
    Unavailable,
    WrongArgument,
)
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.cli.world import error

CONTRACT = pb.DESCRIPTOR.services_by_name["GPUProxyService"]
CODES = {code.value[0]: code for code in grpc.StatusCode}


class OtherEnd:
    """A client on a channel of grpc_testing: `begin` a call, then answer it as the server."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._channel = grpc_testing.channel([CONTRACT], grpc_testing.strict_real_time())
        self.client = Client("x:1", "gpx-key", channel=self._channel)

    def begin(self, call: Callable[[Client], Any]) -> "Future[Any]":
        return self._pool.submit(call, self.client)

    def sent(self, name: str) -> tuple[Any, dict[str, str], Any]:
        metadata, request, rpc = self._channel.take_unary_unary(CONTRACT.methods_by_name[name])
        rpc.send_initial_metadata(())
        return request, dict(metadata), rpc

    def answers(self, name: str, message: Any) -> Any:
        request, _, rpc = self.sent(name)
        rpc.terminate(message, (), grpc.StatusCode.OK, "")
        return request

    def refuses(self, name: str, status: Any) -> Any:
        request, _, rpc = self.sent(name)
        rich = rpc_status.to_status(status)
        rpc.terminate(None, (*rich.trailing_metadata, ("x-trace-id", "trace-1")), rich.code, rich.details)
        return request


@pytest.fixture
def end() -> Iterator[OtherEnd]:
    pool = ThreadPoolExecutor(max_workers=1)
    yield OtherEnd(pool)
    pool.shutdown(wait=False)


def test_every_reservation_carries_the_key_and_a_request_id_of_its_own(end: OtherEnd) -> None:
    ids = []
    for _ in range(2):
        call = end.begin(lambda client: client.reserve(4, provider="vast.ai", min_vram=16, max_price=2.0))
        request, metadata, rpc = end.sent("ReserveGPUs")
        rpc.terminate(pb.ReserveGPUsResponse(reservation_id="res-1", reserved_count=4), (), grpc.StatusCode.OK, "")
        assert (request.count, request.provider, request.min_vram, request.max_price) == (4, "vast.ai", 16, 2.0)
        assert metadata["x-api-key"] == "gpx-key"
        assert call.result().view.request_id == request.request_id
        ids.append(request.request_id)
    assert all(ids)
    assert ids[0] != ids[1]


def test_the_callers_request_id_is_used(end: OtherEnd) -> None:
    end.begin(lambda client: client.reserve(1, request_id="train-7"))
    assert end.answers("ReserveGPUs", pb.ReserveGPUsResponse()).request_id == "train-7"


def test_a_call_through_the_stub_gets_a_request_id_too(end: OtherEnd) -> None:
    create = pb.CreateGPUInstanceRequest(provider="vast.ai", instance_id="vast-1")
    end.begin(lambda client: client.call(client.stub.CreateGPUInstance, create))
    assert end.answers("CreateGPUInstance", pb.CreateGPUInstanceResponse()).request_id


def test_one_request_object_sent_twice_is_two_rentals_and_is_not_changed(end: OtherEnd) -> None:
    asked, ids = pb.ReserveGPUsRequest(count=1), []
    for _ in range(2):
        call = end.begin(lambda client: client.call(client.stub.ReserveGPUs, asked))
        ids.append(end.answers("ReserveGPUs", pb.ReserveGPUsResponse()).request_id)
        call.result()
    assert asked == pb.ReserveGPUsRequest(count=1)
    assert len({*ids, ""}) == 3


def test_a_rental_by_the_stub_on_the_callers_channel_has_a_request_id(end: OtherEnd) -> None:
    asked = pb.ReserveGPUsRequest(count=1)
    end.begin(lambda client: client.stub.ReserveGPUs(asked))
    assert end.answers("ReserveGPUs", pb.ReserveGPUsResponse()).request_id
    end.begin(lambda client: client.stub.ReserveGPUs.with_call(asked))
    assert end.answers("ReserveGPUs", pb.ReserveGPUsResponse()).request_id
    end.begin(lambda client: client.stub.CreateGPUInstance.future(pb.CreateGPUInstanceRequest()))
    assert end.answers("CreateGPUInstance", pb.CreateGPUInstanceResponse()).request_id


def test_durations_are_sent_as_durations_and_ends_as_absolute_times(end: OtherEnd) -> None:
    made = end.begin(lambda client: client.reserve(1, lease_duration=timedelta(hours=2), release_idle_after=1200))
    request = end.answers("ReserveGPUs", pb.ReserveGPUsResponse(reservation_id="res-1"))
    assert request.lease_duration.ToTimedelta() == timedelta(hours=2)
    assert request.release_idle_after.ToTimedelta() == timedelta(minutes=20)
    until = datetime(2026, 1, 2, tzinfo=UTC)
    end.begin(lambda _: made.result().extend(until))
    assert end.answers("ExtendReservation", pb.ExtendReservationResponse()).expires_at.ToDatetime(UTC) == until
    with pytest.raises(ValueError, match="time zone"):
        made.result().extend(datetime(2026, 1, 2))  # noqa: DTZ001 - that is the mistake


@pytest.mark.parametrize(("until", "kind"), [("2h", "str"), (60, "int"), (timedelta(hours=2), "timedelta")])
def test_an_end_that_is_no_datetime_is_a_wrong_argument_with_its_type(end: OtherEnd, until: Any, kind: str) -> None:
    made = end.begin(lambda client: client.reserve(1))
    end.answers("ReserveGPUs", pb.ReserveGPUsResponse(reservation_id="res-1"))
    reservation = made.result()
    with pytest.raises(WrongArgument, match=f"until: must be a datetime with a time zone, not {kind}: the new end"):
        reservation.extend(until)


def test_a_plan_rents_nothing(end: OtherEnd) -> None:
    end.begin(lambda client: client.plan(2))
    assert end.answers("ReserveGPUs", pb.ReserveGPUsResponse()).dry_run


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        ("FAILED_PRECONDITION", "NOT_ENOUGH_GPUS", NotEnoughGPUs),
        ("INVALID_ARGUMENT", "INVALID_ARGUMENT", InvalidArgument),
        ("NOT_FOUND", "NOT_FOUND", NotFound),
        ("UNIMPLEMENTED", "NOT_IMPLEMENTED", NotBuilt),
        ("UNAVAILABLE", "STORM_BREAKER", Unavailable),
        ("DATA_LOSS", "", GPUProxyError),
    ],
)
def test_an_error_has_its_class_and_every_detail(end: OtherEnd, code: str, reason: str, kind: type) -> None:
    call = end.begin(lambda client: client.reserve(1, request_id="train-7"))
    status = error(getattr(grpc.StatusCode, code).value[0], "Not now.", reason, {"count": "must be 1-16"})
    retry, packed = error_details_pb2.RetryInfo(), Packed()
    retry.retry_delay.FromMilliseconds(2500)
    packed.Pack(retry)
    status.details.append(packed)
    end.refuses("ReserveGPUs", status)
    with pytest.raises(GPUProxyError) as caught:
        call.result()
    failure = caught.value
    assert type(failure) is kind
    assert (failure.code, failure.reason, failure.trace_id) == (code, reason, "trace-1")
    assert (dict(failure.violations), failure.retry_after) == ({"count": "must be 1-16"}, 2.5)
    assert (failure.request_id, str(failure).splitlines()[0]) == ("train-7", "Not now.")


def test_a_with_block_releases_its_machines_also_after_an_error(end: OtherEnd) -> None:
    def block(client: Client) -> None:
        with client.reserve(1):
            raise RuntimeError("training failed")

    call = end.begin(block)
    end.answers("ReserveGPUs", pb.ReserveGPUsResponse(reservation_id="res-1"))
    assert end.answers("ReleaseReservation", pb.ReleaseReservationResponse()).reservation_id == "res-1"
    with pytest.raises(RuntimeError, match="training failed"):
        call.result()


def test_a_failed_release_is_added_to_the_error_of_the_block(end: OtherEnd) -> None:
    def block(client: Client) -> None:
        with client.reserve(1):
            raise RuntimeError("training failed")

    call = end.begin(block)
    end.answers("ReserveGPUs", pb.ReserveGPUsResponse(reservation_id="res-1"))
    end.refuses("ReleaseReservation", error(14, "Nobody is here.", ""))
    with pytest.raises(RuntimeError, match="training failed") as caught:
        call.result()
    assert "res-1 was not released" in caught.value.__notes__[0]


def test_a_call_without_an_answer_is_found_by_its_request_id(end: OtherEnd) -> None:
    call = end.begin(lambda client: (client.find("train-7"), client.find("train 8"), client.find("train-9")))
    for code, reason in ((5, "NOT_FOUND"), (3, "INVALID_ARGUMENT")):
        end.refuses("GetReservation", error(code, "No.", reason, metadata={"request_id_of": "res-1"}))
        found = pb.GetReservationResponse(reservation=pb.Reservation(reservation_id="res-1"))
        assert end.answers("GetReservation", found).reservation_id == "res-1"
    assert end.refuses("GetReservation", error(5, "No.", "NOT_FOUND")).reservation_id == "train-9"
    first, second, nothing = call.result()
    assert (first.id, second.id, nothing) == ("res-1", "res-1", None)


def test_a_request_id_that_is_the_id_of_a_reservation_is_refused_and_not_unknown(end: OtherEnd) -> None:
    call = end.begin(lambda client: client.find("res-1"))
    end.answers("GetReservation", pb.GetReservationResponse(reservation=pb.Reservation(reservation_id="res-1")))
    with pytest.raises(InvalidArgument, match="res-1 is the id of a reservation"):
        call.result()


def test_a_search_that_fails_does_not_say_that_nothing_is_rented(end: OtherEnd) -> None:
    call = end.begin(lambda client: client.find("train-7"))
    end.refuses("GetReservation", error(7, "No.", "PERMISSION_DENIED"))
    with pytest.raises(GPUProxyError, match="No"):
        call.result()


@pytest.mark.parametrize("blank", ["", " "])
def test_a_blank_request_id_finds_nothing(end: OtherEnd, blank: str) -> None:
    with pytest.raises(InvalidArgument, match="request_id: must not be empty"):
        end.client.find(blank)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lease_duration", "1h"),
        ("lease_duration", True),
        ("ready_timeout", float("nan")),
        ("ready_timeout", 1e300),
        ("ports", [99999999999]),
        ("ports", 80),
        ("min_count", 2**31),
        ("min_vram", "much"),
        ("count", 10**20),
        ("count", "4"),
        ("env", {"A": 1}),
        ("image", "\udcff"),
        ("gpu_count", 2),
    ],
)
def test_an_invalid_argument_is_named_and_nothing_is_sent(end: OtherEnd, name: str, value: Any) -> None:
    demand: Any = {"count": 1, name: value}
    with pytest.raises(InvalidArgument, match=f"^{name}: ") as caught:
        end.client.reserve(**demand)
    assert list(caught.value.violations) == [name]


def test_invalid_filters_are_named_too(end: OtherEnd) -> None:
    with pytest.raises(InvalidArgument, match=r"^num_gpus: "):
        end.client.list(num_gpus=2**40)


def test_durations_may_be_seconds_and_zero_or_false_is_sent(end: OtherEnd) -> None:
    end.begin(
        lambda client: client.reserve(1, lease_duration=5400, ready_timeout=0.5, verified_only=False, min_count=0)
    )
    request = end.answers("ReserveGPUs", pb.ReserveGPUsResponse())
    assert request.lease_duration.ToTimedelta() == timedelta(minutes=90)
    assert request.ready_timeout.ToTimedelta() == timedelta(milliseconds=500)
    assert (request.HasField("verified_only"), request.verified_only) == (True, False)


def test_a_key_that_no_call_can_carry_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="api_key: the key must contain only ASCII letters, digits and _"):
        Client("x:1", "kéy")
