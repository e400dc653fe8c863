"""Streams over HTTP: Server-Sent Events that can be taken up again where they ended."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import NotFound
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.edge.http_face import both_faces

PATH = "/api/v1/reservations/res-1/events"
KEY = {"X-API-Key": "gp_viewer"}


class Changing:
    """A reservation that changes twice, and then no more."""

    def __init__(self, *, endless: bool = False) -> None:
        self.endless = endless
        self.tokens: list[str] = []
        self.closed = asyncio.Event()

    async def WatchReservation(  # noqa: N802
        self, request: pb.WatchReservationRequest, _caller: Caller
    ) -> AsyncGenerator[pb.WatchReservationResponse, None]:
        if request.reservation_id != "res-1":
            raise NotFound("There is no such reservation.")
        self.tokens.append(request.resume_token)
        try:
            for number in range(int(request.resume_token or 0), 2):
                reservation = pb.Reservation(reservation_id="res-1", ready_count=number)
                yield pb.WatchReservationResponse(reservation=reservation, resume_token=str(number + 1))
            if self.endless:
                await asyncio.Event().wait()
        finally:
            self.closed.set()


def events(body: bytes) -> list[tuple[str, str, Any]]:
    found = []
    for block in body.decode().strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        found.append((lines.get("event", ""), lines.get("id", ""), json.loads(lines["data"])))
    return found


async def test_every_change_is_an_event_with_the_token_to_go_on_after() -> None:
    async with both_faces(Changing()) as both:
        answer = await both.send("GET", PATH, key="gp_viewer")
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert [(name, token, data["reservation"]["ready_count"]) for name, token, data in events(answer.body)] == [
        ("", "1", 0),
        ("", "2", 1),
    ]


async def test_a_stream_goes_on_after_the_last_event() -> None:
    service = Changing()
    async with both_faces(service) as both:
        answer = await both.send("GET", PATH, headers={"Last-Event-ID": "1"})
        await both.send("GET", f"{PATH}?resume_token=1")
    assert [token for _, token, _ in events(answer.body)] == ["2"]
    assert service.tokens == ["1", "1"]


async def test_a_refusal_before_the_first_event_is_an_ordinary_error() -> None:
    async with both_faces(Changing()) as both:
        answer = await both.send("GET", PATH.replace("res-1", "res-2"))
        nobody = await both.send("GET", PATH, key=None)
    assert (answer.status, answer.error["status"], nobody.status) == (404, "NOT_FOUND", 401)


async def test_a_drain_ends_a_stream_with_words_to_open_it_again() -> None:
    async with both_faces(Changing(endless=True)) as both, both.session.get(both.url + PATH, headers=KEY) as reply:
        first = await reply.content.readuntil(b"\n\n")
        await both.http.drain()
        rest = await reply.read()
    name, _, data = events(first + rest)[-1]
    assert (name, data["error"]["reason"], data["error"]["code"]) == ("error", "SHUTTING_DOWN", 503)


async def test_a_client_that_leaves_ends_its_stream() -> None:
    service = Changing(endless=True)
    async with both_faces(service) as both:
        async with both.session.get(both.url + PATH, headers=KEY) as reply:
            await reply.content.readuntil(b"\n\n")
            reply.close()
        async with asyncio.timeout(10):
            await service.closed.wait()
