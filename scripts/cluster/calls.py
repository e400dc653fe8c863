"""The calls that the callers make, and their record: what was asked of which server, when, and what came back.

An answer is one of four: "answered" with a reservation, "refused" with a reason, "unknown" if the call may have taken
effect or not, and "wrong" for an error that none of the incidents explains.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from gpuproxy.v1 import gpuproxy_pb2 as pb
from scripts.cluster.servers import Replicas

MAYBE = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
)  # fmt: skip
"""The codes of a call that may have taken effect or not."""
_REFUSED = frozenset({grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND})
PATIENCE = 30.0
"""Real seconds that a caller waits for an answer."""
_ASKED_FOR = 600.0


@dataclass(slots=True)
class Call:
    """One call."""

    kind: str
    """"reserve", "read" (a list by request id), "release" or "destroy"."""
    client: int
    server: int
    project: str
    request_id: str
    began: int
    """Nanoseconds since 1970."""
    ended: int
    result: str
    reservation_id: str = ""
    contracts: frozenset[str] = frozenset()
    found: tuple[str, ...] = ()
    """The reservations that a read has found."""
    reason: str = ""


@dataclass
class Record:
    """All calls of a run. Safe for threads."""

    calls: list[Call] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, call: Call) -> None:
        """Record a call."""
        with self._lock:
            self.calls.append(call)
            self.counts[f"{call.kind} {call.result} {call.reason}".strip()] += 1

    def complain(self, text: str) -> None:
        """Record what must not happen."""
        with self._lock:
            self.wrong.append(text)

    def of(self, *kinds: str) -> list[Call]:
        """The calls of some kinds so far."""
        with self._lock:
            return [call for call in self.calls if call.kind in kinds]


class Client:
    """One caller with a key. Each call goes to the server that it names."""

    def __init__(self, number: int, replicas: Replicas, record: Record, *, key: str, project: str) -> None:
        self.number = number
        self._stubs = replicas.stubs()
        self._record = record
        self._metadata = (("x-api-key", key),)
        self._project = project

    def reserve(
        self, server: int, request_id: str, *, count: int = 1, lease_seconds: int = 0, patience: float = PATIENCE
    ) -> Call:
        """Reserve GPUs under a request id, which is a label too."""
        request = pb.ReserveGPUsRequest(
            count=count, max_price=5, verified_only=False, request_id=request_id, labels={"rid": request_id}
        )
        if lease_seconds:
            request.lease_duration.CopyFrom(Duration(seconds=lease_seconds))
        call, answer = self._made("reserve", server, request_id, "ReserveGPUs", request, patience=patience)
        if answer is not None:
            call.reservation_id = answer.reservation_id
            call.contracts = frozenset(one.contract_id for one in answer.reserved_instances if one.contract_id)
        self._record.add(call)
        return call

    def read(self, server: int, request_id: str) -> Call:
        """List the reservations of a request id. One that has rented nothing may have lost its id."""
        request = pb.ListReservationsRequest(labels={"rid": request_id})
        call, answer = self._made("read", server, request_id, "ListReservations", request)
        if answer is not None:
            states = {one.reservation_id: one.state for one in answer.reservations if one.request_id == request_id}
            call.found = tuple(sorted(states))
            call.reason = next(iter(states.values())) if len(states) == 1 else ""
        self._record.add(call)
        return call

    def release(self, server: int, request_id: str, reservation_id: str) -> Call:
        """Release a reservation."""
        request = pb.ReleaseReservationRequest(reservation_id=reservation_id)
        call, _ = self._made("release", server, request_id, "ReleaseReservation", request)
        call.reservation_id = reservation_id
        self._record.add(call)
        return call

    def destroy(self, server: int, request_id: str, contract: str) -> Call:
        """Destroy one machine."""
        request = pb.DestroyGPUInstanceRequest(provider="vast.ai", instance_id=contract)
        call, _ = self._made("destroy", server, request_id, "DestroyGPUInstance", request)
        call.contracts = frozenset({contract})
        self._record.add(call)
        return call

    def ask(self, rpc: str, request: Any) -> Any:
        """Make a call that is not recorded, at one server after another until it is answered."""
        limit = time.monotonic() + _ASKED_FOR
        for server in cycle(range(len(self._stubs.all))):
            try:
                return getattr(self._stubs.all[server], rpc)(request, metadata=self._metadata, timeout=PATIENCE)
            except grpc.RpcError as error:
                if error.code() not in MAYBE or time.monotonic() > limit:
                    raise
                time.sleep(0.2)
        raise AssertionError

    def close(self) -> None:
        """Close the channels."""
        self._stubs.close()

    def _made(
        self, kind: str, server: int, request_id: str, rpc: str, request: Any, *, patience: float = PATIENCE
    ) -> tuple[Call, Any]:
        began, answer, result, reason = time.time_ns(), None, "answered", ""
        try:
            answer = getattr(self._stubs.all[server], rpc)(request, metadata=self._metadata, timeout=patience)
        except grpc.RpcError as error:
            result, reason = _judged(error)
            if result == "wrong":
                self._record.complain(f"{rpc} of {request_id}: {error.code().name} {error.details()}")
        ended = time.time_ns()
        return Call(kind, self.number, server, self._project, request_id, began, ended, result, reason=reason), answer


def _judged(error: grpc.RpcError) -> tuple[str, str]:
    code, reason = error.code(), reason_of(error)
    if code in MAYBE:
        return "unknown", reason or code.name
    if code in _REFUSED or (code is grpc.StatusCode.INTERNAL and reason == "INSTANCE_CREATION_FAILED"):
        return "refused", reason or code.name
    return "wrong", reason or code.name


def reason_of(error: grpc.RpcError) -> str:
    """The reason in the details of an error; "" if it has none."""
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Is(info.DESCRIPTOR) and detail.Unpack(info):
            return str(info.reason)
    return ""


def all_servers(dice: random.Random, count: int) -> Sequence[int]:
    """Every server once, in random order."""
    return dice.sample(range(count), count)
