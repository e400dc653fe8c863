"""What a watch makes of a reservation, and when a broken stream is opened again. Pure: nothing here talks or waits."""

import random
import time
from dataclasses import dataclass, field

from gpuproxy.client.errors import DeadlineExceeded, GPUProxyError, NotReady, Refusal, Unavailable
from gpuproxy.v1 import gpuproxy_pb2 as pb

_OPEN = frozenset({"pending", "unknown"})
_OVER = frozenset({"releasing", "released", "failed"})
_LONGEST_STREAM = 1800.0
"""Seconds; the server ends a stream after as many."""
_LONGEST_PAUSE = 5.0


@dataclass(slots=True, kw_only=True)
class Resume:
    """One watch over several streams: where the next begins, how long it may take, how often in a row they broke."""

    reservation_id: str
    timeout: float | None
    token: str = ""
    broken: int = 0
    _began: float = field(default_factory=time.monotonic)

    def request(self) -> pb.WatchReservationRequest:
        """What opens the next stream."""
        return pb.WatchReservationRequest(reservation_id=self.reservation_id, resume_token=self.token)

    def seconds(self) -> float:
        """The next stream's deadline."""
        left = self._left()
        return _LONGEST_STREAM if left is None else max(0.0, min(left, _LONGEST_STREAM))

    def heard(self, answer: pb.WatchReservationResponse) -> pb.Reservation:
        """What came, after noting where it was."""
        self.token, self.broken = answer.resume_token, 0
        return answer.reservation

    def pause(self, failure: GPUProxyError) -> float:
        """Seconds until the next stream; raises the failure where another stream would not help."""
        left = self._left()
        if left is not None and left <= 0:
            text = f"{self.reservation_id} was watched for {self.timeout:g} s"
            raise DeadlineExceeded(Refusal(code="DEADLINE_EXCEEDED", message=text)) from failure
        if isinstance(failure, DeadlineExceeded):
            return 0.0
        if not isinstance(failure, Unavailable):
            raise failure
        self.broken += 1
        longest = min(_LONGEST_PAUSE, 0.2 * 2.0**self.broken)
        pause = longest * (0.5 + random.random() / 2)
        return pause if left is None else min(pause, left)

    def _left(self) -> float | None:
        return None if self.timeout is None else self._began + self.timeout - time.monotonic()


def is_ready(reservation: pb.Reservation) -> bool:
    """True when every machine that was kept answers, and none is of unknown fate; raises NotReady when it is over."""
    if reservation.state in _OVER:
        text = f"{reservation.reservation_id} is {reservation.state}: {reservation.message or 'its machines are gone'}"
        reason = reservation.reason or next((one.reason for one in reservation.outcomes if one.reason), "")
        refusal = Refusal(code="FAILED_PRECONDITION", message=text, reason=reason)
        raise NotReady(refusal, reservation.request_id)
    undecided = any(outcome.state in _OPEN for outcome in reservation.outcomes)
    return not undecided and 0 < reservation.reserved_count <= reservation.ready_count


def ended(reservation: pb.Reservation) -> NotReady:
    """For a watch whose stream came to its end without a machine that is ready."""
    text = f"{reservation.reservation_id} ended as {reservation.state}"
    return NotReady(
        Refusal(code="FAILED_PRECONDITION", message=text, reason=reservation.reason), reservation.request_id
    )


def made(request: pb.ReserveGPUsRequest, answer: pb.ReserveGPUsResponse) -> pb.Reservation:
    """The reservation as ReserveGPUs tells of it."""
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
