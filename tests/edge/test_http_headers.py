"""Headers that are given twice, and expectations that the server does not know."""

import json

import pytest

from tests.edge.engine import StubEngine, service_over
from tests.edge.http_face import both_faces
from tests.edge.test_http import RESERVE, SEED


@pytest.mark.parametrize("name", ["Idempotency-Key", "Request-Timeout"])
async def test_a_header_that_is_given_twice_is_refused_and_rents_nothing(name: str) -> None:
    engine, body = StubEngine(), b'{"count": 1}'
    head = b"POST " + RESERVE.encode() + b" HTTP/1.1\r\nHost: x\r\nX-API-Key: gp_user\r\nConnection: close\r\n"
    async with both_faces(service_over(engine)) as both:
        twice = b"".join(f"{name}: {value}\r\n".encode() for value in (30, 60))
        answer = await both.raw(head + twice + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert (error["code"], error["message"]) == (400, f"{name}: is given more than once")
    assert not engine.demands


async def test_a_watch_with_two_last_event_ids_is_refused() -> None:
    head = b"GET /api/v1/reservations/res-1/events HTTP/1.1\r\nHost: x\r\nX-API-Key: gp_user\r\nConnection: close\r\n"
    async with both_faces(service_over(StubEngine())) as both:
        answer = await both.raw(head + b"Last-Event-ID: 1\r\nLast-Event-ID: 2\r\n\r\n")
    assert b"Last-Event-ID: is given more than once" in answer


@pytest.mark.parametrize("value", ["foo", "", "x" * 500])
async def test_an_unknown_expectation_has_the_usual_error_format_and_is_not_quoted(value: str) -> None:
    engine = StubEngine()
    async with both_faces(service_over(engine)) as both:
        for path in (RESERVE, "/api/v1/nowhere"):
            answer = await both.send("POST", path, SEED, headers={"Expect": value})
            if value:
                assert (answer.status, answer.error["reason"]) == (417, "INVALID_ARGUMENT")
                assert answer.violations() == {"Expect": "must be 100-continue, or left out"}
                assert (answer.headers["Server"], answer.headers["Content-Type"]) == (
                    "gpuproxy", "application/json",
                )  # fmt: skip
                assert answer.error["trace_id"] == answer.headers["X-Trace-Id"]
        right = await both.send("POST", RESERVE, SEED, headers={"Expect": "100-Continue"})
    assert right.status == 201
    assert len(engine.demands) == (1 if value else 2)
