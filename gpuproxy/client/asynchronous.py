"""`AsyncClient` and its `AsyncReservation`: what `blocking` has, for asyncio. The object belongs to one loop."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from datetime import datetime
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc
from google.protobuf.message import Message
from grpc import aio

from gpuproxy.client import demands, watching
from gpuproxy.client.channel import channel_options, place
from gpuproxy.client.demands import Demand, Filters
from gpuproxy.client.errors import GPUProxyError, WrongArgument, error_of
from gpuproxy.client.rentals import identified
from gpuproxy.v1 import gpuproxy_pb2 as pb
from gpuproxy.v1.gpuproxy_pb2_grpc import GPUProxyServiceStub

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


class AsyncClient:
    """One channel to one server. `stub` has the calls that have no method here.

    `server` is `host:port` (default: GPUPROXY_SERVER, else localhost:9090), `api_key` the key (default:
    GPUPROXY_API_KEY; "": none). `channel` is one of your own instead, such as one with TLS; it is not closed with
    the client.
    Every method raises a GPUProxyError.
    """

    def __init__(
        self,
        server: str = "",
        api_key: str | None = None,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        channel: aio.Channel | None = None,
        timeout: float = demands.DEFAULT_TIMEOUT,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`credentials`: for TLS, as of `grpc.ssl_channel_credentials`; without them calls go in plaintext.

        `timeout`: seconds that a call may take where it does not say; reservations have longer ones. `channel`: instead
        of one of the client's own.
        """
        self._place = place(server, api_key)
        self._timeout = timeout
        self._sleep = sleep
        options = channel_options(self._place.server, repeats=True)
        self._owned = channel is None
        if channel is None and credentials is not None:
            channel = aio.secure_channel(self._place.server, credentials, options=options)
        self._channel = channel or aio.insecure_channel(self._place.server, options=options)
        self.stub = identified(GPUProxyServiceStub(self._channel))

    async def call(
        self,
        method: "aio.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        *,
        timeout: float | None = None,
    ) -> Response:
        """The answer of a call: `client.call(client.stub.GetGPUInstance, request)`.

        A request that can have a request id is sent with one of its own where it has none; the object itself stays as
        it is, so that the same one called with twice rents twice.
        """
        request = demands.with_request_id(request)
        seconds = self._timeout if timeout is None else timeout
        try:
            return await method(request, timeout=seconds, metadata=self._place.metadata)
        except grpc.RpcError as error:
            raise error_of(error, demands.request_id_of(request)) from error

    async def list(self, **filters: Unpack[Filters]) -> pb.ListGPUInstancesResponse:
        """What can be rented now."""
        return await self.call(self.stub.ListGPUInstances, demands.listing(filters))

    async def rented(self) -> pb.ListGPUInstancesResponse:
        """What the key's project pays for now."""
        return await self.call(
            self.stub.ListGPUInstances, pb.ListGPUInstancesRequest(state="rented", verified_only=False)
        )

    async def get(self, instance_id: str, provider: str = "") -> pb.GPUInstance:
        """One rented machine, by its contract id."""
        request = pb.GetGPUInstanceRequest(provider=provider, instance_id=instance_id)
        return (await self.call(self.stub.GetGPUInstance, request)).instance

    async def plan(self, count: int, **demand: Unpack[Demand]) -> pb.Decision:
        """What `reserve` would choose; nothing is rented."""
        request = demands.demanded(count, demand, dry_run=True)
        return (await self.call(self.stub.ReserveGPUs, request)).decision

    async def reserve(
        self, count: int, *, timeout: float | None = None, **demand: Unpack[Demand]
    ) -> "AsyncReservation":
        """Rent 1-16 GPUs. Fewer may come: see `view.reserved_count`, `min_count` and `all_or_nothing`.

        As a context manager the reservation is given back at the end of the block.
        """
        request = demands.demanded(count, demand)
        seconds = demands.patience(request) if timeout is None else timeout
        answer = await self.call(self.stub.ReserveGPUs, request, timeout=seconds)
        return AsyncReservation(self, watching.made(request, answer))

    async def reservation(self, reservation_id: str) -> "AsyncReservation":
        """One that was made before."""
        request = pb.GetReservationRequest(reservation_id=reservation_id)
        return AsyncReservation(self, (await self.call(self.stub.GetReservation, request)).reservation)

    async def find(self, request_id: str) -> "AsyncReservation | None":
        """The reservation that was made with this request id: what became of a call whose answer never came.

        Raises WrongArgument for an empty id, which is that of all reservations made without one.
        """
        if not request_id.strip():
            raise WrongArgument("request_id", "must not be empty")
        token = ""
        while True:
            request = pb.ListReservationsRequest(page_size=demands.PAGE, page_token=token)
            answer = await self.call(self.stub.ListReservations, request)
            for view in answer.reservations:
                if view.request_id == request_id:
                    return AsyncReservation(self, view)
            token = answer.next_page_token
            if not token:
                return None

    async def destroy(self, instance_id: str, provider: str = "") -> pb.DestroyGPUInstanceResponse:
        """Give one machine back, by its contract id. Data on it is lost."""
        request = pb.DestroyGPUInstanceRequest(provider=provider, instance_id=instance_id)
        return await self.call(self.stub.DestroyGPUInstance, request)

    async def load(self, kind: str = "all") -> pb.GetLoadInfoResponse:
        """How busy hosts ("server") and providers ("provider") are."""
        return await self.call(self.stub.GetLoadInfo, pb.GetLoadInfoRequest(type=kind))

    async def watch(self, reservation_id: str, *, timeout: float | None = None) -> AsyncGenerator[pb.Reservation, None]:
        """The reservation, then every change of it in order, until it is over; broken streams are resumed.

        `timeout`: seconds for all of it (default: no end), after which DeadlineExceeded is raised.
        """
        resume = watching.Resume(reservation_id=reservation_id, timeout=timeout)
        while True:
            stream = self.stub.WatchReservation(
                resume.request(), timeout=resume.seconds(), metadata=self._place.metadata
            )
            try:
                async for answer in stream:
                    yield resume.heard(answer)
            except grpc.RpcError as error:
                pause = resume.pause(error_of(error))
            else:
                return
            finally:
                stream.cancel()
            await self._sleep(pause)

    async def close(self) -> None:
        """End the channel and what is under way on it."""
        if self._owned:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncReservation:
    """Machines that were rented together. `view` is the reservation as it was when last heard of."""

    def __init__(self, client: AsyncClient, view: pb.Reservation) -> None:
        self._client = client
        self.view = view

    @property
    def id(self) -> str:
        """The reservation id."""
        return self.view.reservation_id

    @property
    def instances(self) -> tuple[pb.GPUInstance, ...]:
        """The machines; once they are ready, with how to reach them."""
        return tuple(self.view.instances)

    async def wait_ready(self, timeout: float = demands.READY_TIMEOUT) -> Self:
        """Return once every machine answers; raises NotReady, or DeadlineExceeded after `timeout` seconds."""
        async with aclosing(self._client.watch(self.id, timeout=timeout)) as views:
            async for view in views:
                self.view = view
                if watching.is_ready(view):
                    return self
        raise watching.ended(self.view)

    async def refresh(self) -> Self:
        """As it is now."""
        self.view = (await self._client.reservation(self.id)).view
        return self

    async def extend(self, until: datetime) -> Self:
        """Move its end to an absolute time, with time zone; the same again buys nothing twice."""
        request = demands.ending(self.id, until)
        self.view = (await self._client.call(self._client.stub.ExtendReservation, request)).reservation
        return self

    async def release(self) -> Self:
        """Give everything back; idempotent. Data on the machines is lost."""
        request = pb.ReleaseReservationRequest(reservation_id=self.id)
        self.view = (await self._client.call(self._client.stub.ReleaseReservation, request)).reservation
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            await self.release()
        except GPUProxyError as failure:
            if error is None:
                raise
            error.add_note(f"{self.id} was not released: {failure}")
