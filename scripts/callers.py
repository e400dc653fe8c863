"""Random callers for `chaos` and `soak`: they rent, extend, stop and start, release, and leave during calls.

They remember the answers, so that these can be compared with the database and the market afterwards.
"""

import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

import grpc
from google.protobuf.duration_pb2 import Duration

from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.system.processes import Client

_EXPECTED_CODES = frozenset(
    {
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.NOT_FOUND,
    }
)
"""The codes with which a call may be refused on a market with faults."""
_SIZES = (1, 1, 1, 2, 2, 3, 4, 8)
_PATIENCE = 30.0  # real seconds


@dataclass
class Ledger:
    """The calls and answers of all callers together."""

    told: dict[str, frozenset[str]] = field(default_factory=dict)
    """The contract ids of answered reservations that were not released since."""
    interrupted: list[pb.ReserveGPUsRequest] = field(default_factory=list)
    """Calls with a request_id whose answer was lost."""
    counts: Counter[str] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)
    """Refusals that must not occur on this market."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answered(self, answer: pb.ReserveGPUsResponse) -> None:
        """Record an answered reservation."""
        with self._lock:
            self.told[answer.reservation_id] = frozenset(i.contract_id for i in answer.reserved_instances)

    def released(self, reservation_id: str) -> None:
        """Record that a reservation is being released, or is about to be."""
        with self._lock:
            self.told.pop(reservation_id, None)

    def lost(self, request: pb.ReserveGPUsRequest) -> None:
        """Record a call whose answer was lost."""
        with self._lock:
            self.interrupted.append(request)

    def lost_one(self) -> pb.ReserveGPUsRequest | None:
        """A lost call that is to be repeated; None if there is none."""
        with self._lock:
            return self.interrupted.pop(0) if self.interrupted else None

    def counted(self, name: str) -> None:
        """Count one more event of this name."""
        with self._lock:
            self.counts[name] += 1

    def refused(self, what: str, error: grpc.RpcError) -> None:
        """Record a refusal. It is an error if the faults of this market do not explain it."""
        code, text = error.code(), error.details() or ""
        self.counted(f"refused {code.name}")
        creation_failed = code is grpc.StatusCode.INTERNAL and "could be reserved" in text
        extended_too_late = code is grpc.StatusCode.INVALID_ARGUMENT and "is not in the future" in text
        if code not in _EXPECTED_CODES and not creation_failed and not extended_too_late:
            with self._lock:
                self.unexpected.append(f"{what}: {code.name} {text}")


class RandomCaller:
    """One caller. `most`: the number of machines of all callers at which no more are reserved."""

    def __init__(self, client: Client, ledger: Ledger, seed: int, *, most: int) -> None:
        self._client = client
        self._ledger = ledger
        self._dice = random.Random(seed)
        self._most = most
        self._open: list[pb.Reservation] = []

    def act(self) -> bool:
        """Do one random action. False if the server could not be reached."""
        try:
            self._chosen()()
        except grpc.RpcError as error:
            self._ledger.refused("call", error)
            return error.code() is not grpc.StatusCode.UNAVAILABLE or "shutting" in (error.details() or "")
        return True

    def _chosen(self) -> Callable[[], None]:
        live = len(self._client.instances())
        rent, give = (1, 6) if live >= self._most else (6, 1)
        acts = (self._reserve, self._ask_again, self._release, self._destroy, self._extend, self._power, self._look)
        return self._dice.choices(acts, (rent, 2, give, give, 1, 2, 1))[0]

    def _reserve(self) -> None:
        dice = self._dice
        request = pb.ReserveGPUsRequest(
            count=dice.choice(_SIZES),
            max_price=5,
            verified_only=False,
            all_or_nothing=dice.random() < 0.1,
            wait=dice.random() > 0.1,
            request_id=f"r{dice.getrandbits(60):x}" if dice.random() < 0.6 else "",
        )
        if dice.random() < 0.5:
            request.lease_duration.CopyFrom(Duration(seconds=dice.randrange(60, 3600)))
        self._send(request)

    def _ask_again(self) -> None:
        if (request := self._ledger.lost_one()) is not None:
            self._ledger.counted("asked again")
            self._send(request)

    def _send(self, request: pb.ReserveGPUsRequest) -> None:
        self._ledger.counted("reserve")
        leaves = self._dice.random() < 0.15
        call = self._client.future("ReserveGPUs", request, timeout=self._dice.choice((1.0, _PATIENCE, _PATIENCE)))
        if leaves:
            timer = threading.Timer(self._dice.random() * 0.5, call.cancel)
            timer.start()
        try:
            self._ledger.answered(call.result())
        except (grpc.RpcError, grpc.FutureCancelledError) as error:
            if request.request_id and _may_have_happened(error):
                self._ledger.lost(request)
            if isinstance(error, grpc.RpcError):
                raise
            self._ledger.counted("left")

    def _release(self) -> None:
        if (reservation := self._any_reservation()) is not None:
            self._ledger.released(reservation.reservation_id)
            self._ledger.counted("release")
            self._client.call(
                "ReleaseReservation", pb.ReleaseReservationRequest(reservation_id=reservation.reservation_id)
            )

    def _destroy(self) -> None:
        if instances := [one for one in self._client.instances() if one.contract_id]:
            one = self._dice.choice(instances)
            self._ledger.released(one.reservation_id)
            self._ledger.counted("destroy")
            self._client.call(
                "DestroyGPUInstance",
                pb.DestroyGPUInstanceRequest(provider=one.provider, instance_id=one.contract_id),
            )

    def _extend(self) -> None:
        reservation = self._any_reservation()
        if reservation is not None and reservation.HasField("expires_at"):
            self._ledger.counted("extend")
            later = reservation.expires_at.ToDatetime() + timedelta(seconds=self._dice.randrange(60, 1200))
            request = pb.ExtendReservationRequest(reservation_id=reservation.reservation_id)
            request.expires_at.FromDatetime(later)
            try:
                self._client.call("ExtendReservation", request)
            except grpc.RpcError:
                if self._found(reservation.reservation_id).expires_at.ToDatetime() <= later:
                    raise
                self._ledger.counted("extended by another in between")

    def _power(self) -> None:
        if instances := [one for one in self._client.instances() if one.status in ("active", "stopped")]:
            one = self._dice.choice(instances)
            what = "Stop" if one.status == "active" else "Start"
            self._ledger.counted(what.lower())
            request = getattr(pb, f"{what}GPUInstanceRequest")(provider=one.provider, instance_id=one.contract_id)
            self._client.call(f"{what}GPUInstance", request)

    def _look(self) -> None:
        self._client.call("ListGPUInstances", pb.ListGPUInstancesRequest(max_price=2, page_size=20))
        self._client.call("GetLoadInfo", pb.GetLoadInfoRequest())

    def _any_reservation(self) -> pb.Reservation | None:
        instances = [i for i in self._client.instances() if i.reservation_id]
        if not instances:
            return None
        return self._found(self._dice.choice(instances).reservation_id)

    def _found(self, reservation_id: str) -> pb.Reservation:
        request = pb.GetReservationRequest(reservation_id=reservation_id)
        found: pb.Reservation = self._client.call("GetReservation", request).reservation
        return found


def release_everything(client: Client) -> int:
    """Release every reservation that is not over. Returns their number."""
    token, ids = "", []
    while True:
        page = client.call("ListReservations", pb.ListReservationsRequest(page_size=1000, page_token=token))
        ids += [r.reservation_id for r in page.reservations if r.state not in ("released", "failed")]
        token = page.next_page_token
        if not token:
            break
    for reservation_id in ids:
        client.call("ReleaseReservation", pb.ReleaseReservationRequest(reservation_id=reservation_id))
    return len(ids)


def _may_have_happened(error: Exception) -> bool:
    return not isinstance(error, grpc.RpcError) or error.code() in (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
    )
