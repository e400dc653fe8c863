"""`Client` and `Reservation`: every call blocks until its answer or its deadline."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import datetime
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc
from google.protobuf.message import Message

from gpuproxy.client import demands, watching
from gpuproxy.client.channel import channel_options, endpoint
from gpuproxy.client.demands import Demand, Filters
from gpuproxy.client.errors import GPUProxyError, InvalidArgument, NotFound, error_of
from gpuproxy.client.pools import WarmPools
from gpuproxy.client.rentals import with_request_ids
from gpuproxy.client.servers import target_of
from gpuproxy.v1 import gpuproxy_pb2 as pb
from gpuproxy.v1.gpuproxy_pb2_grpc import GPUProxyServiceStub

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
View = TypeVar("View", bound=Message)


class Client:
    """One channel to one or several servers; safe to share between threads. `stub` has the calls without a method here.

    `server` is `host:port`, a list of IP addresses with ports and commas, or `dns:///name:port` for all addresses of a
    name; the default is GPUPROXY_SERVER, or localhost:9090. `api_key` defaults to GPUPROXY_API_KEY; "" sends no key.
    `channel` is your own channel, which the client doesn't close.
    Every method raises GPUProxyError if the call fails.
    """

    def __init__(
        self,
        server: str = "",
        api_key: str | None = None,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        channel: grpc.Channel | None = None,
        timeout: float = demands.DEFAULT_TIMEOUT,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`credentials` turn on TLS, for example `grpc.ssl_channel_credentials()`; the default is plaintext.

        `timeout` is the default timeout of a call in seconds; reservations have a longer one. `channel` replaces the
        client's own channel; then `credentials` are ignored.
        """
        self._endpoint = endpoint(server, api_key)
        self._timeout = timeout
        self._sleep = sleep
        options = channel_options(self._endpoint.server, repeats=True)
        self._owned = channel is None
        if channel is None:
            target = target_of(self._endpoint.server, tls=credentials is not None)
            if credentials is None:
                channel = grpc.insecure_channel(target, options=options)
            else:
                channel = grpc.secure_channel(target, credentials, options=options)
        self._channel = channel
        self.stub = with_request_ids(GPUProxyServiceStub(self._channel))
        self.pools = WarmPools(self)
        """The calls about warm pools."""

    def call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        *,
        timeout: float | None = None,
    ) -> Response:
        """Call a method of the stub: `client.call(client.stub.GetGPUInstance, request)`.

        A request with an empty request_id field is sent with a new id. The request object isn't changed, so calling
        twice with it rents twice. If such a call is stopped, what it has rented is released, as with `reserve`.
        """
        named = demands.with_request_id(request)
        return self._call(method, named, timeout, own_id=named is not request)

    def list(self, **filters: Unpack[Filters]) -> pb.ListGPUInstancesResponse:
        """List the offers that can be rented now."""
        return self.call(self.stub.ListGPUInstances, demands.list_request(filters))

    def rented(self) -> pb.ListGPUInstancesResponse:
        """List the instances that the key's project rents now."""
        return self.call(self.stub.ListGPUInstances, pb.ListGPUInstancesRequest(state="rented", verified_only=False))

    def get(self, instance_id: str, provider: str = "") -> pb.GPUInstance:
        """Get one rented machine by its contract id."""
        request = pb.GetGPUInstanceRequest(provider=provider, instance_id=instance_id)
        return self.call(self.stub.GetGPUInstance, request).instance

    def plan(self, count: int, **demand: Unpack[Demand]) -> pb.Decision:
        """Return what `reserve` would choose, without renting anything (dry run)."""
        request = demands.reserve_request(count, demand, dry_run=True)
        return self.call(self.stub.ReserveGPUs, request).decision

    def reserve(self, count: int, *, timeout: float | None = None, **demand: Unpack[Demand]) -> "Reservation":
        """Rent 1-16 GPUs. The result may have fewer: see `view.reserved_count`, `min_count` and `all_or_nothing`.

        Used as a context manager, the reservation is released at the end of the block.

        If the call is stopped (Ctrl-C), what it has rented is released, unless you gave a request_id or keep_late.
        If it is kept, or if the release can't be confirmed, a note of the exception says how to find it.
        """
        request = demands.reserve_request(count, demand)
        seconds = demands.reserve_timeout(request) if timeout is None else timeout
        own_id = not demand.get("request_id")
        answer = self._call(self.stub.ReserveGPUs, request, seconds, own_id=own_id)
        return Reservation(self, watching.reservation_of(request, answer))

    def reservation(self, reservation_id: str, *, timeout: float | None = None) -> "Reservation":
        """Get an existing reservation by its id."""
        request = pb.GetReservationRequest(reservation_id=reservation_id)
        return Reservation(self, self.call(self.stub.GetReservation, request, timeout=timeout).reservation)

    def find(self, request_id: str, *, timeout: float | None = None) -> "Reservation | None":
        """Find the reservation of a request id, for example after a call whose answer was lost; None if there is none.

        It is the one of the key's own project, also for an admin: other projects have request ids of their own. Raises
        InvalidArgument for an empty id, and for one that is also the id of a reservation.
        """
        demands.require_request_id(request_id)
        try:
            found = self.reservation(request_id, timeout=timeout)
        except (NotFound, InvalidArgument) as refused:
            named = refused.metadata.get("request_id_of")
            return self.reservation(named, timeout=timeout) if named else None
        watching.require_found(found.view, request_id)
        return found

    def destroy(self, instance_id: str, provider: str = "") -> pb.DestroyGPUInstanceResponse:
        """Release one machine by its contract id. Its data is lost."""
        request = pb.DestroyGPUInstanceRequest(provider=provider, instance_id=instance_id)
        return self.call(self.stub.DestroyGPUInstance, request)

    def load(self, kind: str = "all") -> pb.GetLoadInfoResponse:
        """Get the load of hosts (`kind` "server"), providers ("provider") or both ("all")."""
        return self.call(self.stub.GetLoadInfo, pb.GetLoadInfoRequest(type=kind))

    def spending(self) -> pb.GetSpendingInfoResponse:
        """Get what is spent and held within each window, and the limits."""
        return self.call(self.stub.GetSpendingInfo, pb.GetSpendingInfoRequest())

    def check_spending(self, amount: float) -> pb.CheckSpendingLimitResponse:
        """Get whether an amount in USD could be held now, and the limits that would refuse it."""
        return self.call(self.stub.CheckSpendingLimit, pb.CheckSpendingLimitRequest(amount=amount))

    def spending_limits(self) -> Sequence[pb.SpendingLimit]:
        """List the limits that apply to the key's project; for an admin, all."""
        answer = self.call(self.stub.ListSpendingLimits, pb.ListSpendingLimitsRequest())
        return answer.limits

    def set_spending_limit(
        self, window: str, limit: float, *, project: str = "", key_id: str = "", policy: str = ""
    ) -> pb.SpendingLimit:
        """Set the most that may be spent within a window, in USD; 0 removes the limit. Only for admins.

        `window`: a duration such as "24h" or "30d", or "month". Without a project or key: of all projects together.
        """
        request = pb.SetSpendingLimitRequest(window=window, limit=limit, project=project, key_id=key_id, policy=policy)
        answer = self.call(self.stub.SetSpendingLimit, request)
        return answer.limit

    def providers(self, provider: str = "") -> pb.ListProvidersResponse:
        """Get what each marketplace (or only `provider`) can do, and how the server's accounts there are."""
        return self.call(self.stub.ListProviders, pb.ListProvidersRequest(provider=provider))

    def costs(
        self, by: Sequence[str] = ("day",), *, since: datetime | None = None, until: datetime | None = None,
        project: str = "",
    ) -> pb.GetCostReportResponse:  # fmt: skip
        """Add up what was spent, by default in the last 30 days. Amounts are in USD.

        `by`: any of "day", "provider", "project", "model" and "label:<key>". `since` and `until` have a time zone.
        """
        request = demands.cost_report_request(by, since=since, until=until, project=project)
        return self.call(self.stub.GetCostReport, request)

    def probe(self, provider: str, *, max_spend: float, account: str = "", dry_run: bool = False) -> pb.ProviderProbe:
        """Start a probe of an account, which costs at most `max_spend` USD. With `dry_run`, get only what it would do.

        It is never repeated by this client. If the answer is lost, `last_probe` shows whether it began.
        """
        request = pb.ProbeProviderRequest(provider=provider, account=account, max_spend=max_spend, dry_run=dry_run)
        return (self.call(self.stub.ProbeProvider, request)).probe

    def last_probe(self, provider: str, account: str = "") -> pb.ProviderProbe:
        """Get the last probe of an account, running or not. Raises NotFound."""
        request = pb.GetProviderProbeRequest(provider=provider, account=account)
        return (self.call(self.stub.GetProviderProbe, request)).probe

    def watch(self, reservation_id: str, *, timeout: float | None = None) -> Iterator[pb.Reservation]:
        """Yield the reservation, then each change of it in order, until it is final. Broken streams are resumed.

        `timeout` is the limit of the whole watch in seconds; the default is none. Raises DeadlineExceeded after it.
        Without a limit, raises Unavailable if no server answers the first tries.
        """
        resume = watching.Resume(reservation_id=reservation_id, timeout=timeout)
        yield from self.follow(self.stub.WatchReservation, resume.request, resume.received, resume)

    def follow(
        self,
        method: "grpc.UnaryStreamMultiCallable[Request, Response]",
        request: Callable[[], Request],
        received: Callable[[Response], View],
        streams: watching.Streams,
    ) -> Iterator[View]:
        """Yield `received` of each message of a streaming method of the stub. Broken streams are resumed.

        `request` makes the request of the next stream, and `streams` says when it is opened.
        """
        while True:
            stream = method(request(), timeout=streams.seconds(), metadata=self._endpoint.metadata)
            try:
                for answer in stream:
                    yield received(answer)
            except grpc.RpcError as error:
                pause = streams.pause(error_of(error))
            else:
                return
            finally:
                stream.cancel()
            self._sleep(pause)

    def _call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        timeout: float | None,
        *,
        own_id: bool,
    ) -> Response:
        """Make a call. `own_id`: the client has made up the request id, so nobody else knows it."""
        seconds = self._timeout if timeout is None else timeout
        try:
            return method(request, timeout=seconds, metadata=self._endpoint.metadata)
        except grpc.RpcError as error:
            raise demands.failure(error, request) from error
        except (ValueError, TypeError):  # nothing was sent: the channel is closed, or the metadata is wrong
            raise
        except BaseException as stopped:  # Ctrl-C, or whatever a signal handler raises
            if demands.is_rental(request):
                self._stopped(stopped, request, own_id=own_id)
            raise

    def _stopped(self, stopped: BaseException, request: Message, *, own_id: bool) -> None:
        """Release what a stopped call has rented, if nobody else can. Otherwise a note says how to find it."""
        request_id = demands.request_id_of(request)
        note = demands.lost(request_id)
        stopped.add_note(note)  # first, because the release may be stopped too
        if own_id and not demands.is_kept(request) and self._released(request_id):
            stopped.__notes__.remove(note)

    def _released(self, request_id: str) -> bool:
        """Release the reservation of this request id. False if it isn't found, or if a call fails."""
        for pause in demands.END_PAUSES:
            self._sleep(pause)
            try:
                if found := self.find(request_id, timeout=demands.END_TIMEOUT):
                    request = pb.ReleaseReservationRequest(reservation_id=found.id)
                    self.call(self.stub.ReleaseReservation, request, timeout=demands.END_TIMEOUT)
                    return True
            except (GPUProxyError, ValueError):  # ValueError: the channel is closed
                return False
        return False

    def close(self) -> None:
        """Close the client's own channel; running calls on it are cancelled."""
        if self._owned:
            self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Reservation:
    """Machines that were rented together. `view` is the last known state of the reservation."""

    def __init__(self, client: Client, view: pb.Reservation) -> None:
        self._client = client
        self.view = view

    @property
    def id(self) -> str:
        """The reservation id."""
        return self.view.reservation_id

    @property
    def instances(self) -> tuple[pb.GPUInstance, ...]:
        """The machines. When they are ready, they include SSH access and port mappings."""
        return tuple(self.view.instances)

    def wait_ready(self, timeout: float = demands.READY_TIMEOUT) -> Self:
        """Wait until every machine is ready; raises NotReady, or DeadlineExceeded after `timeout` seconds."""
        with closing(self._client.watch(self.id, timeout=timeout)) as views:  # type: ignore[type-var]
            for view in views:
                self.view = view
                if watching.is_ready(view):
                    return self
        raise watching.not_ready(self.view)

    def refresh(self) -> Self:
        """Read the current state of the reservation."""
        self.view = self._client.reservation(self.id).view
        return self

    def extend(self, until: datetime) -> Self:
        """Set the end to `until`, an absolute time with a time zone. Repeating the call costs nothing more."""
        request = demands.extend_request(self.id, until)
        self.view = self._client.call(self._client.stub.ExtendReservation, request).reservation
        return self

    def release(self) -> Self:
        """Release all machines; idempotent. Data on the machines is lost."""
        request = pb.ReleaseReservationRequest(reservation_id=self.id)
        self.view = self._client.call(self._client.stub.ReleaseReservation, request).reservation
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self.release()
        except GPUProxyError as failure:
            if error is None:
                raise
            error.add_note(f"{self.id} was not released: {failure}")
        except BaseException as stopped:  # Ctrl-C, or whatever a signal handler raises
            stopped.add_note(watching.may_be_rented(self.view))
            raise
