"""The logic of watching: when a broken stream is opened again, and whether a reservation is ready. No I/O here."""

import random
import time
from dataclasses import dataclass, field

from gpuproxy.client.errors import (
    DeadlineExceeded,
    GPUProxyError,
    InvalidArgument,
    NotReady,
    Refusal,
    Unavailable,
)
from gpuproxy.v1 import gpuproxy_pb2 as pb

_UNDECIDED = frozenset({"pending", "unknown"})
_FINAL = frozenset({"releasing", "released", "failed"})
_MAX_STREAM_SECONDS = 1800.0
"""The server ends a stream after this time."""
_MAX_PAUSE_SECONDS = 5.0
_FIRST_TRIES = 5
"""After this many failures in a row, a watch without a timeout ends if none of its streams has ever begun."""


@dataclass(slots=True, kw_only=True)
class Streams:
    """The state of one watch over several streams: resume token, remaining time, consecutive failures."""

    what: str
    """What is watched, for messages."""
    timeout: float | None
    token: str = ""
    began: bool = False
    """True once a stream has sent something, or if the server is known to be there."""
    broken: int = 0
    _began: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        """The timeout of the next stream, in seconds."""
        left = self._left()
        return _MAX_STREAM_SECONDS if left is None else max(0.0, min(left, _MAX_STREAM_SECONDS))

    def arrived(self, token: str) -> None:
        """Store the resume token of a message."""
        self.token, self.began, self.broken = token, True, 0

    def pause(self, failure: GPUProxyError) -> float:
        """Seconds to wait before the next stream; raises the failure if another stream can't help."""
        left = self._left()
        if left is not None and left <= 0:
            text = f"{self.what} was watched until the timeout of {self.timeout:g} s"
            raise DeadlineExceeded(Refusal(code="DEADLINE_EXCEEDED", message=text)) from failure
        if isinstance(failure, DeadlineExceeded):
            return 0.0
        if not isinstance(failure, Unavailable):
            raise failure
        self.broken += 1
        if left is None and not self.began and self.broken >= _FIRST_TRIES:
            raise failure
        longest = min(_MAX_PAUSE_SECONDS, 0.2 * 2.0**self.broken)
        pause = longest * (0.5 + random.random() / 2)
        return pause if left is None else min(pause, left)

    def _left(self) -> float | None:
        return None if self.timeout is None else self._began + self.timeout - time.monotonic()


@dataclass(slots=True, kw_only=True)
class Resume(Streams):
    """The watch of a reservation."""

    reservation_id: str
    what: str = ""

    def __post_init__(self) -> None:
        """Name the reservation in messages."""
        self.what = f"Reservation {self.reservation_id}"

    def request(self) -> pb.WatchReservationRequest:
        """The request that opens the next stream."""
        return pb.WatchReservationRequest(reservation_id=self.reservation_id, resume_token=self.token)

    def received(self, answer: pb.WatchReservationResponse) -> pb.Reservation:
        """The reservation in an answer; its resume token is stored."""
        self.arrived(answer.resume_token)
        return answer.reservation


@dataclass(slots=True, kw_only=True)
class PoolResume(Streams):
    """The watch of a warm pool."""

    machine_id: int
    what: str = ""

    def __post_init__(self) -> None:
        """Name the pool in messages."""
        self.what = f"The warm pool of machine {self.machine_id}"

    def request(self) -> pb.WatchWarmPoolRequest:
        """The request that opens the next stream."""
        return pb.WatchWarmPoolRequest(machine_id=self.machine_id, resume_token=self.token)

    def received(self, answer: pb.WarmPoolStatus) -> pb.WarmPoolStatus:
        """The status; its resume token is stored."""
        self.arrived(answer.resume_token)
        return answer


def is_ready(reservation: pb.Reservation) -> bool:
    """True if every kept machine is ready and no create is undecided; raises NotReady if the reservation has ended."""
    if reservation.state in _FINAL:
        why = reservation.message or "its machines are gone"
        text = f"Reservation {reservation.reservation_id} is {reservation.state}: {why}"
        reason = reservation.reason or next((one.reason for one in reservation.outcomes if one.reason), "")
        refusal = Refusal(code="FAILED_PRECONDITION", message=text, reason=reason)
        raise NotReady(refusal, reservation.request_id)
    undecided = any(outcome.state in _UNDECIDED for outcome in reservation.outcomes)
    return not undecided and 0 < reservation.reserved_count <= reservation.ready_count


def not_ready(reservation: pb.Reservation) -> NotReady:
    """The error of a watch whose stream ended before the machines were ready."""
    text = f"The watch of reservation {reservation.reservation_id} ended; its state is {reservation.state}"
    return NotReady(
        Refusal(code="FAILED_PRECONDITION", message=text, reason=reservation.reason), reservation.request_id
    )


def require_found(reservation: pb.Reservation, request_id: str) -> None:
    """Raise InvalidArgument if a reservation was found that has `request_id` as its id: another one may have it."""
    if reservation.request_id != request_id.strip():
        text = f"{request_id} is the id of a reservation. ListReservations shows which one has it as request id"
        violations = (("request_id", text),)
        raise InvalidArgument(Refusal(code="INVALID_ARGUMENT", message=f"request_id: {text}", violations=violations))


def may_be_rented(reservation: pb.Reservation) -> str:
    """The note for the exception that stopped a release."""
    return f"{reservation.reservation_id} may be rented still: its release was stopped"


def reservation_of(request: pb.ReserveGPUsRequest, answer: pb.ReserveGPUsResponse) -> pb.Reservation:
    """The reservation that an answer of ReserveGPUs describes."""
    reservation = pb.Reservation(
        reservation_id=answer.reservation_id,
        state=answer.state,
        instances=answer.reserved_instances,
        outcomes=answer.outcomes,
        reserved_count=answer.reserved_count,
        requested_count=request.count,
        price_per_hour=answer.price_per_hour,
        labels=request.labels,
        request_id=request.request_id,
        strategy=answer.decision.strategy,
        message=answer.message,
    )
    if answer.HasField("expires_at"):
        reservation.expires_at.CopyFrom(answer.expires_at)
    return reservation
