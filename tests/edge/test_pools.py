"""The calls about warm pools, over real servers: names, texts and nulls of the published document."""

import re
from dataclasses import replace
from typing import Any

import pytest
from grpc import StatusCode

from gpuproxy.edge.messages.pools import status_message
from gpuproxy.edge.rpc.rpcs import DEFAULT_SECONDS, rpcs_of
from gpuproxy.model.errors import AlreadyExists, FailedPrecondition
from gpuproxy.model.pools import Degraded, PoolState
from gpuproxy.model.reasons import Reason
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.edge.engine import StubEngine, service_over
from tests.edge.face import facing
from tests.edge.http_face import Answer, both_faces
from tests.edge.pools import PLAN, StubPools, at, open_incident, pool_view, volume
from tests.published import calls

BASE = "/api/v1/warmpool"
PROVISION = {"machine_id": 123, "host_machine_id": 88888, "gpu_name": "RTX_4090"}


async def sent(pools: StubPools, verb: str, path: str, body: Any = None, **how: Any) -> Answer:
    async with both_faces(service_over(StubEngine(), pools, pool_max_price=2.5)) as both:
        return await both.send(verb, BASE + path, body, **how)


def published(title: str) -> dict[str, Any]:
    """The answer that the published document prints for a call."""
    return calls()[title].answer


def same_shape(expected: Any, given: Any, place: str = "") -> None:
    """Each published field is there, with the same type; null is a type of its own."""
    if isinstance(expected, dict):
        for name, value in expected.items():
            assert name in given, f"{place}{name} is missing"
            same_shape(value, given[name], f"{place}{name}.")
    elif isinstance(expected, list):
        for each in given:
            same_shape(expected[0], each, f"{place}[].")
    else:
        kinds = (int, float) if isinstance(expected, int | float) and not isinstance(expected, bool) else type(expected)
        assert isinstance(given, kinds), f"{place} is {given!r}, not {expected!r}"


async def test_the_status_has_the_published_fields() -> None:
    answer = await sent(StubPools(), "GET", "/status/123")
    expected = published("GET /warmpool/status/{machine_id}")
    same_shape(expected, answer.json)
    kept = ("machine_id", "state", "host_machine_id", "volume_id", "primary_gpu_id", "standby_gpu_id", "standby_state")
    assert {name: answer.json[name] for name in kept} == {name: expected[name] for name in kept}
    assert answer.json["failover_count"] == 2
    assert answer.json["error_message"] is None
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", answer.json["last_failover_at"])


async def test_an_unknown_machine_is_disabled_and_everything_else_is_null() -> None:
    answer = await sent(StubPools(view=None), "GET", "/status/777")
    assert (answer.status, answer.json["machine_id"], answer.json["state"]) == (200, 777, "disabled")
    nulls = (
        "host_machine_id volume_id primary_gpu_id standby_gpu_id primary_ssh_host primary_ssh_port last_health_check "
        "last_failover_at error_message degraded_reason data_state standby_checked_at contract_ends_at incident"
    )
    assert {name: answer.json[name] for name in nulls.split()} == dict.fromkeys(nulls.split())
    assert answer.json["standby_state"] == "none"
    assert answer.json["failover_count"] == 0


async def test_hosts_are_as_published_with_the_published_defaults() -> None:
    pools = StubPools()
    answer = await sent(pools, "GET", "/hosts?gpu_name=RTX_4090&min_gpus=2")
    same_shape(published("GET /warmpool/hosts"), answer.json)
    host = answer.json["hosts"][0]
    assert (host["machine_id"], host["gpu_name"], host["geolocation"]) == (88888, "RTX_4090", "US")
    assert host["offers"][0]["offer_id"] == 123456
    assert answer.json["count"] == 2
    query = pools.asked[0][1]
    assert (query.gpu_model, query.min_gpus, query.verified_only, query.max_price) == ("RTX_4090", 2, True, 10.0)


async def test_hosts_that_are_not_verified_are_shown_if_asked_for() -> None:
    pools = StubPools()
    await sent(pools, "GET", "/hosts?verified=false&min_gpus=0&max_price=0.5")
    query = pools.asked[0][1]
    assert (query.min_gpus, query.verified_only, query.max_price) == (2, False, 0.5)


async def test_provision_answers_as_published_and_names_the_price_limit() -> None:
    pools = StubPools()
    answer = await sent(pools, "POST", "/provision", PROVISION)
    same_shape(published("POST /warmpool/provision"), answer.json)
    assert (answer.status, answer.json["message"]) == (200, "Warm pool provisioned successfully")
    assert (answer.json["max_price_per_hour"], answer.json["max_price_source"]) == (2.5, "GPUPROXY_WARMPOOL_MAX_PRICE")
    spec = pools.asked[0][1].spec
    assert (spec.disk_gb, spec.volume_gb, spec.mount_path, spec.image[:16]) == (50, 100, "/data", "pytorch/pytorch:")


@pytest.mark.parametrize(
    ("given", "setting", "limit", "source"),
    [
        (0.5, 2.5, 0.5, "request"),
        (0.0, 2.5, 2.5, "GPUPROXY_WARMPOOL_MAX_PRICE"),
        (0.0, None, 10.0, "GPUPROXY_MAX_PRICE"),
    ],
)
async def test_the_price_limit_is_the_requests_or_the_pools_or_the_servers(
    given: float, setting: float | None, limit: float, source: str
) -> None:
    pools = StubPools()
    async with facing(service_over(StubEngine(), pools, pool_max_price=setting)) as face:
        request = pb.ProvisionWarmPoolRequest(machine_id=1, host_machine_id=2, max_price=given)
        answer = await face.call("ProvisionWarmPool", request)
    assert (answer.max_price_per_hour, answer.max_price_source) == (limit, source)
    assert pools.asked[0][1].spec.max_price == limit


async def test_the_answers_name_the_new_values_that_leave_the_parts_that_stay_as_they_are() -> None:
    pools = StubPools(plan=replace(PLAN, later=("image", "volume_size")))
    for path, body, done in (
        ("/provision", PROVISION, "Warm pool provisioned successfully"),
        ("/enable/123", None, "Warm pool enabled for machine 123"),
    ):
        answer = await sent(pools, "POST", path, body)
        assert answer.json["message"] == (
            f"{done}. The primary and the volume stay as they are. New values that apply only to what is created "
            "later: image, volume_size."
        )


@pytest.mark.parametrize(("state", "status"), [(PoolState.PROVISIONING, 202), (PoolState.ACTIVE, 200)])
async def test_provision_is_202_only_while_it_goes_on(state: PoolState, status: int) -> None:
    view = pool_view(facts={"state": state, "progress": "the volume is made"})
    answer = await sent(StubPools(view), "POST", "/provision", PROVISION)
    assert (answer.status, answer.json["status"]["state"]) == (status, state)
    going_on = "Warm pool is provisioning: the volume is made. GetWarmPoolStatus and WatchWarmPool show the progress."
    assert answer.json["message"] == (going_on if status == 202 else "Warm pool provisioned successfully")


async def test_a_dry_run_says_what_it_would_cost_by_part_and_which_limit_applies() -> None:
    view = pool_view(facts={"state": PoolState.DISABLED}, primary=None, standby=None, volume=None, machines=())
    pools = StubPools(view)
    answer = await sent(pools, "POST", "/provision", PROVISION | {"dry_run": True, "hold_gpu": True})
    assert answer.status == 200
    assert answer.json["message"] == (
        "Dry run, nothing was rented. It would cost $0.4620/h = $332.64/month (30 d): primary with 1 x RTX_4090 "
        "$0.4500, standby (running, because of hold_gpu) $0.0100, volume of 100 GB $0.0020 per hour. Price limit: "
        "$2.5 per GPU-hour (GPUPROXY_WARMPOOL_MAX_PRICE)."
    )
    assert answer.json["plan"]["price_per_hour"] == pytest.approx(0.462)
    assert pools.asked[0][1].dry_run


async def test_enable_without_a_body_asks_for_nothing_and_answers_as_published() -> None:
    pools = StubPools()
    answer = await sent(pools, "POST", "/enable/123")
    assert published("POST /warmpool/enable/{machine_id}").items() <= answer.json.items()
    demand = pools.asked[0][1]
    assert (demand.machine_id, demand.host_machine_id, demand.given, demand.secrets) == (123, None, (), None)
    assert (answer.json["plan"]["gpu_name"], answer.json["max_price_per_hour"]) == ("RTX_4090", 2.5)


async def test_enable_passes_on_only_what_the_caller_set() -> None:
    pools = StubPools()
    body = {"gpu_name": "RTX_3090", "max_price": 0.5, "drill_every": "0s", "hold_gpu": False, "secret_env": {"A": "b"}}
    await sent(pools, "POST", "/enable/123", body | {"host_machine_id": 7})
    demand = pools.asked[0][1]
    given = {"gpu_model": "RTX_3090", "max_price": 0.5, "price_from": "", "drill_every": None, "hold_gpu": False}
    assert dict(demand.given) == given
    assert demand.host_machine_id == 7
    assert demand.secrets.secret_env == (("A", "b"),)


async def test_disable_answers_as_published_and_says_that_nothing_takes_over() -> None:
    view = pool_view(facts={"state": PoolState.DISABLED})
    answer = await sent(StubPools(view), "POST", "/disable/123")
    assert published("POST /warmpool/disable/{machine_id}").items() <= answer.json.items()
    assert (answer.json["fallback_ready"], answer.json["fallback_detail"]) == (False, "nothing takes over by itself")


@pytest.mark.parametrize(
    ("state", "end"),
    [
        (PoolState.FAILOVER, ", once the failover that is under way has ended"),
        (PoolState.ACTIVE, "; its standby is still being given back"),
    ],
)
async def test_disable_says_what_it_still_waits_for(state: PoolState, end: str) -> None:
    answer = await sent(StubPools(pool_view(facts={"state": state})), "POST", "/disable/123")
    assert answer.json["message"] == f"Warm pool disabled for machine 123{end}"


async def test_a_test_of_the_failover_answers_as_published() -> None:
    pools = StubPools()
    answer = await sent(pools, "POST", "/failover/test/123")
    assert answer.json == published("POST /warmpool/failover/test/{machine_id}")
    assert pools.asked == [("test", 123, False)]
    await sent(pools, "POST", "/failover/test/123", {"allow_destroy": True})
    assert pools.asked[1] == ("test", 123, True)


async def test_a_failover_that_was_asked_for_keeps_the_key_that_asked() -> None:
    pools = StubPools()
    answer = await sent(pools, "POST", "/failover/123", {"allow_unfenced": True})
    assert (answer.json["message"], answer.json["new_primary_gpu_id"]) == ("Failover completed", 456790)
    assert pools.asked == [("failover", 123, True)]
    assert pools.callers[0].key_id == "id-user"


async def test_cleanup_answers_as_published_once_everything_is_gone() -> None:
    pools = StubPools()
    answer = await sent(pools, "DELETE", "/cleanup/123?keep_volume=true")
    assert answer.status == 200
    assert published("DELETE /warmpool/cleanup/{machine_id}").items() <= answer.json.items()
    assert pools.asked == [("cleanup", 123, True)]


@pytest.mark.parametrize("path", ["/cleanup/123", "/volumes/123/777"])
async def test_what_is_not_proven_gone_yet_is_202_and_named(path: str) -> None:
    answer = await sent(StubPools(pending=("777",)), "DELETE", path)
    assert (answer.status, answer.json["pending_ids"], answer.json["success"]) == (202, ["777"], True)
    assert "not proven gone yet" in answer.json["message"]


async def test_a_retained_volume_is_deleted_by_its_id() -> None:
    pools = StubPools()
    answer = await sent(pools, "DELETE", "/volumes/123/777")
    assert (answer.status, answer.json["message"]) == (200, "Volume 777 of machine 123 deleted")
    assert pools.asked == [("delete_volume", 123, "777")]


@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [
        (FailedPrecondition("no", reason=Reason.POOL_STATE), 409, "FAILED_PRECONDITION"),
        (AlreadyExists("no", reason=Reason.POOL_EXISTS), 409, "ALREADY_EXISTS"),
        (FailedPrecondition("no", reason=Reason.NO_SPEC), 400, "FAILED_PRECONDITION"),
    ],
)
async def test_a_call_that_the_state_does_not_allow_is_409(refusal: Any, status: int, code: str) -> None:
    answer = await sent(StubPools(refusal), "POST", "/enable/123")
    assert (answer.status, answer.error["status"], answer.error["reason"]) == (status, code, refusal.reason)


async def test_pools_are_listed_in_pages_by_machine() -> None:
    async with facing(service_over(StubEngine(), StubPools())) as face:
        first = await face.call("ListWarmPools", pb.ListWarmPoolsRequest(page_size=2))
        rest = await face.call("ListWarmPools", pb.ListWarmPoolsRequest(page_size=2, page_token=first.next_page_token))
        wrong = await face.refused("ListWarmPools", pb.ListWarmPoolsRequest(page_token="x"))
        negative = await face.refused("ListWarmPools", pb.ListWarmPoolsRequest(page_size=-1))
    assert ([each.machine_id for each in first.pools], first.total_count) == ([1, 2], 3)
    assert ([each.machine_id for each in rest.pools], rest.next_page_token) == ([3], "")
    assert list(wrong.fields) == ["page_token"]
    assert list(negative.fields) == ["page_size"]


async def test_a_watch_sends_each_change_with_its_token_and_resumes_after_one() -> None:
    failing = pool_view(facts={"state": PoolState.FAILOVER}, incident=open_incident(last_good_at=at(-6)))
    pools = StubPools(changes=[("1", pool_view()), ("2", failing), ("3", pool_view())])
    async with both_faces(service_over(StubEngine(), pools)) as both:
        seen = [each async for each in both.grpc.call("WatchWarmPool", pb.WatchWarmPoolRequest(machine_id=123))]
        answer = await both.send("GET", f"{BASE}/events/123", headers={"Last-Event-ID": "1"})
    assert [(each.resume_token, each.state) for each in seen] == [("1", "active"), ("2", "failover"), ("3", "active")]
    assert (seen[1].incident.phase, seen[1].incident.phases.detect) == ("fence", 6.0)
    assert not seen[1].incident.phases.HasField("fence")
    assert [line for line in answer.body.decode().splitlines() if line.startswith("id:")] == ["id: 2", "id: 3"]


async def test_a_degraded_pool_says_why_and_what_can_be_done() -> None:
    facts = {"state": PoolState.DEGRADED, "degraded": Degraded.NO_FREE_GPU, "error": "both GPUs are taken"}
    view = pool_view(facts=facts | {"recovery_s": 75.0})
    answer = await sent(StubPools(view), "GET", "/status/123")
    assert (answer.json["degraded_reason"], answer.json["error_message"]) == ("no_free_gpu", "both GPUs are taken")
    first, second = answer.json["troubleshooting"]
    assert "min_gpus 2" in first
    assert "60 s" in second


async def test_a_healthy_pool_has_no_troubleshooting() -> None:
    assert (await sent(StubPools(), "GET", "/status/123")).json["troubleshooting"] == []


async def test_costs_come_by_part_and_retained_volumes_with_their_price() -> None:
    old = volume(9, 777, 40)
    view = pool_view(retained=(old,))
    answer = (await sent(StubPools(replace(view, machines=(*view.machines, old))), "GET", "/status/123")).json
    parts = [(each["part"], each["state"], each["price_per_hour"]) for each in answer["costs"]]
    assert parts == [
        ("primary", "active", 0.45),
        ("standby", "stopped", 0.01),
        ("volume", "100 GB", 0.002),
        ("retained_volume", "40 GB", 0.002),
    ]
    assert answer["costs"][0]["price_per_month"] == pytest.approx(324.0)
    kept = answer["retained_volumes"][0]
    assert (kept["volume_id"], kept["host_machine_id"], kept["size_gb"]) == ("777", 88888, 40)


async def test_failovers_are_shown_with_their_phases_and_percentiles() -> None:
    times = pool_view().failovers[0]
    view = pool_view(failovers=tuple(replace(times, total=float(total)) for total in range(1, 21)))
    answer = (await sent(StubPools(view), "GET", "/status/123")).json
    assert (answer["failover_p50_seconds"], answer["failover_p95_seconds"]) == (10.0, 19.0)
    assert answer["failovers"][0]["phases"] == dict(times.phases)
    none = (await sent(StubPools(pool_view(failovers=())), "GET", "/status/123")).json
    assert (none["failover_p50_seconds"], none["failover_p95_seconds"]) == (None, None)


def test_long_calls_have_ten_minutes_and_short_ones_do_not() -> None:
    seconds = {rpc.name: rpc.seconds for rpc in rpcs_of(object())}
    long = ("ProvisionWarmPool", "TestWarmPoolFailover", "FailoverWarmPool", "CleanupWarmPool", "DeleteRetainedVolume")
    assert {seconds[name] for name in long} == {600.0}
    assert seconds["DisableWarmPool"] == DEFAULT_SECONDS


async def test_the_deadline_of_a_call_without_one_reaches_the_engine() -> None:
    pools = StubPools()
    async with facing(service_over(StubEngine(), pools)) as face:
        await face.call("CleanupWarmPool", pb.CleanupWarmPoolRequest(machine_id=1), timeout=None)
        left = pools.callers[0].deadline - face.clock.monotonic()
    assert 500 < left <= 600


async def test_a_viewer_may_look_and_not_change() -> None:
    async with facing(service_over(StubEngine(), StubPools())) as face:
        await face.call("GetWarmPoolStatus", pb.GetWarmPoolStatusRequest(machine_id=1), key="gp_viewer")
        request = pb.DeleteRetainedVolumeRequest(machine_id=1, volume_id="7")
        refused = await face.refused("DeleteRetainedVolume", request, key="gp_viewer")
    assert refused.code is StatusCode.PERMISSION_DENIED


async def test_without_warm_pools_the_calls_are_not_implemented() -> None:
    async with facing(service_over(StubEngine())) as face:
        refused = await face.refused("GetWarmPoolStatus", pb.GetWarmPoolStatusRequest(machine_id=1))
    assert refused.code is StatusCode.UNIMPLEMENTED


async def test_a_number_that_is_not_decimal_has_only_its_text() -> None:
    view = pool_view()
    assert view.primary is not None
    other = replace(view.primary, instance_id="abc-1")
    answer = (await sent(StubPools(replace(view, primary=other)), "GET", "/status/123")).json
    assert (answer["primary_gpu_id"], answer["primary_contract_id"]) == (None, "abc-1")


def test_a_contract_that_ends_first_is_the_one_that_counts() -> None:
    view = pool_view()
    assert view.standby is not None
    ends = replace(view.standby, observed=replace(view.standby.observed, contract_ends_at=at(3600)))
    shown = status_message(replace(view, standby=ends), at(0))
    assert shown.contract_ends_at.ToDatetime() == (at(3600)).replace(tzinfo=None)
