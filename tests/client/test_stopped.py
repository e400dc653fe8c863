"""A renting call that ends without an answer: the caller does not lose the name of what it costs."""

# ruff: noqa: N802 - the methods are named by the contract

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2

from gpuproxy import AsyncClient, Client
from gpuproxy.client import GPUProxyError
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.cli import world as worlds
from tests.cli.world import KEY, World, error, served

SECONDS = 60


class Renting(World):
    """ReserveGPUs rents a machine, says so to `rented`, and answers only after the caller has gone."""

    def __init__(self, *, refuses: str = "", rents: bool = True) -> None:
        super().__init__()
        self.rented: Callable[[], object] = lambda: None
        self.looked = 0
        self._refuses, self._rents = refuses, rents
        self.during_reserve = self._wait

    def ReserveGPUs(self, request: pb.ReserveGPUsRequest, context: grpc.ServicerContext) -> pb.ReserveGPUsResponse:
        if not self._rents or request.dry_run:
            self.requests.append(request)
            self._wait(context)
            context.abort(grpc.StatusCode.CANCELLED, "nobody waits")
        return super().ReserveGPUs(request, context)

    def GetReservation(
        self, request: pb.GetReservationRequest, context: grpc.ServicerContext
    ) -> pb.GetReservationResponse:
        self.looked += 1
        self._refuse("GetReservation", context)
        return super().GetReservation(request, context)

    def ReleaseReservation(
        self, request: pb.ReleaseReservationRequest, context: grpc.ServicerContext
    ) -> pb.ReleaseReservationResponse:
        self._refuse("ReleaseReservation", context)
        return super().ReleaseReservation(request, context)

    def _refuse(self, name: str, context: grpc.ServicerContext) -> None:
        if name == self._refuses:
            worlds.abort(context, error(code_pb2.INTERNAL, "internal error", "INTERNAL"))

    def _wait(self, context: grpc.ServicerContext) -> None:
        gone = threading.Event()
        if context.add_callback(gone.set):
            self.rented()
            assert gone.wait(SECONDS)

    @property
    def request_id(self) -> str:
        return self.requests[0].request_id

    @property
    def states(self) -> list[str]:
        return [each.state for each in self.reservations]


class Interrupted:
    """A method of a stub. During its call Ctrl-C is pressed once `when` is set.

    A real signal can leave a lock of the gRPC library locked, so it is only sent to processes of their own.
    """

    def __init__(self, method: Any, when: threading.Event) -> None:
        self._method, self._when = method, when

    def __call__(self, request: Any, **options: Any) -> None:
        call = self._method.future(request, **options)
        assert self._when.wait(SECONDS)
        call.cancel()
        raise KeyboardInterrupt


Ends = Callable[[Renting, Callable[[Client], object], Callable[[AsyncClient], Awaitable[object]]], list[str]]


def interrupted(
    world: Renting, blocking: Callable[[Client], object], _: Callable[[AsyncClient], Awaitable[object]]
) -> list[str]:
    """Ctrl-C during the call of the blocking client; returns the notes of the exception."""
    rented = threading.Event()
    world.rented = rented.set
    with (
        served(world) as address,
        Client(address, KEY, sleep=lambda _: None) as client,
        pytest.raises(KeyboardInterrupt) as caught,
    ):
        client.stub.ReserveGPUs = Interrupted(client.stub.ReserveGPUs, rented)
        blocking(client)
    return getattr(caught.value, "__notes__", [])


def cancelled(
    world: Renting, _: Callable[[Client], object], asynchronous: Callable[[AsyncClient], Awaitable[object]]
) -> list[str]:
    """The task that makes the call is cancelled; returns the notes of the exception."""

    async def story(address: str) -> list[str]:
        rented, loop = asyncio.Event(), asyncio.get_running_loop()
        world.rented = lambda: loop.call_soon_threadsafe(rented.set)
        async with AsyncClient(address, KEY, sleep=lambda _: asyncio.sleep(0)) as client:
            task = asyncio.ensure_future(asynchronous(client))
            async with asyncio.timeout(SECONDS):
                await rented.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
        return getattr(caught.value, "__notes__", [])

    with served(world) as address:
        return asyncio.run(story(address))


both = pytest.mark.parametrize("ends", [interrupted, cancelled])


@both
def test_a_stopped_call_releases_what_only_the_client_knows_by_name(ends: Ends) -> None:
    world = Renting()
    notes = ends(world, lambda client: client.reserve(1), lambda client: client.reserve(1))
    assert (world.states, notes) == (["releasing"], [])


@both
def test_so_does_a_call_through_the_stub(ends: Ends) -> None:
    world, request = Renting(), pb.ReserveGPUsRequest(count=1)
    notes = ends(
        world,
        lambda client: client.call(client.stub.ReserveGPUs, request),
        lambda client: client.call(client.stub.ReserveGPUs, request),
    )
    assert (world.states, notes) == (["releasing"], [])


@both
def test_what_the_caller_has_named_is_kept_and_the_error_says_how_to_find_it(ends: Ends) -> None:
    world = Renting()
    notes = ends(
        world,
        lambda client: client.reserve(1, request_id="train-7"),
        lambda client: client.reserve(1, request_id="train-7"),
    )
    assert (world.states, world.looked) == (["pending"], 0)
    assert notes == ["Machines may exist. client.find('train-7') shows them, and its release() ends them."]


@both
def test_with_keep_late_the_machines_are_kept_too(ends: Ends) -> None:
    world = Renting()
    notes = ends(
        world, lambda client: client.reserve(1, keep_late=True), lambda client: client.reserve(1, keep_late=True)
    )
    assert (world.states, world.looked) == (["pending"], 0)
    assert notes == [f"Machines may exist. client.find({world.request_id!r}) shows them, and its release() ends them."]


@both
@pytest.mark.parametrize("refuses", ["GetReservation", "ReleaseReservation"])
def test_a_release_that_fails_does_not_hide_the_end_of_the_call_and_the_error_has_the_name(
    ends: Ends, refuses: str
) -> None:
    world = Renting(refuses=refuses)
    notes = ends(world, lambda client: client.reserve(1), lambda client: client.reserve(1))
    assert world.states == ["pending"]
    assert notes == [f"Machines may exist. client.find({world.request_id!r}) shows them, and its release() ends them."]


@both
def test_what_is_not_found_is_looked_for_again_and_then_named(ends: Ends) -> None:
    world = Renting(rents=False)
    notes = ends(world, lambda client: client.reserve(1), lambda client: client.reserve(1))
    assert world.looked == 2
    assert notes == [f"Machines may exist. client.find({world.request_id!r}) shows them, and its release() ends them."]


@pytest.mark.parametrize(
    ("code", "reason", "noted"),
    [
        ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", True),
        ("UNAVAILABLE", "", True),
        ("INTERNAL", "INTERNAL", True),
        ("UNAVAILABLE", "CREATE_QUEUE", False),
        ("FAILED_PRECONDITION", "NOT_ENOUGH_GPUS", False),
        ("INTERNAL", "INSTANCE_CREATION_FAILED", False),
    ],
)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_error_after_which_machines_may_exist_has_the_name_in_its_text(
    asynchronous: bool, code: str, reason: str, noted: bool
) -> None:
    world = World()
    world.refuse_with = error(getattr(code_pb2, code), "Not now.", reason)

    async def story(address: str) -> None:
        async with AsyncClient(address, KEY) as client:
            await client.reserve(1, timeout=SECONDS)

    with served(world) as address, pytest.raises(GPUProxyError) as caught:
        if asynchronous:
            asyncio.run(story(address))
        else:
            with Client(address, KEY) as client:
                client.reserve(1, timeout=SECONDS)
    name = caught.value.request_id
    text = f"Machines may exist. client.find({name!r}) shows them, and its release() ends them."
    assert getattr(caught.value, "__notes__", []) == ([text] if noted else [])


def test_ctrl_c_during_the_release_of_a_with_block_leaves_the_name() -> None:
    began = threading.Event()
    began.set()
    with served(World()) as address, Client(address, KEY) as client:
        client.stub.ReleaseReservation = Interrupted(client.stub.ReleaseReservation, began)
        with pytest.raises(KeyboardInterrupt) as caught, client.reserve(1):
            pass
        assert caught.value.__notes__ == ["res-1 may be rented still: its release was stopped"]


async def test_a_release_at_the_end_of_a_block_goes_on_if_its_task_is_cancelled_again() -> None:
    began, goes_on = threading.Event(), threading.Event()

    class Slow(World):
        def ReleaseReservation(
            self, request: pb.ReleaseReservationRequest, context: grpc.ServicerContext
        ) -> pb.ReleaseReservationResponse:
            began.set()
            assert goes_on.wait(SECONDS)
            assert context.is_active()  # the client waits for it before it closes its channel
            return super().ReleaseReservation(request, context)

    rented = asyncio.Event()

    async def rents(client: AsyncClient) -> None:
        async with await client.reserve(1):
            rented.set()
            await asyncio.sleep(SECONDS)

    world = Slow()
    with served(world) as address:
        async with AsyncClient(address, KEY) as client:
            task = asyncio.ensure_future(rents(client))
            async with asyncio.timeout(SECONDS):
                await rented.wait()
            task.cancel()
            assert await asyncio.to_thread(began.wait, SECONDS)
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            assert caught.value.__notes__ == ["res-1 may be rented still: its release was stopped"]
            asyncio.get_running_loop().call_later(0.1, goes_on.set)
    assert [each.state for each in world.reservations] == ["releasing"]


@both
def test_a_stopped_dry_run_looks_for_nothing(ends: Ends) -> None:
    world = Renting()
    notes = ends(world, lambda client: client.plan(1), lambda client: client.plan(1))
    assert (world.looked, notes) == (0, [])
