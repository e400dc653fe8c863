"""Times and durations of requests: what is wrong with one is said, and a set duration is never 0."""

from datetime import timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from gpuproxy.edge.messages.demands import Defaults, extend_until, reserve_demand
from gpuproxy.model.errors import InvalidArgument
from gpuproxy.v1 import gpuproxy_pb2 as pb


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (Timestamp(seconds=2**31, nanos=2**31 - 1), "nanos must be 0 to 999999999"),
        (Timestamp(seconds=2**31, nanos=-1), "nanos must be 0 to 999999999"),
        (Timestamp(seconds=2**62), "is not a time before the year 9999"),
        (Timestamp(seconds=-(2**62)), "is before the year 1"),
    ],
)
def test_the_error_for_a_time_says_what_is_wrong_with_it(at: Timestamp, text: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        extend_until(pb.ExtendReservationRequest(reservation_id="r", expires_at=at))
    assert [(each.field, each.description) for each in refused.value.violations] == [("expires_at", text)]


def test_a_set_duration_is_never_rounded_to_zero() -> None:
    request = pb.ReserveGPUsRequest(count=1, ready_timeout=Duration(nanos=1))
    assert reserve_demand(request, Defaults(max_price=2.0)).ready_timeout == timedelta(microseconds=1)
