"""Streams over HTTP: Server-Sent Events that can be resumed where they ended."""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from gpuproxy.adapters.system import ScaledClock
from gpuproxy.edge.http.events import HEARTBEAT_SECONDS
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import NotFound
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.edge.http_face import both_faces

PATH = "/api/v1/reservations/res-1/events"
KEY = {"X-API-Key": "gp_viewer"}


class Changing:
    """A reservation that changes exactly twice."""

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


class Beats(ScaledClock):
    """A clock whose sleeps end when the test says so; it records their durations."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__(scale)
        self.slept: list[float] = []
        self.beats: asyncio.Queue[None] = asyncio.Queue()
        self.resting = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.resting.set()
        await self.beats.get()

    async def beat(self) -> None:
        """Wait until somebody sleeps."""
        await self.resting.wait()
        self.resting.clear()
        self.beats.put_nowait(None)


def events(body: bytes) -> list[tuple[str, str, Any]]:
    found = []
    for block in body.decode().strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        found.append((lines.get("event", ""), lines.get("id", ""), json.loads(lines["data"])))
    return found


async def test_every_change_is_an_event_with_its_resume_token() -> None:
    async with both_faces(Changing()) as both:
        answer = await both.send("GET", PATH, key="gp_viewer")
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert [(name, token, data["reservation"]["ready_count"]) for name, token, data in events(answer.body)] == [
        ("", "1", 0),
        ("", "2", 1),
    ]


async def test_a_stream_resumes_after_the_last_event() -> None:
    service = Changing()
    async with both_faces(service) as both:
        answer = await both.send("GET", PATH, headers={"Last-Event-ID": "1"})
        await both.send("GET", f"{PATH}?resume_token=1")
    assert [token for _, token, _ in events(answer.body)] == ["2"]
    assert service.tokens == ["1", "1"]


async def test_the_last_event_counts_and_not_the_token_with_which_the_stream_was_opened_first() -> None:
    service = Changing()
    async with both_faces(service) as both:
        answer = await both.send("GET", f"{PATH}?resume_token=0", headers={"Last-Event-ID": "1"})
    assert [token for _, token, _ in events(answer.body)] == ["2"]
    assert service.tokens == ["1"]


async def test_a_refusal_before_the_first_event_is_an_ordinary_error() -> None:
    async with both_faces(Changing()) as both:
        answer = await both.send("GET", PATH.replace("res-1", "res-2"))
        nobody = await both.send("GET", PATH, key=None)
    assert (answer.status, answer.error["status"], nobody.status) == (404, "NOT_FOUND", 401)


async def test_a_drain_ends_a_stream_and_tells_the_client_to_open_it_again() -> None:
    async with both_faces(Changing(endless=True)) as both, both.session.get(both.url + PATH, headers=KEY) as reply:
        first = await reply.content.readuntil(b"\n\n")
        await both.http.drain()
        rest = await reply.read()
    name, _, data = events(first + rest)[-1]
    assert (name, data["error"]["reason"], data["error"]["code"]) == ("error", "SHUTTING_DOWN", 503)


async def test_a_client_that_disconnects_ends_its_stream() -> None:
    service = Changing(endless=True)
    async with both_faces(service) as both:
        async with both.session.get(both.url + PATH, headers=KEY) as reply:
            await reply.content.readuntil(b"\n\n")
            reply.close()
        async with asyncio.timeout(120):
            await service.closed.wait()


# --------------------------------------------------------------------------------------------------------- heartbeats


async def test_a_quiet_stream_sends_a_heartbeat_regularly() -> None:
    clock = Beats()
    async with (
        both_faces(Changing(endless=True), clock=clock) as both,
        both.session.get(both.url + PATH, headers=KEY) as reply,
    ):
        assert reply.headers["X-Accel-Buffering"] == "no"
        for _ in range(2):
            await reply.content.readuntil(b"\n\n")
        for _ in range(3):
            await clock.beat()
            assert (await reply.content.readuntil(b"\n\n")).startswith(b": ")
    assert set(clock.slept) == {HEARTBEAT_SECONDS}


async def test_heartbeats_come_in_real_seconds_however_fast_the_clock_runs() -> None:
    clock = Beats(60)
    async with (
        both_faces(Changing(endless=True), clock=clock) as both,
        both.session.get(both.url + PATH, headers=KEY) as reply,
    ):
        await reply.content.readuntil(b"\n\n")
        await clock.resting.wait()
    assert clock.slept == [HEARTBEAT_SECONDS * 60]


class Late(Changing):
    """Sends nothing until the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    async def WatchReservation(  # noqa: N802
        self, request: pb.WatchReservationRequest, _caller: Caller
    ) -> AsyncGenerator[pb.WatchReservationResponse, None]:
        await self.go.wait()
        raise NotFound("There is no such reservation.")
        yield pb.WatchReservationResponse()


async def test_there_is_no_heartbeat_before_the_first_event_so_that_a_refusal_is_an_ordinary_error() -> None:
    service, clock = Late(), Beats()
    async with both_faces(service, clock=clock) as both:
        asked = asyncio.create_task(both.send("GET", PATH))
        await clock.beat()
        await clock.resting.wait()
        service.go.set()
        answer = await asked
    assert (answer.status, answer.error["status"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize("beats", [0, 2])
async def test_a_client_that_resets_its_connection_frees_its_stream_and_its_heartbeat(beats: int) -> None:
    service, clock = Changing(endless=True), Beats()
    async with both_faces(service, clock=clock) as both:
        before = len(asyncio.all_tasks())
        reader, writer = await asyncio.open_connection("127.0.0.1", both.port)
        writer.write(f"GET {PATH} HTTP/1.1\r\nHost: x\r\nX-API-Key: gp_user\r\n\r\n".encode())
        await reader.readuntil(b'"resume_token":"2"')
        for _ in range(beats):
            await clock.beat()
        writer.transport.abort()
        async with asyncio.timeout(120):
            await service.closed.wait()
            while len(asyncio.all_tasks()) > before:  # noqa: ASYNC110 - tasks end by themselves, unannounced
                await asyncio.sleep(0)


class Flooding:
    """Sends as long as the client reads."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def WatchReservation(  # noqa: N802
        self, _request: pb.WatchReservationRequest, _caller: Caller
    ) -> AsyncGenerator[pb.WatchReservationResponse, None]:
        try:
            while True:
                yield pb.WatchReservationResponse(reservation=pb.Reservation(reservation_id="r" * 60_000))
        finally:
            self.closed.set()


async def test_a_client_that_reads_nothing_loses_its_stream_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuproxy.edge.http.server._STUCK_MS", 200)
    service = Flooding()
    async with both_faces(service) as both:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", both.port))
            client.sendall(f"GET {PATH} HTTP/1.1\r\nHost: x\r\nX-API-Key: gp_user\r\n\r\n".encode())
            async with asyncio.timeout(120):
                await service.closed.wait()


async def test_a_client_that_reads_keeps_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    # Longer than a busy machine stands still.
    monkeypatch.setattr("gpuproxy.edge.http.server._STUCK_MS", 10_000)
    service = Flooding()
    async with both_faces(service) as both, both.session.get(both.url + PATH, headers=KEY) as reply:
        for _ in range(100):
            await reply.content.readuntil(b"data")
        assert not service.closed.is_set()
