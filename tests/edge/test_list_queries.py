"""A listing request that was validated before is not validated again, and every other one is."""

import pytest

from gpuproxy.edge.messages.demands import Defaults
from gpuproxy.edge.rpc import listing
from gpuproxy.model.errors import InvalidArgument
from gpuproxy.v1 import gpuproxy_pb2 as pb

DEFAULTS = Defaults(max_price=2.0, lease_duration=None, marketplaces={"vast": "vast.ai"}, fingerprint_key=b"key")


def test_the_same_request_has_the_same_query_and_another_one_its_own() -> None:
    queries = listing.Queries(DEFAULTS)
    first = queries.of(pb.ListGPUInstancesRequest(min_vram=16))
    assert queries.of(pb.ListGPUInstancesRequest(min_vram=16)) is first
    assert queries.of(pb.ListGPUInstancesRequest(min_vram=24)).filter.min_vram == 24
    assert queries.of(pb.ListGPUInstancesRequest(min_vram=16, verified_only=False)).filter.verified_only is False
    assert first == listing.list_query(pb.ListGPUInstancesRequest(min_vram=16), DEFAULTS)


def test_an_invalid_request_is_refused_each_time() -> None:
    queries = listing.Queries(DEFAULTS)
    for _ in range(3):
        with pytest.raises(InvalidArgument):
            queries.of(pb.ListGPUInstancesRequest(page_size=-1))


def test_clients_can_not_make_it_keep_more_than_a_limit() -> None:
    queries = listing.Queries(DEFAULTS)
    for size in range(1000):
        queries.of(pb.ListGPUInstancesRequest(page_size=size))
        queries.of(pb.ListGPUInstancesRequest(order_by=" " * 2000, page_size=size))
    assert len(queries._known) <= 256
    assert max(map(len, queries._known)) <= 1024
