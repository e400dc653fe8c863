"""Streams over a real channel: the rules of every call, and an end that tells the client to open the stream again."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from grpc import StatusCode, aio

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import NotFound
from gpuproxy.store.keys import KeyRow
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.edge.engine import StubEngine, lease, service_over, view
from tests.edge.face import SECONDS, Face, KeyBook, all_keys, facing

pytestmark = pytest.mark.long

ASKED = pb.WatchReservationRequest(reservation_id="res-1")


class Watched(StubEngine):
    """Reservations that change when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: asyncio.Queue[Any] = asyncio.Queue()
        self.open = 0
        self.opened = asyncio.Event()

    async def watch(self, caller: Caller, reservation_id: str, resume_token: str) -> AsyncGenerator[Any, None]:
        self.asked.append(("watch", caller.project, reservation_id, resume_token))
        self.open += 1
        self.opened.set()
        try:
            while (change := await self.changes.get()) is not None:
                if isinstance(change, Exception):
                    raise change
                yield change
        finally:
            self.open -= 1


async def ended(call: Any) -> aio.AioRpcError:
    with pytest.raises(aio.AioRpcError) as caught:
        async with asyncio.timeout(SECONDS):
            while True:
                assert await call.read() is not aio.EOF
    return caught.value


async def begun(face: Face, engine: Watched, **how: Any) -> Any:
    call = face.call("WatchReservation", ASKED, **how)
    engine.changes.put_nowait(("7", view(lease(1))))
    async with asyncio.timeout(SECONDS):
        first = await call.read()
    assert (first.resume_token, first.reservation.reservation_id) == ("7", "res-1")
    return call


async def test_changes_arrive_as_they_happen_and_the_stream_ends_without_an_error() -> None:
    engine = Watched()
    async with facing(service_over(engine)) as face, asyncio.timeout(SECONDS):
        call = await begun(face, engine, key="gp_viewer")
        engine.changes.put_nowait(("9", view(lease(1), lease(2))))
        assert (await call.read()).resume_token == "9"
        engine.changes.put_nowait(None)
        assert await call.read() is aio.EOF
        assert await call.code() is StatusCode.OK
        assert dict(await call.trailing_metadata())["x-trace-id"]
    assert engine.asked == [("watch", "p1", "res-1", "")]


async def test_a_stream_needs_a_key_and_a_reservation() -> None:
    engine = Watched()
    async with facing(service_over(engine)) as face:
        assert (await ended(face.call("WatchReservation", ASKED, key="wrong"))).code() is StatusCode.UNAUTHENTICATED
        assert (await ended(face.call("WatchReservation"))).code() is StatusCode.INVALID_ARGUMENT
        engine.changes.put_nowait(NotFound("No reservation 'res-1'."))
        error = await ended(face.call("WatchReservation", ASKED))
        assert error.code() is StatusCode.NOT_FOUND
        assert dict(error.trailing_metadata() or ())["x-trace-id"]


async def test_a_bug_in_the_middle_of_a_stream_shows_no_internal_text() -> None:
    engine = Watched()
    async with facing(service_over(engine)) as face:
        call = await begun(face, engine)
        engine.changes.put_nowait(ValueError("a secret"))
        error = await ended(call)
        assert (error.code(), error.details()) == (StatusCode.INTERNAL, "internal error")


async def test_a_client_that_disconnects_ends_its_watch() -> None:
    engine = Watched()
    async with facing(service_over(engine)) as face:
        call = await begun(face, engine)
        call.cancel()
        assert await face.dispatcher.idle(SECONDS)
        assert engine.open == 0


@pytest.mark.parametrize("waiting", [True, False], ids=["while it waits", "before the next change"])
async def test_a_stream_ends_when_its_key_is_revoked(monkeypatch: pytest.MonkeyPatch, waiting: bool) -> None:
    monkeypatch.setattr("gpuproxy.edge.rpc.auth._CACHE_SECONDS", 0.0)
    monkeypatch.setattr("gpuproxy.edge.rpc.dispatch.RECHECK_SECONDS", 0.01 if waiting else 1000.0)
    engine, keys = Watched(), all_keys()
    async with facing(service_over(engine), keys=keys) as face:
        call = await begun(face, engine, key="gp_viewer")
        del keys.rows[sha256(b"gp_viewer").hexdigest()]
        if not waiting:
            engine.changes.put_nowait(("8", view(lease(1))))
        error = await ended(call)
        assert error.code() is StatusCode.UNAUTHENTICATED
        assert await face.dispatcher.idle(SECONDS)
        assert engine.open == 0


async def test_a_stream_continues_while_its_key_is_valid_however_often_it_is_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gpuproxy.edge.rpc.auth._CACHE_SECONDS", 0.0)
    monkeypatch.setattr("gpuproxy.edge.rpc.dispatch.RECHECK_SECONDS", 0.001)
    often = asyncio.Event()

    class Book(KeyBook):
        async def find(self, sha256: str) -> KeyRow | None:
            if self.lookups > 5:
                often.set()
            return await super().find(sha256)

    engine = Watched()
    async with facing(service_over(engine), keys=Book(all_keys().rows)) as face, asyncio.timeout(SECONDS):
        call = await begun(face, engine, key="gp_viewer")
        await often.wait()
        engine.changes.put_nowait(("9", view(lease(1))))
        assert (await call.read()).resume_token == "9"


async def test_a_stream_ends_when_the_role_of_its_credentials_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuproxy.edge.rpc.auth._CACHE_SECONDS", 0.0)
    monkeypatch.setattr("gpuproxy.edge.rpc.dispatch.RECHECK_SECONDS", 0.01)
    engine, keys = Watched(), all_keys()
    async with facing(service_over(engine), keys=keys) as face:
        call = await begun(face, engine, key="gp_viewer")
        digest = sha256(b"gp_viewer").hexdigest()
        keys.rows[digest] = replace(keys.rows[digest], role="admin")
        assert (await ended(call)).code() is StatusCode.UNAUTHENTICATED


async def test_an_error_while_a_key_is_checked_again_is_answered_like_any_bug(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gpuproxy.edge.rpc.auth._CACHE_SECONDS", 0.0)
    monkeypatch.setattr("gpuproxy.edge.rpc.dispatch.RECHECK_SECONDS", 0.01)
    engine, keys = Watched(), all_keys()
    async with facing(service_over(engine), keys=keys) as face:
        call = await begun(face, engine, key="gp_viewer")
        keys.rows = None  # type: ignore[assignment]
        error = await ended(call)
        assert (error.code(), error.details()) == (StatusCode.INTERNAL, "internal error")


async def test_a_deadline_ends_a_stream() -> None:
    engine = Watched()
    async with facing(service_over(engine)) as face:
        call = await begun(face, engine, timeout=2.0)
        assert (await ended(call)).code() is StatusCode.DEADLINE_EXCEEDED
        assert await face.dispatcher.idle(SECONDS)
        assert engine.open == 0


async def test_streams_end_at_once_when_the_server_drains_and_tell_the_client_to_reopen() -> None:
    engine = Watched()
    async with facing(service_over(engine)) as face:
        call = await begun(face, engine)
        draining = asyncio.ensure_future(face.server.drain(SECONDS))
        error = await ended(call)
        assert error.code() is StatusCode.UNAVAILABLE
        assert "last resume_token" in (error.details() or "")
        async with asyncio.timeout(SECONDS):
            assert await draining
        assert engine.open == 0


@pytest.mark.parametrize("steps", range(12))
async def test_a_stream_that_is_ended_while_a_message_is_sent_tells_the_client(steps: int) -> None:
    """It ends so many steps of the event loop after the change that is sent."""
    engine = Watched()
    async with facing(service_over(engine)) as face:
        call = face.call("WatchReservation", ASKED)
        reading = asyncio.ensure_future(ended(call))
        async with asyncio.timeout(SECONDS):
            await engine.opened.wait()
        engine.changes.put_nowait(("7", view(lease(1))))
        for _ in range(steps):
            await asyncio.sleep(0)
        face.dispatcher.end_streams()
        error = await reading
        assert error.code() is StatusCode.UNAVAILABLE
        assert "last resume_token" in (error.details() or "")
