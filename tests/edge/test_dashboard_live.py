"""Live parts of the dashboard: shared between tabs, ended with their session, limited in number."""

import asyncio
from dataclasses import dataclass, field

import pytest

from gpuproxy.adapters.system import ScaledClock
from gpuproxy.edge.web import live
from gpuproxy.edge.web.live import Recent, Streams
from gpuproxy.edge.web.sessions import Session
from gpuproxy.model.errors import TooManyCalls, Unauthenticated, Unavailable
from tests.edge.test_dashboard_sessions import Clock


@dataclass
class Part:
    """Renders a number that grows each time."""

    rendered: int = 0
    errors: list[Exception] = field(default_factory=list)

    async def __call__(self) -> str:
        self.rendered += 1
        await asyncio.sleep(0)
        if self.errors:
            raise self.errors.pop()
        return str(self.rendered)


async def test_many_tabs_that_may_see_the_same_render_it_once() -> None:
    clock, part = Clock(), Part()
    recent = Recent(clock)
    assert set(await asyncio.gather(*(recent.text("p1", part) for _ in range(50)))) == {"1"}
    clock.real += live.STEP_SECONDS
    assert await recent.text("p1", part) == "2"


async def test_what_one_project_sees_is_never_given_to_another() -> None:
    recent, part = Recent(Clock()), Part()
    assert [await recent.text(key, part) for key in ("p1", "p2", "p1")] == ["1", "2", "1"]


async def test_a_failed_part_is_not_kept() -> None:
    recent, part = Recent(Clock()), Part(errors=[Unavailable("not now")])
    with pytest.raises(Unavailable):
        await recent.text("p1", part)
    assert await recent.text("p1", part) == "2"


async def test_parts_that_nobody_looks_at_are_forgotten() -> None:
    clock = Clock()
    recent = Recent(clock)
    for number in range(100):
        await recent.text(number, Part())
        clock.real += 2 * live.STEP_SECONDS
    assert len(recent._parts) <= 2


async def test_a_failed_read_keeps_what_is_shown_and_an_ended_session_ends_the_stream() -> None:
    streams = Streams(ScaledClock())
    part = Part(errors=[Unavailable("not now")])
    assert await streams._next(part, "before") == "before"
    part.errors = [Unauthenticated("gone")]
    assert await streams._next(part, "before") is None


async def test_one_session_has_a_limited_number_of_streams() -> None:
    session = Session(digest="d", owner="o", metadata={}, csrf="c", began=0.0, used=0.0)
    session.streams = live.MAX_STREAMS_PER_SESSION
    with pytest.raises(TooManyCalls):
        await Streams(ScaledClock()).send(None, session, Part())  # type: ignore[arg-type]
    assert session.streams == live.MAX_STREAMS_PER_SESSION


def test_a_part_of_many_lines_is_one_event() -> None:
    assert live._event("one\ntwo\r\nthree") == b"data: one\ndata: two\ndata: three\n\n"


class Stalled:
    """A browser that never reads."""

    async def write(self, _data: bytes) -> None:
        await asyncio.Event().wait()


async def test_a_browser_that_does_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "WRITE_SECONDS", 0.01)
    async with asyncio.timeout(60):
        await Streams(ScaledClock())._run(Stalled(), Part())  # type: ignore[arg-type]


async def test_a_server_that_stops_waits_for_no_browser_that_does_not_read() -> None:
    streams = Streams(ScaledClock())
    async with asyncio.timeout(60):
        running = asyncio.create_task(streams._run(Stalled(), Part()))  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        await streams.stop()
        await running
