"""A watch over broken streams: a server in this process plays the streams that the test defines."""

# ruff: noqa: N802 - the methods are named by the contract

from collections.abc import Iterator

import grpc
import pytest

from gpuproxy import AsyncClient, Client
from gpuproxy.client import AsyncReservation, DeadlineExceeded, GPUProxyError, NotReady, Reservation, Unavailable
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.cli.world import KEY, World, served

OK, UNAVAILABLE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE
VIEW = pb.Reservation(reservation_id="res-1")


def told(state: str, ready: int, token: str, **fields: object) -> pb.WatchReservationResponse:
    view = pb.Reservation(reservation_id="res-1", state=state, reserved_count=2, ready_count=ready, **fields)
    return pb.WatchReservationResponse(reservation=view, resume_token=token)


class Streams(World):
    """Each stream sends its answers and ends with its code; `tokens` has the resume token of each stream."""

    def __init__(self, *streams: tuple[list[pb.WatchReservationResponse], grpc.StatusCode]) -> None:
        super().__init__()
        self._streams = iter(streams)
        self.tokens: list[str] = []

    def WatchReservation(
        self, request: pb.WatchReservationRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchReservationResponse]:
        self.tokens.append(request.resume_token)
        answers, code = next(self._streams)
        yield from answers
        if code is not OK:
            context.abort(code, "as the test says")


BROKEN = (
    ([told("starting", 0, "5")], UNAVAILABLE),
    ([], UNAVAILABLE),
    ([told("starting", 1, "6"), told("active", 2, "7")], OK),
)


def waited(world: Streams, timeout: float = 60) -> tuple[pb.Reservation, list[float]]:
    pauses: list[float] = []
    with served(world) as address, Client(address, KEY, sleep=pauses.append) as client:
        return Reservation(client, VIEW).wait_ready(timeout).view, pauses


def test_a_broken_watch_resumes_with_its_last_token() -> None:
    world = Streams(*BROKEN)
    view, pauses = waited(world)
    assert (view.state, world.tokens) == ("active", ["", "5", "5"])
    assert len(pauses) == 2
    assert all(0 < pause <= 5 for pause in pauses)


async def test_a_broken_asyncio_watch_resumes_too() -> None:
    world, pauses = Streams(*BROKEN), []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    with served(world) as address:
        async with AsyncClient(address, KEY, sleep=sleep) as client:
            reservation = await AsyncReservation(client, VIEW).wait_ready(60)
    assert (reservation.view.state, world.tokens, len(pauses)) == ("active", ["", "5", "5"], 2)


def test_a_stream_that_reached_its_maximum_duration_is_reopened_at_once() -> None:
    over = grpc.StatusCode.DEADLINE_EXCEEDED
    world = Streams(([told("starting", 0, "5")], over), ([told("active", 2, "7")], OK))
    assert waited(world) == (told("active", 2, "7").reservation, [0.0])
    assert world.tokens == ["", "5"]


def test_a_watch_without_a_limit_ends_if_no_stream_ever_begins() -> None:
    world, pauses = Streams(*[([], UNAVAILABLE)] * 5), []
    with (
        served(world) as address,
        Client(address, KEY, sleep=pauses.append) as client,
        pytest.raises(Unavailable, match="as the test says"),
    ):
        list(client.watch("res-1"))
    assert (world.tokens, len(pauses)) == ([""] * 5, 4)


@pytest.mark.parametrize(("first", "timeout"), [([told("starting", 0, "5")], None), ([], 60)])
def test_a_watch_that_has_begun_or_has_a_limit_goes_on(
    first: list[pb.WatchReservationResponse], timeout: float | None
) -> None:
    world = Streams((first, UNAVAILABLE), *[([], UNAVAILABLE)] * 6, ([told("active", 2, "7")], OK))
    with served(world) as address, Client(address, KEY, sleep=lambda _: None) as client:
        assert [each.state for each in client.watch("res-1", timeout=timeout)][-1] == "active"
    assert len(world.tokens) == 8


@pytest.mark.parametrize("code", [grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAUTHENTICATED])
def test_a_refused_watch_is_not_reopened(code: grpc.StatusCode) -> None:
    world = Streams(([], code))
    with pytest.raises(GPUProxyError) as caught:
        waited(world)
    assert (caught.value.code, world.tokens) == (code.name, [""])


def test_a_wait_that_takes_too_long_ends_with_deadline_exceeded() -> None:
    with pytest.raises(DeadlineExceeded):
        waited(Streams(([], UNAVAILABLE)), timeout=0)


@pytest.mark.parametrize("state", ["releasing", "released", "failed"])
def test_waiting_for_a_released_reservation_is_an_error_with_its_reason(state: str) -> None:
    with pytest.raises(NotReady, match=state) as caught:
        waited(Streams(([told(state, 0, "5", reason="EXPIRED")], OK)))
    assert caught.value.reason == "EXPIRED"


def test_a_watch_that_ends_without_a_final_state_is_an_error() -> None:
    with pytest.raises(NotReady, match="its state is starting"):
        waited(Streams(([told("starting", 1, "5")], OK)))


def test_an_unknown_outcome_is_not_ready_and_a_partial_reservation_can_be() -> None:
    unknown = told("pending", 2, "5", outcomes=[pb.Outcome(state="unknown")])
    view, _ = waited(Streams(([unknown, told("partial", 2, "6")], OK)))
    assert view.state == "partial"
