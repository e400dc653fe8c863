"""The answers of the RPCs over a real channel: ids, words, numbers and pages for the engine's results."""

from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode

from gpuproxy.instances.requests import LeaseView
from gpuproxy.model.errors import FailedPrecondition, Unavailable
from gpuproxy.model.leases import LeaseState
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import ProviderName
from gpuproxy.model.reasons import Reason
from gpuproxy.model.reservations import ReservationState
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.edge.engine import DECISION, NOW, StubEngine, lease, offer, service_over, view
from tests.edge.face import Face, facing


def mine(number: int, state: LeaseState = LeaseState.ACTIVE, **facts: Any) -> LeaseView:
    return LeaseView(lease=lease(number, state, **facts), cost=Micro(1_500_000))


async def listed(face: Face, **fields: Any) -> pb.ListGPUInstancesResponse:
    answer: pb.ListGPUInstancesResponse = await face.call("ListGPUInstances", pb.ListGPUInstancesRequest(**fields))
    return answer


def ids(answer: pb.ListGPUInstancesResponse) -> list[str]:
    return [instance.id for instance in answer.instances]


# --------------------------------------------------------------------------------------------------------------- market


async def test_an_offer_is_shown_with_every_fact() -> None:
    engine = StubEngine(offers=[offer(1, price=800_000, gpus=2)])
    async with facing(service_over(engine)) as face:
        answer = await listed(face)
    [shown] = answer.instances
    assert (shown.id, shown.provider, shown.status) == ("vast-1", "vast.ai", "available")
    assert (shown.price_per_hour, shown.price_per_gpu_hour, shown.num_gpus) == (0.8, 0.4, 2)
    assert (shown.gpu_model, shown.vram_gb, shown.location) == ("RTX 4090", 24, "Texas, US")
    assert (shown.host_id, shown.reliability, shown.verified, shown.cuda_max) == ("vast.ai/1", 0.99, True, 12.4)
    assert shown.metadata["sandbox"] == "true"
    assert not shown.contract_id
    assert (answer.total_count, answer.available_gpus, answer.next_page_token) == (1, 2, "")
    assert answer.as_of.ToDatetime(tzinfo=UTC) < NOW


async def test_offers_come_cheapest_first_and_a_limit_at_the_price_includes_it() -> None:
    engine = StubEngine(offers=[offer(1, price=500_000), offer(2, price=300_000), offer(3, price=500_001)])
    async with facing(service_over(engine)) as face:
        assert ids(await listed(face, max_price=0.5)) == ["vast-2", "vast-1"]


async def test_a_provider_that_does_not_answer_is_named_not_silently_missing() -> None:
    engine = StubEngine(offers=[offer(1)], unreachable=((ProviderName("io.net"), 42.0),))
    async with facing(service_over(engine)) as face:
        assert list((await listed(face)).unreachable) == ["io.net"]


async def test_overlapping_chunks_are_not_added_up() -> None:
    keys = ("m/0", "m/1")
    pair = offer(1, gpus=2, conflict_keys=keys)
    engine = StubEngine(
        offers=[pair, *(offer(n, host=pair.host, conflict_keys=(keys[n - 2],)) for n in (2, 3))],
    )
    async with facing(service_over(engine)) as face:
        answer = await listed(face)
    assert (answer.total_count, answer.available_gpus) == (3, 2)


@pytest.mark.parametrize(
    ("order_by", "first"),
    [
        ("price_per_gpu_hour", "vast-2"),
        ("price_per_hour", "vast-1"),
        ("price_per_hour desc", "vast-2"),
        ("vram_gb desc", "vast-3"),
        ("reliability", "vast-1"),
    ],
)
async def test_offers_are_listed_in_the_requested_order(order_by: str, first: str) -> None:
    offers = [
        offer(1, price=400_000, reliability_ppm=900_000),
        offer(2, price=1_200_000, gpus=8),
        offer(3, price=500_000, vram=80),
    ]
    async with facing(service_over(StubEngine(offers=offers))) as face:
        assert ids(await listed(face, order_by=order_by))[0] == first


@pytest.mark.parametrize("order_by", ["", "price_per_hour desc", "vram_gb"])
async def test_pages_hold_each_offer_once(order_by: str) -> None:
    engine = StubEngine(offers=[offer(n, price=400_000 + 1000 * (n % 3)) for n in range(25)])
    async with facing(service_over(engine)) as face:
        seen: list[str] = []
        token = ""
        while True:
            answer = await listed(face, page_size=10, page_token=token, order_by=order_by)
            seen += ids(answer)
            assert answer.total_count == 25
            if not (token := answer.next_page_token):
                break
    assert sorted(seen) == sorted(f"vast-{n}" for n in range(25))


async def test_paging_continues_although_the_last_offer_of_a_page_is_gone() -> None:
    engine = StubEngine(offers=[offer(n, price=400_000 + n) for n in range(6)])
    async with facing(service_over(engine)) as face:
        first = await listed(face, page_size=3)
        engine.offers = [each for each in engine.offers if each.id != "vast-2"]
        engine._shown = None
        second = await listed(face, page_size=3, page_token=first.next_page_token)
    assert ids(second) == ["vast-3", "vast-4", "vast-5"]


async def test_a_page_token_is_valid_only_for_its_own_request() -> None:
    engine = StubEngine(offers=[offer(n) for n in range(4)])
    async with facing(service_over(engine)) as face:
        first = await listed(face, page_size=2)
        request = pb.ListGPUInstancesRequest(page_size=2, min_vram=8, page_token=first.next_page_token)
        refused = await face.refused("ListGPUInstances", request)
    assert "page_token" in refused.fields


async def test_a_page_has_at_most_five_thousand_entries_and_three_mebibytes() -> None:
    many = StubEngine(offers=[offer(n) for n in range(5001)])
    large = StubEngine(offers=[offer(n, extras={"note": "x" * 20_000}) for n in range(300)])
    async with facing(service_over(many)) as face:
        first = await listed(face)
        assert (len(first.instances), first.total_count) == (5000, 5001)
        assert len((await listed(face, page_token=first.next_page_token)).instances) == 1
    async with facing(service_over(large)) as face:
        first = await listed(face)
        assert 100 < len(first.instances) < 300
        assert first.ByteSize() < 3.1 * 1024 * 1024
        assert first.next_page_token


async def test_prices_include_the_requested_disk() -> None:
    engine = StubEngine(offers=[offer(1, price=400_000, disk_price_month=Micro(720_000))])
    async with facing(service_over(engine)) as face:
        [usual] = (await listed(face)).instances
        [large] = (await listed(face, disk_gb=100)).instances
    assert (usual.price_per_hour, usual.disk_gb) == (0.45, 50)
    assert (large.price_per_hour, large.disk_gb) == (0.5, 100)


async def test_rented_instances_are_listed_by_contract_and_no_default_filter_hides_them() -> None:
    engine = StubEngine(offers=[offer(5)], mine=[mine(1, price=Micro(99_000_000)), mine(2, LeaseState.UNKNOWN)])
    async with facing(service_over(engine)) as face:
        rented = await listed(face, state="rented")
        both = await listed(face, state="all")
        cheap = await listed(face, state="rented", max_price=1.0)
    assert [(i.id, i.status) for i in rented.instances] == [("", "unknown"), ("9001", "active")]
    assert not rented.HasField("as_of")
    assert ids(both) == ["", "9001", "vast-5"]
    assert ids(cheap) == [""]


# ------------------------------------------------------------------------------------------------------------ instances


async def test_an_instance_is_shown_as_rented() -> None:
    async with facing(service_over(StubEngine(mine=[mine(1)]))) as face:
        answer = await face.call("GetGPUInstance", pb.GetGPUInstanceRequest(provider="vast.ai", instance_id="9001"))
    shown = answer.instance
    assert (shown.id, shown.contract_id, shown.status) == ("9001", "9001", "active")
    assert (shown.lease_id, shown.reservation_id, shown.account) == ("lease-1", "res-1", "main")
    assert shown.metadata["contract_id"] == "9001"
    assert shown.metadata["sandbox"] == "true"
    assert shown.ssh.command == "ssh -p 12345 root@ssh4.example"
    assert shown.port_mappings[0].url == "http://1.2.3.4:40001"
    assert shown.cost_so_far == 1.5
    assert not shown.HasField("ready_at")


async def test_the_provider_may_be_omitted_if_only_one_has_the_id() -> None:
    other = mine(1, provider=ProviderName("io.net"))
    async with facing(service_over(StubEngine(mine=[other]))) as face:
        answer = await face.call("GetGPUInstance", pb.GetGPUInstanceRequest(instance_id="9001"))
        assert answer.instance.provider == "io.net"
    async with facing(service_over(StubEngine(mine=[other, mine(1)]))) as face:
        refused = await face.refused("DestroyGPUInstance", pb.DestroyGPUInstanceRequest(instance_id="9001"))
    assert "provider" in refused.fields


async def test_destroying_commits_the_release_and_says_that_billing_may_continue() -> None:
    engine = StubEngine(mine=[mine(1)])
    async with facing(service_over(engine)) as face:
        request = pb.DestroyGPUInstanceRequest(provider="vast.ai", instance_id="9001")
        answer = await face.call("DestroyGPUInstance", request)
    assert (answer.success, answer.state) == (True, "releasing")
    assert "may bill" in answer.message
    assert engine.asked == [("destroy", "vast.ai", "9001")]


async def test_an_instance_that_is_not_in_the_database_is_not_found() -> None:
    engine = StubEngine()
    async with facing(service_over(engine)) as face:
        for name, kind in (
            ("GetGPUInstance", pb.GetGPUInstanceRequest),
            ("DestroyGPUInstance", pb.DestroyGPUInstanceRequest),
        ):
            refused = await face.refused(name, kind(provider="vast.ai", instance_id="1"))
            assert (refused.code, refused.info.reason) == (StatusCode.NOT_FOUND, "NOT_FOUND")
    assert not engine.asked


async def test_creating_rents_the_whole_offer_and_returns_the_contract() -> None:
    engine = StubEngine(offers=[offer(1, gpus=4)], answer=view(lease(1, num_gpus=4), count=4))
    request = pb.CreateGPUInstanceRequest(
        provider="vast.ai",
        instance_id="vast-1",
        image="ubuntu",
        env={"A": "1"},
        ports=[80],
        request_id="r1",
        max_price=3,
    )
    async with facing(service_over(engine)) as face:
        answer = await face.call("CreateGPUInstance", request)
    assert (answer.instance_id, answer.provider, answer.status) == ("9001", "vast.ai", "reserved")
    assert answer.reservation_id == "res-1"
    [demand] = engine.demands
    assert (demand.count, demand.filter.offer_id, demand.filter.max_price) == (4, "vast-1", 3.0)
    assert (demand.request_id, demand.spec.image, demand.spec.ports) == ("r1", "ubuntu", (80,))


async def test_a_repeated_create_finds_its_reservation_without_offer_and_market() -> None:
    for engine in (StubEngine(), StubEngine(market_refusal=Unavailable("no market"))):
        async with facing(service_over(engine)) as face:
            request = pb.CreateGPUInstanceRequest(instance_id="vast-1", request_id="r1")
            assert (await face.call("CreateGPUInstance", request)).instance_id == "9001"


async def test_an_offer_that_is_gone_is_refused_with_its_id() -> None:
    async with facing(service_over(StubEngine(answer=FailedPrecondition("x", reason=Reason.NOT_ENOUGH_GPUS)))) as face:
        refused = await face.refused("CreateGPUInstance", pb.CreateGPUInstanceRequest(instance_id="vast-1"))
    assert (refused.code, refused.info.reason) == (StatusCode.FAILED_PRECONDITION, "OFFER_GONE")
    assert "Nothing was rented" in refused.text


async def test_an_unanswered_create_is_unknown_not_reserved() -> None:
    engine = StubEngine(offers=[offer(1)], answer=view(lease(1, LeaseState.UNKNOWN), message="1 unknown"))
    async with facing(service_over(engine)) as face:
        answer = await face.call("CreateGPUInstance", pb.CreateGPUInstanceRequest(instance_id="vast-1"))
    assert (answer.instance_id, answer.status, answer.message) == ("", "unknown", "1 unknown")


# --------------------------------------------------------------------------------------------------------- reservations


async def test_reserved_machines_are_named_by_offer_and_carry_their_contract() -> None:
    answer_view = view(lease(1), lease(2, LeaseState.FAILED, reason=Reason.OFFER_GONE), lease(3), decision=DECISION)
    async with facing(service_over(StubEngine(answer=answer_view))) as face:
        answer = await face.call("ReserveGPUs", pb.ReserveGPUsRequest(count=2))
    assert [(i.id, i.status, i.metadata["contract_id"]) for i in answer.reserved_instances] == [
        ("vast-1", "reserved", "9001"),
        ("vast-3", "reserved", "9003"),
    ]
    assert (answer.reserved_count, answer.reservation_id, answer.state) == (2, "res-1", "starting")
    assert [(o.attempt, o.state, o.reason) for o in answer.outcomes] == [
        (1, "reserved", ""),
        (2, "failed", "OFFER_GONE"),
        (3, "reserved", ""),
    ]
    assert (answer.price_per_hour, answer.cheapest_alternative_per_hour) == (0.8, 0.7)
    assert answer.decision.rejected == {"max_price": 6}
    assert answer.decision.picks[0].why == "cheapest"
    assert not answer.HasField("expires_at")


async def test_an_unknown_outcome_counts_as_nothing() -> None:
    engine = StubEngine(answer=view(lease(1, LeaseState.UNKNOWN), state=ReservationState.PENDING))
    async with facing(service_over(engine)) as face:
        answer = await face.call("ReserveGPUs", pb.ReserveGPUsRequest(count=1))
    assert (answer.reserved_count, answer.state, len(answer.reserved_instances)) == (0, "pending", 0)
    assert answer.outcomes[0].state == "unknown"


async def test_a_dry_run_has_a_price_and_no_reservation() -> None:
    engine = StubEngine(answer=view(decision=DECISION))
    async with facing(service_over(engine)) as face:
        answer = await face.call("ReserveGPUs", pb.ReserveGPUsRequest(count=2, dry_run=True))
    assert (answer.reservation_id, answer.reserved_count, answer.price_per_hour) == ("", 0, 0.8)


async def test_a_pending_answer_says_how_to_follow_the_reservation() -> None:
    async with facing(service_over(StubEngine(answer=view(lease(1), message="")))) as face:
        answer = await face.call("ReserveGPUs", pb.ReserveGPUsRequest(count=2, wait=False))
    assert "1 of 2 GPUs are reserved" in answer.message
    assert "Call GetReservation with the reservation_id" in answer.message


async def test_a_reservation_shows_contracts_counts_and_costs() -> None:
    stored = view(lease(1, LeaseState.ACTIVE), lease(2), lease(3, LeaseState.LOST), count=3, request_id="r1")
    async with facing(service_over(StubEngine(answer=stored))) as face:
        answer = await face.call("GetReservation", pb.GetReservationRequest(reservation_id="res-1"))
    shown = answer.reservation
    assert [(i.id, i.status) for i in shown.instances] == [("9001", "active"), ("9002", "starting")]
    assert (shown.reserved_count, shown.ready_count, shown.requested_count) == (2, 1, 3)
    assert (shown.price_per_hour, shown.cost_so_far) == (0.8, 4.5)
    assert (dict(shown.labels), shown.request_id) == ({"team": "vision"}, "r1")
    assert shown.outcomes[2].state == "lost"


async def test_reservations_are_listed_by_state_and_labels_a_page_at_a_time() -> None:
    engine = StubEngine()
    async with facing(service_over(engine)) as face:
        request = pb.ListReservationsRequest(state="Active", labels={"team": "vision"}, page_size=5000, page_token="t")
        answer = await face.call("ListReservations", request)
    assert (answer.next_page_token, answer.total_count, len(answer.reservations)) == ("next", 5, 1)
    assert engine.asked == [("reservations", "active", {"team": "vision"}, 200, "t")]


async def test_release_and_extend_show_the_reservation() -> None:
    engine = StubEngine()
    end = datetime(2026, 7, 1, tzinfo=UTC)
    stamp = Timestamp()
    stamp.FromDatetime(end)
    async with facing(service_over(engine)) as face:
        released = await face.call("ReleaseReservation", pb.ReleaseReservationRequest(reservation_id="res-1"))
        request = pb.ExtendReservationRequest(reservation_id="res-1", expires_at=stamp)
        extended = await face.call("ExtendReservation", request)
    assert released.reservation.reservation_id == extended.reservation.reservation_id == "res-1"
    assert engine.asked == [("release", "res-1"), ("extend", "res-1", end)]


# ------------------------------------------------------------------------------------------------ load, keys and health


@pytest.mark.parametrize(
    ("kind", "server", "provider"), [("server", 1, 0), ("provider", 0, 1), ("all", 1, 1), ("", 1, 1)]
)
async def test_load_is_shown_by_kind(kind: str, server: int, provider: int) -> None:
    async with facing(service_over(StubEngine())) as face:
        answer = await face.call("GetLoadInfo", pb.GetLoadInfoRequest(type=kind))
    assert (len(answer.server_load), len(answer.provider_load)) == (server, provider)
    assert answer.current_strategy == "least_connections"
    for row in answer.server_load:
        assert (row.instance_id, row.connections, row.load_score, row.total_connections) == ("9001", 3, 0.75, 7)


async def test_a_strategy_is_set_and_returned() -> None:
    engine = StubEngine()
    async with facing(service_over(engine)) as face:
        request = pb.SetLoadBalancerStrategyRequest(strategy="Lowest-Price")
        done = await face.call("SetLoadBalancerStrategy", request)
        told = await face.call("GetLoadBalancerStrategy")
    assert (done.success, done.strategy) == (True, "lowest_price")
    assert engine.asked == [("set_strategy", "lowest_price", "")]
    assert (told.strategy, told.scope, list(told.available)[-1]) == ("lowest_price", "project", "lowest_price")


async def test_a_key_is_shown_once_and_never_has_a_higher_role_than_its_creator() -> None:
    engine = StubEngine()
    async with facing(service_over(engine)) as face:
        made = await face.call("CreateAPIKey", pb.CreateAPIKeyRequest(name="ci"))
        refused = await face.refused("CreateAPIKey", pb.CreateAPIKeyRequest(name="ci", role="admin"))
        await face.call("CreateAPIKey", pb.CreateAPIKeyRequest(name="ci", role="admin"), key="gp_admin")
    assert (made.api_key, made.name, made.prefix) == ("gpx_new_secret", "ci", "gpx_new_")
    assert refused.code is StatusCode.PERMISSION_DENIED
    assert engine.asked == [("create", "p1", "ci", "user"), ("create", "p1", "ci", "admin")]


async def test_keys_are_listed_without_their_secret_and_revoked_by_id() -> None:
    engine = StubEngine()
    async with facing(service_over(engine)) as face:
        answer = await face.call("ListAPIKeys")
        await face.call("RevokeAPIKey", pb.RevokeAPIKeyRequest(id="id-user"), key="gp_admin")
        refused = await face.refused("RevokeAPIKey", pb.RevokeAPIKeyRequest(id="nobody"))
    assert [(key.prefix, key.HasField("revoked_at")) for key in answer.keys] == [("gpx_one", False), ("gpx_two", True)]
    assert refused.code is StatusCode.NOT_FOUND
    assert {each for each in engine.asked if each[0] == "list"} == {("list", "p1"), ("list", None)}
    assert [each for each in engine.asked if each[0] != "list"] == [
        ("revoke", None, "id-user"),
        ("revoke", "p1", "nobody"),
    ]


@pytest.mark.parametrize(
    ("engine", "status"),
    [
        (StubEngine(), "ok"),
        (StubEngine(unreachable=((ProviderName("vast.ai"), 42.0),)), "degraded"),
        (StubEngine(market_refusal=Unavailable("No market can be read.")), "degraded"),
        (StubEngine(market_refusal=FailedPrecondition("No account.")), "degraded"),
    ],
)
async def test_health_names_marketplaces_that_do_not_answer(engine: StubEngine, status: str) -> None:
    async with facing(service_over(engine)) as face:
        answer = await face.call("HealthCheck", metadata={})
    assert answer.status == status
    assert answer.details["server"] == "ok"
    assert answer.timestamp >= NOW.timestamp()
