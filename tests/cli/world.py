"""A gRPC server for tests of the command line. It keeps machines and reservations in memory."""

# ruff: noqa: N802 - the methods are named by the contract

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import grpc
from click.testing import Result
from google.protobuf.any_pb2 import Any
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from gpuproxy.model.gpus import gpu_matches
from gpuproxy.model.offers import location_matches
from gpuproxy.v1 import gpuproxy_pb2 as pb
from gpuproxy.v1.gpuproxy_pb2_grpc import GPUProxyServiceServicer, add_GPUProxyServiceServicer_to_server
from tests.cli.money import Money

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
KEY = "gpx-test-key"
Texts = dict[str, str]
Run = Callable[..., Result]
"""Runs a command: its arguments, `answer` as its stdin, and environment variables."""


class World(Money, GPUProxyServiceServicer):
    """The state of the server. `during_reserve` runs inside ReserveGPUs when the first machine exists."""

    def __init__(self) -> None:
        self.machines: list[pb.GPUInstance] = []
        self.reservations: list[pb.Reservation] = []
        self.requests: list[pb.ReserveGPUsRequest] = []
        self.listed: list[pb.ListGPUInstancesRequest] = []
        self.destroyed: list[tuple[str, str]] = []
        self.extended: list[datetime] = []
        self.strategy = "least_connections"
        self.polls: list[bool] = []
        """For each call of ListReservations: True if it was marked as a poll."""
        self.during_reserve: Callable[[grpc.ServicerContext], None] = lambda _: None
        self.during_list: Callable[[], None] = lambda: None
        self.during_health_check: Callable[[grpc.ServicerContext], None] = lambda _: None
        self.has_offers = True
        self.reliability = 0.998
        self.log = ["one", "two", "three"]
        self.after_stop = "stopped"
        """The status in the answer of StopGPUInstance."""
        self.silent: list[str] = []
        self.answer: pb.ReserveGPUsResponse | None = None
        """The answer of ReserveGPUs. None: it rents machines."""
        self.refuse_with: status_pb2.Status | None = None
        self.ssh_keys: list[pb.SSHKey] = []
        self.watches: list[str] = []
        """The resume token of each WatchReservation."""
        self.watching = threading.Semaphore(0)
        """Released by each WatchReservation."""
        self.break_watch = False
        """Set: the next stream breaks after its first message."""
        self._changes = threading.Condition()
        self._version = 0

    def changed(self) -> None:
        """Send the present state to every watcher."""
        with self._changes:
            self._version += 1
            self._changes.notify_all()

    def fits(self, request: pb.ListGPUInstancesRequest, offer: pb.GPUInstance) -> bool:
        """Whether the only offer is in the answer."""
        is_model = not request.gpu_model or gpu_matches(request.gpu_model, offer.gpu_model)
        return self.has_offers and is_model and location_matches(request.location, offer.location)

    def as_of(self) -> Timestamp:
        """When the offers were read."""
        read = Timestamp()
        read.FromDatetime(NOW - timedelta(seconds=4))
        return read

    def rent(self, number: int, *, status: str = "reserved", request_id: str = "") -> pb.GPUInstance:
        """Add a machine to the only reservation, which is created first if necessary."""
        machine = pb.GPUInstance(
            id=f"vast-{number}",
            provider="vast.ai",
            status=status,
            price_per_hour=0.31,
            gpu_model="RTX 4090",
            num_gpus=1,
            vram_gb=24,
            lease_id=f"lease-{number}",
            contract_id=str(7000 + number),
            reservation_id="res-1",
            location="Texas, US",
        )
        machine.created_at.FromDatetime(NOW - timedelta(seconds=90 - number))
        self.machines.append(machine)
        if not self.reservations:
            self.reservations.append(pb.Reservation(reservation_id="res-1", state="pending", request_id=request_id))
        reservation = self.reservations[0]
        if status != "unknown":
            reservation.instances.append(machine)
        reservation.outcomes.append(
            pb.Outcome(
                attempt=number,
                lease_id=machine.lease_id,
                offer_id=machine.id,
                provider="vast.ai",
                host_id=f"vast.ai/{number}",
                num_gpus=1,
                state="unknown" if status == "unknown" else "reserved",
                instance_id="" if status == "unknown" else machine.contract_id,
            )
        )
        return machine

    def ReserveGPUs(self, request: pb.ReserveGPUsRequest, context: grpc.ServicerContext) -> pb.ReserveGPUsResponse:
        self.requests.append(request)
        self._judge(context)
        if request.dry_run:
            picks = [pb.Pick(offer_id="vast-1", host_id="vast.ai/1", num_gpus=1, price_per_hour=0.31, why="free host")]
            decision = pb.Decision(
                strategy="lowest_price", considered=9, eligible=4, rejected={"min_vram": 5}, picks=picks
            )
            return pb.ReserveGPUsResponse(decision=decision)
        if self.answer is not None:
            return self.answer
        self.rent(1, request_id=request.request_id)
        self.during_reserve(context)
        for number in range(2, request.count + 1):
            self.rent(number)
        return pb.ReserveGPUsResponse(
            reserved_instances=self.machines,
            reserved_count=request.count,
            reservation_id="res-1",
            state="starting",
            outcomes=self.reservations[0].outcomes,
            price_per_hour=0.31 * request.count,
            cheapest_alternative_per_hour=1.10,
        )

    def ListGPUInstances(
        self, request: pb.ListGPUInstancesRequest, context: grpc.ServicerContext
    ) -> pb.ListGPUInstancesResponse:
        self._judge(context)
        self.during_list()
        if request.state == "rented":
            live = [machine for machine in self.machines if machine.status != "released"]
            return pb.ListGPUInstancesResponse(instances=live, total_count=len(live))
        offer = pb.GPUInstance(
            id="vast-1",
            provider="vast.ai",
            price_per_hour=0.62,
            price_per_gpu_hour=0.31,
            gpu_model="RTX 4090",
            num_gpus=2,
            vram_gb=24,
            reliability=self.reliability,
            location="Texas, US",
            host_id="vast.ai/1",
            cpu_cores=16,
            ram_gb=64,
            disk_bandwidth=2291.2,
            inet_down=535.2,
            inet_down_price=0.001302,
            inet_up_price=0.0,
            direct_ports=0,
            cuda_max=12.4,
            compute_cap=8.9,
        )
        offer.expires_at.FromDatetime(NOW + timedelta(days=1))
        self.listed.append(request)
        if not self.fits(request, offer):
            return pb.ListGPUInstancesResponse(as_of=self.as_of(), unreachable=self.silent)
        return pb.ListGPUInstancesResponse(
            instances=[offer], total_count=12, available_gpus=31, unreachable=["io.net"], as_of=self.as_of()
        )

    def GetGPUInstance(
        self, request: pb.GetGPUInstanceRequest, context: grpc.ServicerContext
    ) -> pb.GetGPUInstanceResponse:
        return pb.GetGPUInstanceResponse(instance=self._machine(request.instance_id, context))

    def _machine(self, contract: str, context: grpc.ServicerContext) -> pb.GPUInstance:
        for machine in self.machines:
            if machine.contract_id == contract:
                return machine
        abort(context, error(code_pb2.NOT_FOUND, f"There is no instance {contract}.", "NOT_FOUND"))
        raise AssertionError

    def GetReservation(
        self, request: pb.GetReservationRequest, context: grpc.ServicerContext
    ) -> pb.GetReservationResponse:
        for reservation in self.reservations:
            if reservation.reservation_id == request.reservation_id:
                return pb.GetReservationResponse(reservation=reservation)
        meant = {each.request_id: {"request_id_of": each.reservation_id} for each in self.reservations}
        no = error(code_pb2.NOT_FOUND, "No such reservation.", "NOT_FOUND", metadata=meant.get(request.reservation_id))
        abort(context, no)
        raise AssertionError

    def ListReservations(
        self, request: pb.ListReservationsRequest, context: grpc.ServicerContext
    ) -> pb.ListReservationsResponse:
        self.polls.append(("x-gpuproxy-poll", "1") in tuple(context.invocation_metadata()))
        found = [each for each in self.reservations if request.state in ("", each.state)]
        found = [each for each in found if request.labels.items() <= dict(each.labels).items()]
        start, size = int(request.page_token or 0), request.page_size
        more = str(start + size) if start + size < len(found) else ""
        page = found[start : start + size]
        return pb.ListReservationsResponse(reservations=page, total_count=len(found), next_page_token=more)

    def WatchReservation(
        self, request: pb.WatchReservationRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchReservationResponse]:
        self.watches.append(request.resume_token)
        self.watching.release()
        context.add_callback(self.changed)  # a stream that has ended waits no longer
        seen = int(request.resume_token or -1)
        while context.is_active():
            with self._changes:
                while self._version <= seen and context.is_active():
                    self._changes.wait(300)
                seen = self._version
                now = pb.Reservation()
                now.CopyFrom(self.reservations[0])
            if context.is_active():
                yield pb.WatchReservationResponse(reservation=now, resume_token=str(seen))
            if self.break_watch:
                self.break_watch = False
                context.abort(grpc.StatusCode.UNAVAILABLE, "")

    def AddSSHKey(self, request: pb.AddSSHKeyRequest, context: grpc.ServicerContext) -> pb.AddSSHKeyResponse:
        for key in self.ssh_keys:
            if key.public_key == request.public_key:
                return pb.AddSSHKeyResponse(key=key)
        number = len(self.ssh_keys) + 1
        name = request.name or request.public_key.split(" ", 2)[2]
        key = pb.SSHKey(id=f"ssh-{number}", name=name, public_key=request.public_key, fingerprint=f"SHA256:f{number}")
        self.ssh_keys.insert(0, key)
        return pb.AddSSHKeyResponse(key=key)

    def ListSSHKeys(self, request: pb.ListSSHKeysRequest, context: grpc.ServicerContext) -> pb.ListSSHKeysResponse:
        return pb.ListSSHKeysResponse(keys=self.ssh_keys)

    def DeleteSSHKey(self, request: pb.DeleteSSHKeyRequest, context: grpc.ServicerContext) -> pb.DeleteSSHKeyResponse:
        self.ssh_keys = [key for key in self.ssh_keys if key.id != request.id]
        return pb.DeleteSSHKeyResponse()

    def ReleaseReservation(
        self, request: pb.ReleaseReservationRequest, context: grpc.ServicerContext
    ) -> pb.ReleaseReservationResponse:
        found = next(each for each in self.reservations if each.reservation_id == request.reservation_id)
        found.state = "releasing"
        return pb.ReleaseReservationResponse(reservation=found)

    def ExtendReservation(
        self, request: pb.ExtendReservationRequest, context: grpc.ServicerContext
    ) -> pb.ExtendReservationResponse:
        self.extended.append(request.expires_at.ToDatetime(UTC))
        self.reservations[0].expires_at.CopyFrom(request.expires_at)
        return pb.ExtendReservationResponse(reservation=self.reservations[0])

    def DestroyGPUInstance(
        self, request: pb.DestroyGPUInstanceRequest, context: grpc.ServicerContext
    ) -> pb.DestroyGPUInstanceResponse:
        if not any(machine.contract_id == request.instance_id for machine in self.machines):
            abort(context, error(code_pb2.NOT_FOUND, f"No machine {request.instance_id}.", "NOT_FOUND"))
        self.destroyed.append((request.provider, request.instance_id))
        return pb.DestroyGPUInstanceResponse(success=True, message="being destroyed", state="releasing")

    def StopGPUInstance(
        self, request: pb.StopGPUInstanceRequest, context: grpc.ServicerContext
    ) -> pb.StopGPUInstanceResponse:
        return pb.StopGPUInstanceResponse(instance=self._switched(request.instance_id, self.after_stop, context))

    def StartGPUInstance(
        self, request: pb.StartGPUInstanceRequest, context: grpc.ServicerContext
    ) -> pb.StartGPUInstanceResponse:
        return pb.StartGPUInstanceResponse(instance=self._switched(request.instance_id, "starting", context))

    def _switched(self, contract: str, status: str, context: grpc.ServicerContext) -> pb.GPUInstance:
        machine = self._machine(contract, context)
        machine.status = status
        return machine

    def GetInstanceLogs(
        self, request: pb.GetInstanceLogsRequest, context: grpc.ServicerContext
    ) -> pb.GetInstanceLogsResponse:
        self._machine(request.instance_id, context)
        return pb.GetInstanceLogsResponse(lines=self.log[-request.tail :])

    def GetTransactions(
        self, request: pb.GetTransactionsRequest, context: grpc.ServicerContext
    ) -> pb.GetTransactionsResponse:
        facts = {"currency": "USD", "description": "1 x RTX 4090 at $0.40/h on vast.ai, contract 9001"}
        done = pb.Transaction(id="txn-1", amount=0.4, status="completed", **facts)
        done.ended_at.FromJsonString("2026-06-12T13:00:00Z")
        running = pb.Transaction(id="txn-2", amount=0.123456, status="pending", **facts)
        return pb.GetTransactionsResponse(transactions=[running, done][: request.limit], total_count=9)

    def GetLoadInfo(self, request: pb.GetLoadInfoRequest, context: grpc.ServicerContext) -> pb.GetLoadInfoResponse:
        load = pb.LoadInfo(instance_id="7001", provider="vast.ai", connections=2, load_score=0.25, total_connections=9)
        provider = pb.LoadInfo(instance_id="vast.ai", provider="vast.ai", connections=5)
        return pb.GetLoadInfoResponse(server_load=[load], provider_load=[provider], current_strategy=self.strategy)

    def ListProviders(
        self, request: pb.ListProvidersRequest, context: grpc.ServicerContext
    ) -> pb.ListProvidersResponse:
        account = pb.ProviderAccount(
            name="team-a", region="DE", state="paused", reason="PROVIDER_FUNDS", circuit="resting", failures=2,
            create_wait_seconds=12.5, create_interval_seconds=4.5, machines=3, unknown=1, price_per_hour=1.25,
        )  # fmt: skip
        for found in (
            pb.ProviderMeasurement(name="listing_lag", outcome="measured", value="3.5", unit="s"),
            pb.ProviderMeasurement(name="volume_sharing", outcome="measured", value="no", why="in use"),
        ):
            found.measured_at.FromJsonString("2026-11-22T10:00:00Z")
            account.measured.append(found)
        info = pb.ProviderInfo(
            provider="vast.ai", offer_prefix="vast", billing="metered", refund_rule="Nothing is paid in advance.",
            capabilities=[
                pb.ProviderCapability(name="volumes", available=True),
                pb.ProviderCapability(name="spot", reason="may be stopped without notice"),
            ],
            calls=[pb.ProviderCall(name="create", interval_seconds=4.5)], search_page=64, listing_lag_seconds=60,
            late_execution_seconds=300, accounts=[account], pools_per_account=144,
        )  # fmt: skip
        moon = pb.ProviderInfo(provider="moon", offer_prefix="moon", billing="metered", regional_keys=True)
        found = [each for each in (info, moon) if request.provider in ("", each.provider)]
        return pb.ListProvidersResponse(providers=found)

    def SetLoadBalancerStrategy(
        self, request: pb.SetLoadBalancerStrategyRequest, context: grpc.ServicerContext
    ) -> pb.SetLoadBalancerStrategyResponse:
        self._judge(context)
        self.strategy = request.strategy
        return pb.SetLoadBalancerStrategyResponse(strategy=request.strategy, success=True)

    def GetLoadBalancerStrategy(
        self, request: pb.GetLoadBalancerStrategyRequest, context: grpc.ServicerContext
    ) -> pb.GetLoadBalancerStrategyResponse:
        return pb.GetLoadBalancerStrategyResponse(
            strategy=self.strategy, scope="project", available=["least_connections", "lowest_price"]
        )

    def HealthCheck(self, request: pb.HealthCheckRequest, context: grpc.ServicerContext) -> pb.HealthCheckResponse:
        self.during_health_check(context)
        return pb.HealthCheckResponse(status="ok", timestamp=int(NOW.timestamp()))

    def _judge(self, context: grpc.ServicerContext) -> None:
        keys = [value for name, value in context.invocation_metadata() if name == "x-api-key"]
        refusal = self.refuse_with
        if keys != [KEY]:
            refusal = error(code_pb2.UNAUTHENTICATED, "Send a valid key.", "UNAUTHENTICATED")
        if refusal is not None:
            abort(context, refusal)


def error(
    code: int, message: str, reason: str, violations: Texts | None = None, *, metadata: Texts | None = None
) -> status_pb2.Status:
    """A gRPC status with details, as the real server sends it."""
    details = [_packed(error_details_pb2.ErrorInfo(reason=reason, domain="gpuproxy.v1", metadata=metadata))]
    if violations:
        violation = error_details_pb2.BadRequest.FieldViolation
        fields = [violation(field=name, description=text) for name, text in violations.items()]
        details.append(_packed(error_details_pb2.BadRequest(field_violations=fields)))
    return status_pb2.Status(code=code, message=message, details=details)


@contextmanager
def served(world: World, credentials: grpc.ServerCredentials | None = None) -> Iterator[str]:
    """Serve `world`, and yield its address."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        server = grpc.server(pool)
        add_GPUProxyServiceServicer_to_server(world, server)
        if credentials is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(0).wait()


def abort(context: grpc.ServicerContext, status: status_pb2.Status) -> None:
    rich = rpc_status.to_status(status)
    context.set_trailing_metadata((*rich.trailing_metadata, ("x-trace-id", "trace-1")))
    context.abort(rich.code, rich.details)


def _packed(detail: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest) -> Any:
    packed = Any()
    packed.Pack(detail)
    return packed
