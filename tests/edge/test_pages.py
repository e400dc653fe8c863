"""Paged lists of offers and rented instances: entries that exist all the time are never missing, whatever changes."""

from dataclasses import replace
from typing import Any

import pytest
from grpc import StatusCode

from gpuproxy.model.errors import FailedPrecondition, Unavailable
from gpuproxy.model.leases import LeaseState
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import ProviderName
from gpuproxy.model.reasons import Reason
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.edge.engine import StubEngine, offer, service_over
from tests.edge.face import Face, facing
from tests.edge.http_face import both_faces
from tests.edge.test_service import ids, listed, mine


async def rest(face: Face, token: str, **fields: Any) -> list[str]:
    """All pages from this request on."""
    seen: list[str] = []
    while token:
        answer = await listed(face, page_token=token, **fields)
        seen += ids(answer)
        token = answer.next_page_token
    return seen


LIST = "/api/v1/gpu/instances"
ORDERS = ["", "price_per_gpu_hour desc", "price_per_hour", "price_per_hour desc", "vram_gb", "reliability desc"]


@pytest.mark.parametrize("order_by", ORDERS)
@pytest.mark.parametrize("state", ["rented", "all"])
@pytest.mark.parametrize("disk_gb", [0, 100])
async def test_a_machine_that_ends_between_two_pages_hides_no_other(state: str, order_by: str, disk_gb: int) -> None:
    rented = [mine(n, price=Micro(400_000 + 1000 * (n % 3)), vram_gb=24 + 8 * (n % 2)) for n in range(1, 7)]
    engine = StubEngine(offers=[offer(n, price=400_000 + 1000 * (n % 2)) for n in range(3)], mine=rented)
    asked = {"state": state, "order_by": order_by, "page_size": 2, "disk_gb": disk_gb}
    async with facing(service_over(engine)) as face:
        whole = ids(await listed(face, **asked | {"page_size": 0}))
        first = await listed(face, **asked)
        assert ids(first) == whole[:2]
        for gone in ([whole[1]], [whole[0], whole[2]], whole[:6]):
            engine.mine = [view for view in rented if view.lease.instance_id not in gone]
            left = [each for each in whole[2:] if each not in gone]
            assert await rest(face, first.next_page_token, **asked) == left


@pytest.mark.parametrize("order_by", ORDERS)
async def test_an_offer_that_goes_or_comes_between_two_pages_hides_no_other(order_by: str) -> None:
    offers = [offer(n, price=400_000 + 1000 * (n % 3), gpus=1 + n % 2, vram=24 + 8 * (n % 4)) for n in range(20)]
    engine = StubEngine(offers=offers)
    async with facing(service_over(engine)) as face:
        whole = ids(await listed(face, order_by=order_by))
        first = await listed(face, order_by=order_by, page_size=7)
        assert ids(first) == whole[:7]
        engine.offers = [*(each for each in offers if each.id not in (whole[6], whole[7])), offer(99, price=1)]
        engine._shown = None
        left = await rest(face, first.next_page_token, order_by=order_by, page_size=7)
    assert [each for each in left if each != "vast-99"] == whole[8:]


async def test_a_create_that_becomes_a_machine_between_two_pages_is_still_shown() -> None:
    views = [mine(1, LeaseState.REQUESTED), mine(2, LeaseState.REQUESTED), mine(3), mine(4)]
    engine = StubEngine(mine=views)
    async with facing(service_over(engine)) as face:
        first = await listed(face, state="rented", page_size=1)
        assert [one.lease_id for one in first.instances] == ["lease-1"]
        for state in (LeaseState.UNKNOWN, LeaseState.STARTING, LeaseState.ACTIVE):
            engine.mine = [views[0], mine(2, state), *views[2:]]
            answer = await listed(face, state="rented", page_token=first.next_page_token)
            assert {one.lease_id for one in answer.instances} == {"lease-2", "lease-3", "lease-4"}


async def test_a_token_of_one_list_is_refused_by_every_other() -> None:
    engine = StubEngine(offers=[offer(n) for n in range(4)], mine=[mine(n) for n in range(1, 5)])
    async with facing(service_over(engine)) as face:
        token = (await listed(face, state="rented", page_size=2)).next_page_token
        for other in ({"state": "all"}, {}, {"state": "rented", "order_by": "vram_gb"}):
            request = pb.ListGPUInstancesRequest(page_size=2, page_token=token, **other)
            refused = await face.refused("ListGPUInstances", request)
            assert (refused.code, set(refused.fields)) == (StatusCode.INVALID_ARGUMENT, {"page_token"})
        assert len(await rest(face, token, state="rented", page_size=1)) == 2


def unreadable(**facts: Any) -> StubEngine:
    """A catalog that can't be read; vast.ai doesn't answer."""
    silent = ((ProviderName("vast.ai"), 42.0),)
    return StubEngine(market_refusal=Unavailable("No market can be read."), unreachable=silent, **facts)


async def test_rented_instances_are_listed_with_the_unreachable_providers_if_no_market_can_be_read() -> None:
    async with facing(service_over(unreadable(mine=[mine(1), mine(2), mine(3)]))) as face:
        first = await listed(face, state="all", page_size=2)
        second = await listed(face, state="all", page_size=2, page_token=first.next_page_token)
    for answer in (first, second):
        assert (list(answer.unreachable), answer.total_count, answer.available_gpus) == (["vast.ai"], 3, 0)
        assert not answer.HasField("as_of")
    assert (ids(first) + ids(second), second.next_page_token) == (["9001", "9002", "9003"], "")


async def test_offers_alone_are_unavailable_while_no_market_can_be_read() -> None:
    async with facing(service_over(unreadable(mine=[mine(1)]))) as face:
        refused = await face.refused("ListGPUInstances", pb.ListGPUInstancesRequest())
        assert refused.code is StatusCode.UNAVAILABLE
        assert ids(await listed(face, state="rented")) == ["9001"]


async def test_a_marketplace_without_an_account_is_not_unreachable() -> None:
    engine = StubEngine(mine=[mine(1)], market_refusal=FailedPrecondition("No account.", reason=Reason.NO_ACCOUNT))
    async with facing(service_over(engine)) as face:
        for state in ("available", "all"):
            refused = await face.refused("ListGPUInstances", pb.ListGPUInstancesRequest(state=state, provider="io.net"))
            assert (refused.code, refused.info.reason) == (StatusCode.FAILED_PRECONDITION, "NO_ACCOUNT")


# ------------------------------------------------------------------------------------------------------------- defaults


async def test_a_list_says_which_defaults_were_applied_and_what_they_left_out() -> None:
    offers = [offer(1), replace(offer(2), verified=False), replace(offer(3), verified=False)]
    async with both_faces(service_over(StubEngine(offers=offers))) as both:
        plain = await listed(both.grpc)
        paged = await listed(both.grpc, page_size=1, order_by="price_per_hour")
        asked = await listed(both.grpc, verified_only=True, max_price=1, disk_gb=50)
        some = await listed(both.grpc, verified_only=False, disk_gb=20)
        over_http = [(await both.send("GET", f"{LIST}{query}")).json["message"] for query in ("", "?page_size=1")]
    said = (
        "Defaults applied: verified hosts only (verified_only, leaves out 2 offers), at most $10.00 per GPU-hour "
        "(max_price), 50 GB of disk (disk_gb)."
    )
    assert {plain.message, paged.message, *over_http} == {said}
    assert asked.message == ""
    assert some.message == "Defaults applied: at most $10.00 per GPU-hour (max_price)."


async def test_a_list_of_rented_instances_has_no_defaults() -> None:
    engine = StubEngine(offers=[offer(1)], mine=[mine(1)])
    async with facing(service_over(engine)) as face:
        assert (await listed(face, state="rented")).message == ""
        assert (await listed(face, state="all")).message.startswith("Defaults applied: ")
        engine.market_refusal = Unavailable("silent")
        assert (await listed(face, state="all")).message == ""
