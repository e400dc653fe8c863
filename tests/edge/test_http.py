"""Requests and responses over HTTP: formats, statuses, errors, headers."""

import gzip
from datetime import UTC, datetime
from typing import Any

import pytest

from gpuproxy.instances.requests import LeaseView
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import CreationFailed, FailedPrecondition, Unavailable
from gpuproxy.model.leases import LeaseState
from gpuproxy.model.money import Micro
from gpuproxy.model.reasons import Reason
from gpuproxy.model.reservations import ReservationState
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.edge.engine import StubEngine, lease, offer, service_over, view
from tests.edge.http_face import both_faces

RESERVE = "/api/v1/gpu/instances/reserve"
LIST = "/api/v1/gpu/instances"
SEED = {"count": 4, "filters": {"min_vram": 16, "max_price": 2.0, "provider": "vast.ai"}}


async def reserve(engine: StubEngine, body: Any, **how: Any) -> Any:
    async with both_faces(service_over(engine)) as both:
        return await both.send("POST", RESERVE, body, **how)


# ----------------------------------------------------------------------------------------------------------- requests


async def test_the_published_body_of_reserve_reaches_the_engine() -> None:
    engine = StubEngine()
    answer = await reserve(engine, SEED | {"config": {"image": "busybox", "ports": [8080], "disk_gb": 20}})
    assert answer.status == 201
    demand = engine.demands[0]
    assert (demand.count, demand.filter.min_vram, demand.filter.max_price) == (4, 16, 2.0)
    assert demand.filter.providers == {"vast.ai"}
    assert (demand.spec.image, demand.spec.ports, demand.spec.disk_gb) == ("busybox", (8080,), 20)


async def test_flat_fields_give_the_same_demand() -> None:
    engine = StubEngine()
    await reserve(engine, SEED)
    await reserve(engine, {"count": 4, "min_vram": 16, "max_price": 2, "provider": "vast.ai"})
    assert engine.demands[0] == engine.demands[1]


async def test_filters_of_machines_are_taken_in_the_body_and_in_a_query() -> None:
    engine = StubEngine(offers=[offer(1, cpu_cores=8.0), offer(2, cpu_cores=16.0)])
    bounds = {"min_cpu_cores": 16, "min_ram_gb": 32, "min_inet_down": 1.5, "max_traffic_price": 0}
    bounds |= {"same_country": True, "same_model": True}
    async with both_faces(service_over(engine)) as both:
        await both.send("POST", RESERVE, {"count": 1, "filters": bounds})
        await both.send("POST", RESERVE, {"count": 1, **bounds})
        listed = await both.send("GET", f"{LIST}?min_cpu_cores=16")
        refused = await both.send("GET", f"{LIST}?min_cpu_cores=-1&max_traffic_price=NaN")
    demand = engine.demands[0]
    assert demand == engine.demands[1]
    assert (demand.filter.min_cpu_cores, demand.filter.min_ram_gb, demand.filter.min_inet_down) == (16, 32, 1.5)
    assert (demand.filter.max_traffic_price, demand.same_country, demand.same_model) == (0, True, True)
    assert [each["id"] for each in listed.json["instances"]] == ["vast-2"]
    assert refused.status == 400
    assert set(refused.violations()) <= {"min_cpu_cores", "max_traffic_price"}


async def test_a_word_is_taken_in_any_case_over_http_too() -> None:
    engine = StubEngine()
    assert (await reserve(engine, {"count": 1, "on_not_ready": "Release"})).status == 201
    assert engine.demands[0].on_not_ready == "release"
    answer = await reserve(engine, {"count": 1, "on_not_ready": "drop"})
    assert answer.violations() == {"on_not_ready": "must be one of replace, release, keep, not 'drop'"}


async def test_a_group_may_repeat_a_flat_field_only_with_the_same_value() -> None:
    engine = StubEngine()
    assert (await reserve(engine, SEED | {"min_vram": 16})).status == 201
    answer = await reserve(engine, SEED | {"min_vram": 24})
    assert (answer.status, answer.violations()) == (
        400,
        {"filters.min_vram": "differs from min_vram; give only one of them"},
    )
    assert len(engine.demands) == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"count": 4, "bogus": 1}, "bogus"),
        ({"count": 4, "minVram": 16}, "minVram"),
        ({"count": 4, "filters": {"image": "x"}}, "filters.image"),
        ({"count": 4, "filters": []}, "filters"),
        ({"count": "4"}, "count"),
        ({"count": 4.5}, "count"),
        ({"count": True}, "count"),
        ({"count": 2**40}, "count"),
        ({"count": 4, "ports": [1, "2"]}, "ports[1]"),
        ({"count": 4, "env": {"A": 1}}, "env.A"),
        ({"count": 4, "config": {"env": ["A=1"]}}, "config.env"),
        ({"count": 4, "lease_duration": "soon"}, "lease_duration"),
        ({"count": 4, "lease_duration": 86400}, "lease_duration"),
        ({"count": 4, "wait": "false"}, "wait"),
        (b'{"count": 4, "min_vram": NaN}', "min_vram"),
        (b'{"count": 4, "filters": {"max_price": Infinity}}', "filters.max_price"),
        (b'{"count": 4, "max_price": 1e999}', "max_price"),
        (b'{"count": 4, "count": 5}', "count"),
        (b'{"count": 4', "body"),
        (b"[4]", "body"),
        (b'{"image": "\xff"}', "body"),
        (b'{"image": "\\ud800"}', "image"),
        (b'{"\\ud800": 1}', "?"),
        (b'{"\\udcff": null}', "?"),
        (b'{"\\ud800": 1, "\\ud800": 2}', "?"),
        (b'{"filters": {"\\ud800": 1}}', "filters.?"),
        (b'{"registry_auth": {"\\ud800": 1}}', "registry_auth.?"),
        (b'{"env": {"\\ud800": "x"}}', "env"),
        (b'{"env": {"\\ud800": 1}}', "env.?"),
        (b'{"count":' + b"9" * 5000 + b"}", "body"),
        (b'{"env":' + b"[" * 100_000, "body"),
        (b'{"image":"' + b"x" * 1_100_000 + b'"}', "body"),
    ],
)
async def test_an_unreadable_body_is_refused_with_its_position_and_rents_nothing(body: Any, field: str) -> None:
    engine = StubEngine()
    answer = await reserve(engine, body)
    assert (answer.status, answer.error["reason"]) == (400, "INVALID_ARGUMENT")
    assert field in answer.violations()
    assert not engine.demands


async def test_all_errors_are_reported_together() -> None:
    answer = await reserve(StubEngine(), {"count": "x", "bogus": 1, "filters": {"min_vram": []}})
    assert set(answer.violations()) == {"count", "bogus", "filters.min_vram"}


@pytest.mark.parametrize("duration", ["86400s", "24h", "1440m", "1d"])
async def test_durations_have_units(duration: str) -> None:
    engine = StubEngine()
    assert (await reserve(engine, {"count": 1, "lease_duration": duration})).status == 201
    assert engine.demands[0].lease_duration is not None
    assert engine.demands[0].lease_duration.total_seconds() == 86400


async def test_null_counts_as_absent_and_the_content_type_is_ignored() -> None:
    engine = StubEngine()
    body = {"count": 1, "wait": None, "filters": None, "min_count": None, "image": None}
    assert (await reserve(engine, body, headers={"Content-Type": "text/plain"})).status == 201
    assert (engine.demands[0].wait, engine.demands[0].min_count) == (True, None)


async def test_an_empty_body_is_an_empty_object() -> None:
    answer = await reserve(StubEngine(), b"")
    assert set(answer.violations()) == {"count"}


async def test_the_idempotency_key_is_the_request_id() -> None:
    engine = StubEngine()
    headers = {"Idempotency-Key": "train-1"}
    await reserve(engine, SEED, headers=headers)
    await reserve(engine, SEED | {"request_id": "train-1"}, headers=headers)
    assert [demand.request_id for demand in engine.demands] == ["train-1", "train-1"]
    answer = await reserve(engine, SEED | {"request_id": "other"}, headers=headers)
    assert (answer.status, set(answer.violations())) == (400, {"request_id"})


@pytest.mark.parametrize("blank", ["", "  "])
async def test_a_blank_idempotency_key_rents_nothing(blank: str) -> None:
    engine = StubEngine()
    answer = await reserve(engine, SEED, headers={"Idempotency-Key": blank})
    assert (answer.status, set(answer.violations()), engine.demands) == (400, {"Idempotency-Key"}, [])
    assert (await reserve(engine, SEED | {"request_id": ""})).status == 201


async def test_query_fields_have_the_same_types_as_body_fields() -> None:
    async with both_faces(service_over(StubEngine(offers=[offer(1), offer(2, verified=False)]))) as both:
        found = await both.send("GET", f"{LIST}?min_vram=16.5&max_price=2&verified_only=false&num_gpus=1")
        assert [each["id"] for each in found.json["instances"]] == ["vast-1", "vast-2"]
        query = "min_vram=much&num_gpus=1.5&verified_only=maybe&bogus=1&provider=a&provider=b"
        wrong = await both.send("GET", f"{LIST}?{query}")
    assert set(wrong.violations()) == {"min_vram", "num_gpus", "verified_only", "bogus", "provider"}


async def test_a_map_in_a_query_has_its_key_in_brackets() -> None:
    engine = StubEngine()
    async with both_faces(service_over(engine)) as both:
        assert (await both.send("GET", "/api/v1/reservations?labels[team]=vision&page_size=7")).status == 200
        wrong = await both.send("GET", "/api/v1/reservations?labels=vision")
        twice = await both.send("GET", "/api/v1/reservations?labels[a]=1&labels[b]=1&labels[a]=2")
    assert engine.asked[0] == ("reservations", "", {"team": "vision"}, 7, "")
    assert wrong.violations() == {"labels": "use labels[key]"}
    assert twice.violations() == {"labels[a]": "is given more than once"}
    assert len(engine.asked) == 1


async def test_a_name_that_is_no_unicode_text_is_refused_before_and_after_the_login() -> None:
    async with both_faces(service_over(StubEngine())) as both:
        stranger = await both.send("POST", "/api/v1/auth/login", b'{"\\ud800": 1}', key=None)
        heads = [b"GET /api/v1/reservations?\xff=1", b"GET /api/v1/reservations?labels[\xff]=1"]
        heads += [b"GET /api/v1/reservations?labels[a]=\xff", b"POST /api/v1/gpu/instances/reserve?\xff=1"]
        answers = [
            await both.raw(head + b" HTTP/1.1\r\nHost: x\r\nX-API-Key: gp_user\r\nConnection: close\r\n\r\n")
            for head in heads
        ]
    assert (stranger.status, set(stranger.violations())) == (400, {"?"})
    assert [answer.split(b" ", 2)[1] for answer in answers] == [b"400"] * 4


async def test_a_path_and_a_body_must_have_the_same_value() -> None:
    engine = StubEngine(offers=[offer(1)])
    async with both_faces(service_over(engine)) as both:
        same = await both.send("POST", f"{LIST}/vast.ai/vast-1", {"instance_id": "vast-1", "image": "busybox"})
        other = await both.send("POST", f"{LIST}/vast.ai/vast-1", {"instance_id": "vast-2"})
        query = await both.send("POST", f"{LIST}/vast.ai/vast-1?image=busybox", {})
    assert (same.status, other.status, query.status) == (201, 400, 400)
    assert (set(other.violations()), set(query.violations())) == ({"instance_id"}, {"image"})


async def test_times_are_rfc_3339() -> None:
    engine = StubEngine()
    async with both_faces(service_over(engine)) as both:
        path = "/api/v1/reservations/res-1/extend"
        assert (await both.send("POST", path, {"expires_at": "2026-12-20T16:30:00+01:00"})).status == 200
        wrong = [
            await both.send("POST", path, {"expires_at": text})
            for text in ("tomorrow", *(f"2026-12-20T16:30:00{offset}" for offset in ("+99:99", "+24:00", "-01:60")))
        ]
    assert engine.asked == [("extend", "res-1", datetime(2026, 12, 20, 15, 30, tzinfo=UTC))]
    assert [set(each.violations()) for each in wrong] == [{"expires_at"}] * 4


# ------------------------------------------------------------------------------------------------------------ answers


async def test_an_answer_has_every_field_with_null_for_what_is_absent() -> None:
    answer = (await reserve(StubEngine(), SEED)).json
    assert set(answer) == set(pb.ReserveGPUsResponse.DESCRIPTOR.fields_by_name)
    gpu = answer["reserved_instances"][0]
    assert set(gpu) == set(pb.GPUInstance.DESCRIPTOR.fields_by_name)
    assert (gpu["id"], gpu["status"], gpu["metadata"]["contract_id"]) == ("vast-1", "reserved", "9001")
    assert (gpu["ready_at"], answer["expires_at"]) == (None, None)
    assert gpu["created_at"] == "2026-06-12T12:00:00Z"
    assert (gpu["price_per_hour"], gpu["vram_gb"]) == (0.4, 24)


@pytest.mark.parametrize(
    ("made", "status"),
    [
        (view(lease(1), lease(2)), 201),
        (view(lease(1, LeaseState.UNKNOWN), state=ReservationState.PENDING), 202),
    ],
)
async def test_an_incomplete_result_has_status_202_and_a_complete_one_201(made: Any, status: int) -> None:
    assert (await reserve(StubEngine(answer=made), SEED)).status == status


async def test_lists_are_the_same_as_over_grpc_in_every_order_and_page() -> None:
    offers = [offer(number, price=100_000 * number, vram=8 * (number % 3 + 1)) for number in range(1, 8)]
    engine = StubEngine(offers=offers, mine=[LeaseView(lease=lease(1), cost=Micro(7))])
    async with both_faces(service_over(engine)) as both:
        for query in ("", "?page_size=3", "?order_by=vram_gb%20desc", "?disk_gb=100", "?state=all", "?max_price=0.3"):
            answer = await both.send("GET", LIST + query)
            request = pb.ListGPUInstancesRequest(
                page_size=3 if "page_size" in query else 0,
                order_by="vram_gb desc" if "order_by" in query else "",
                disk_gb=100 if "disk_gb" in query else 0,
                state="all" if "state" in query else "",
                max_price=0.3 if "max_price" in query else 0,
            )
            expected = await both.grpc.call("ListGPUInstances", request)
            assert [each["id"] for each in answer.json["instances"]] == [each.id for each in expected.instances]
            assert answer.json["total_count"] == expected.total_count
            assert answer.json["next_page_token"] == expected.next_page_token


async def test_an_empty_list_is_not_null() -> None:
    async with both_faces(service_over(StubEngine())) as both:
        answer = await both.send("GET", LIST)
    assert (answer.json["instances"], answer.json["total_count"]) == ([], 0)


async def test_an_unchanged_answer_is_not_sent_again() -> None:
    engine = StubEngine(offers=[offer(1)])
    async with both_faces(service_over(engine)) as both:
        first = await both.send("GET", LIST)
        again = await both.send("GET", LIST, headers={"If-None-Match": first.headers["ETag"]})
        other = await both.send("GET", f"{LIST}?min_vram=80", headers={"If-None-Match": first.headers["ETag"]})
    assert (first.status, again.status, again.body, other.status) == (200, 304, b"", 200)


async def test_large_answers_are_compressed_if_the_client_accepts_it() -> None:
    engine = StubEngine(offers=[offer(number) for number in range(1, 200)])
    async with both_faces(service_over(engine)) as both:
        plain = await both.send("GET", LIST, headers={"Accept-Encoding": "identity"})
        packed = await both.send("GET", LIST, headers={"Accept-Encoding": "br, gzip"})
        refused = await both.send("GET", LIST, headers={"Accept-Encoding": "gzip;q=0"})
    assert gzip.decompress(packed.body) == plain.body == refused.body
    assert (packed.headers["Content-Encoding"], len(packed.body) < len(plain.body) / 4) == ("gzip", True)


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("refusal", "status", "word"),
    [
        (FailedPrecondition("too few", reason=Reason.NOT_ENOUGH_GPUS), 400, "FAILED_PRECONDITION"),
        (FailedPrecondition("too dear", reason=Reason.BUDGET_EXCEEDED), 402, "FAILED_PRECONDITION"),
        (CreationFailed("all failed"), 500, "INTERNAL"),
        (Unavailable("silent", retry_after=6.2), 503, "UNAVAILABLE"),
    ],
)
async def test_refusals_have_the_format_of_the_contract(refusal: Any, status: int, word: str) -> None:
    answer = await reserve(StubEngine(answer=refusal), SEED)
    error = answer.error
    assert (answer.status, error["code"], error["status"]) == (status, status, word)
    assert (error["reason"], error["message"]) == (refusal.reason, refusal.message)
    assert error["details"][0]["reason"] == refusal.reason
    assert error["trace_id"] == answer.headers["X-Trace-Id"]
    assert answer.headers.get("Retry-After") == ("7" if status == 503 else None)


async def test_a_missing_and_a_wrong_key_are_401_and_a_viewers_key_is_403() -> None:
    async with both_faces(service_over(StubEngine())) as both:
        none = await both.send("POST", RESERVE, SEED, key=None)
        wrong = await both.send("POST", RESERVE, SEED, key="gp_nobody")
        viewer = await both.send("POST", RESERVE, SEED, key="gp_viewer")
        bearer = await both.send("POST", RESERVE, SEED, key=None, headers={"Authorization": "Bearer gp_user"})
    assert (none.status, wrong.status, viewer.status, bearer.status) == (401, 401, 403, 201)
    assert none.error["message"] == wrong.error["message"]
    assert none.headers["WWW-Authenticate"] == "Bearer"


async def test_unknown_paths_and_verbs_have_the_usual_error_format() -> None:
    async with both_faces(service_over(StubEngine())) as both:
        nowhere = await both.send("GET", "/api/v1/nothing")
        verb = await both.send("PATCH", RESERVE)
        options = await both.send("OPTIONS", RESERVE, headers={"Origin": "http://evil.example"})
    assert (nowhere.status, nowhere.error["status"]) == (404, "NOT_FOUND")
    assert (verb.status, verb.error["reason"], verb.headers["Allow"]) == (405, "METHOD_NOT_ALLOWED", "POST")
    for refused in (nowhere, verb):
        assert [detail["reason"] for detail in refused.error["details"]] == [refused.error["reason"]]
    assert "Access-Control-Allow-Origin" not in options.headers


async def test_a_bug_shows_no_details() -> None:
    class Broken:
        async def GetLoadInfo(self, _request: object, _caller: Caller) -> pb.GetLoadInfoResponse:  # noqa: N802
            raise RuntimeError("the secret is hunter2")

    async with both_faces(Broken()) as both:
        answer = await both.send("GET", "/api/v1/loadbalancer/loads")
    assert (answer.status, answer.error["message"]) == (500, "internal error")
    assert b"hunter2" not in answer.body


async def test_every_response_has_security_headers_and_no_server_version() -> None:
    async with both_faces(service_over(StubEngine())) as both:
        for path in ("/api/v1/loadbalancer/strategy", "/nowhere", "/healthz", "/docs"):
            headers = (await both.send("GET", path)).headers
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            assert headers["Server"] == "gpuproxy"


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (ReservationState.RELEASING, LeaseState.RELEASING),
        (ReservationState.RELEASED, LeaseState.RELEASED),
        (ReservationState.FAILED, LeaseState.FAILED),
    ],
)
@pytest.mark.parametrize("path", [RESERVE, f"{LIST}/vast.ai/vast-1"])
async def test_a_repeat_of_an_ended_reservation_is_200_with_its_state_and_message(
    path: str, state: ReservationState, kind: LeaseState
) -> None:
    engine = StubEngine(answer=view(lease(1, kind), state=state, message="It has ended."))
    body = {"count": 2} if path == RESERVE else {}
    async with both_faces(service_over(engine)) as both:
        answer = await both.send("POST", path, body, headers={"Idempotency-Key": "train-7"})
    told = answer.json
    assert answer.status == 200
    assert told["state" if path == RESERVE else "status"] == state.value
    assert told["message"] == "It has ended."
    assert told.get("reserved_count", 0) == 0


@pytest.mark.parametrize("state", [ReservationState.STARTING, ReservationState.ACTIVE, ReservationState.PARTIAL])
async def test_a_repeat_of_a_reservation_with_machines_is_201(state: ReservationState) -> None:
    assert (await reserve(StubEngine(answer=view(lease(1), state=state)), SEED)).status == 201
