"""The messages and refusals that callers get for reservations. Pure. A text says what happened, why, and what next."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from gpuproxy.model import bookings, contracts
from gpuproxy.model.errors import (
    AlreadyExists,
    AuthFailed,
    CreationFailed,
    DeadlineExceeded,
    FailedPrecondition,
    InsufficientFunds,
    ProviderUnavailable,
    RateLimited,
    Refusal,
    Unavailable,
)
from gpuproxy.model.leases import KEEPABLE, LIVE, RENTED, UNRESOLVED, Lease, LeaseState, ReservationId
from gpuproxy.model.money import Micro, dollars
from gpuproxy.model.offers import ProviderName
from gpuproxy.model.reasons import Reason
from gpuproxy.model.reservations import ENDED, Decision, Failure, Reservation, ReservationState, ReservationView
from gpuproxy.model.spread import Placed, spread
from gpuproxy.store.forgotten import ForgottenReservation

_SOON = 5.0
_OUT_OF_REACH = frozenset({ProviderUnavailable.reason, RateLimited.reason})


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How a call ends. `failure` is the error that it is refused with; `closing` is why everything is released."""

    message: str
    failure: Failure | None = None
    closing: Reason = Reason.NONE
    retryable: bool = False
    """Nothing was rented and no outcome is pending, so the request_id may be used again."""


def verdict(reservation: Reservation, leases: Sequence[Lease], *, gone: bool, queue_seconds: float = 0.0) -> Verdict:
    """The verdict on a call whose creates have ended.

    `gone`: no caller waits for the answer any more. `queue_seconds`: the longest wait for a turn that exceeded the
    deadline, 0 if there was none.
    """
    kept = [lease for lease in leases if lease.state in RENTED]
    gpus = sum(lease.offered.num_gpus for lease in kept)
    open_leases = [lease for lease in leases if lease.state in UNRESOLVED or lease.outcome_unknown]
    if reservation.closing:
        return Verdict(message="The reservation was released while machines were being created.")
    if gone and not reservation.keep:
        return Verdict(message="The caller left before the answer. Everything is released.", closing=Reason.CALLER_GONE)
    if not kept and not open_leases:
        return _nothing(reservation, leases, queue_seconds)
    if gpus < reservation.least:
        return _too_few(reservation, leases, gpus)
    return Verdict(message=message(reservation, leases))


def message(reservation: Reservation, leases: Sequence[Lease]) -> str:
    """The present outcome of a reservation, in words."""
    if any(lease.state in KEEPABLE for lease in leases) or not any(lease.instance_id for lease in leases):
        return _standing(reservation, leases)
    rented = [lease for lease in leases if lease.instance_id is not None]
    gpus, open_ = sum(lease.offered.num_gpus for lease in rented), sum(lease.state in LIVE for lease in rented)
    reasons = ", ".join(f"{reason} {count}" for reason, count in _counted(lease.reason for lease in rented).items())
    ending = f"{open_} of {len(rented)} machines may still be billed" if open_ else "nothing is billed any more"
    text = f"{gpus} of {reservation.count} GPUs were rented and then released ({reasons}); {ending}."
    return text + _stopped(reservation)


def answer(view: ReservationView) -> ReservationView:
    """The view as the answer of a call that rents. If its request_id names a reservation that has ended, it says so."""
    reservation = view.reservation
    if not reservation.request_id or reservation.state not in ENDED:
        return view
    ends = [lease.ended_at for lease in view.leases if lease.ended_at is not None]
    if reservation.state is ReservationState.RELEASING:
        what = "is being released"
    elif reservation.state is ReservationState.FAILED:
        what = "has failed"
    else:
        what = "ended" + (f" at {max(ends):%Y-%m-%d %H:%M:%S} UTC" if ends else "")
    text = (
        f"The reservation of this request_id {what}, and no machine is rented for it now. "
        f"{reservation.message.strip()} To rent again, use another request_id."
    )
    return replace(view, reservation=replace(reservation, message=text))


def _standing(reservation: Reservation, leases: Sequence[Lease]) -> str:
    gpus = sum(lease.offered.num_gpus for lease in leases if lease.state in RENTED)
    price = sum(lease.observed.price for lease in leases if lease.state in RENTED)
    text = f"Reserved {gpus} of {reservation.count} GPUs at {dollars(Micro(price))}/h."
    unknown = sum(lease.offered.num_gpus for lease in leases if lease.outcome_unknown)
    pending = sum(lease.offered.num_gpus for lease in leases if lease.state is LeaseState.REQUESTED)
    if unknown:
        text += f" {unknown} unknown: the marketplace did not say whether they were created. This resolves by itself."
    if pending:
        text += f" {pending} still being created."
    if gpus + unknown + pending < reservation.count:
        reasons = _counted(lease.reason for lease in leases if lease.reason)
        text += " Not reserved: " + (", ".join(f"{k} {v}" for k, v in reasons.items()) or "no more offers fit") + "."
    return text + _spread(reservation, leases) + _stopped(reservation) + _unsupported(leases) + _warnings(leases)


def _spread(reservation: Reservation, leases: Sequence[Lease]) -> str:
    """What the rented machines are spread over; "" for one host.

    The note of the decision says the same and what one host would have cost, unless other machines replaced the chosen
    ones.
    """
    text = spread([_placed(lease) for lease in leases if lease.state in RENTED])
    notes = reservation.decision.notes if reservation.decision else ()
    return text and f" {next((note for note in notes if note.startswith(text)), text)}."


def _placed(lease: Lease) -> Placed:
    return Placed(
        host=lease.offered.host,
        num_gpus=lease.offered.num_gpus,
        gpu_model=lease.offered.gpu_model,
        vram_gb=lease.offered.vram_gb,
        location=lease.offered.location,
    )


def dry_run(decision: Decision) -> str:
    """The message of a dry run: what shaped the choice."""
    return " ".join(["Dry run: nothing was rented.", *(f"{note[0].upper()}{note[1:]}." for note in decision.notes)])


def _unsupported(leases: Sequence[Lease]) -> str:
    """The parts of the boot script that the machines can't run, such as "keys: unsupported in entrypoint mode"."""
    found = {
        f"{part}: {state}" for lease in leases for part, state in lease.observed.boot if state.startswith("unsupported")
    }
    return f" {'; '.join(sorted(found))}." if found else ""


def _warnings(leases: Sequence[Lease]) -> str:
    """The first warning about a machine, and the number of the others."""
    found = [text for lease in leases for text in (contracts.warning(lease), bookings.warning(lease)) if text]
    more = f" {len(found) - 1} more machines have such a contract." if len(found) > 1 else ""
    return f" {found[0]}{more}" if found else ""


_STOPS = {
    Reason.IMAGE_UNUSABLE: "the image, its registry or its entry point can't work on any host: see the status messages",
    Reason.COMMON_CAUSE: "machines failed in the same way on several hosts, so another one would fail too: check the "
    "image, the account and this server's network",
    Reason.REPLACEMENT_LIMIT: "the limit of machines for one reservation is reached (GPUPROXY_REPLACEMENT_FACTOR)",
}


def _stopped(reservation: Reservation) -> str:
    why = _STOPS.get(reservation.stopped)
    return f" No more machines were rented: {why}." if why else ""


def still_running(request_id: str) -> DeadlineExceeded:
    """The refusal when the deadline passes while another process runs the call."""
    if not request_id:
        return DeadlineExceeded("The deadline has passed, and another server releases what this call has rented.")
    return DeadlineExceeded(
        f"The deadline has passed, and another server still runs this call. What it rents is kept. Repeat the call "
        f"with the same request_id ({request_id})."
    )


def refusal_of(failure: Failure) -> Refusal:
    """The error that a stored failure stands for."""
    metadata = dict(failure.metadata)
    if failure.reason == CreationFailed.reason:
        return CreationFailed(failure.message, metadata=metadata)
    if failure.reason == DeadlineExceeded.reason:
        return DeadlineExceeded(failure.message, metadata=metadata)
    if failure.reason in (Reason.PROVIDERS_UNREACHABLE, Reason.CREATE_QUEUE, Reason.UNAVAILABLE):
        wait = float(metadata.get("queue_seconds", _SOON))
        return Unavailable(failure.message, reason=failure.reason, metadata=metadata, retry_after=wait)
    return FailedPrecondition(failure.message, reason=failure.reason, metadata=metadata)


def no_account(providers: Collection[ProviderName]) -> FailedPrecondition:
    """The refusal when no account is configured for any of these providers; empty: for any provider at all."""
    names = ", ".join(sorted(providers)) or "any provider"
    return FailedPrecondition(
        f"No account is configured for {names}.", reason=Reason.NO_ACCOUNT, metadata={"providers": names}
    )


def keys_refused(providers: Sequence[ProviderName]) -> FailedPrecondition:
    """The refusal when no marketplace that was asked accepts any of our keys."""
    names = ", ".join(providers)
    return FailedPrecondition(
        f"No market can be read: {names} does not accept the server's key. Run gpuproxy doctor for details. "
        "Nothing was rented.",
        reason=AuthFailed.reason,
        metadata={"provider": ",".join(providers)},
    )


def request_id_reused(request_id: str, reservation_id: ReservationId, different: Sequence[str] = ()) -> AlreadyExists:
    """The refusal of a request_id that came with another demand; `reservation_id` is "" until the first has one.

    `different`: the fields in which the demands differ; empty if that is unknown.
    """
    owner = f"reservation {reservation_id}" if reservation_id else "a call that is still running"
    what = f" (different: {', '.join(different)})" if different else ""
    look = f"GetReservation shows what {reservation_id} has" if reservation_id else "ListReservations will show it"
    return AlreadyExists(
        f"request_id {request_id!r} belongs to {owner}, which asked for something else{what}. {look}: look there "
        "first. Use a new request_id only to rent in addition to it.",
        metadata={
            "request_id": request_id,
            **({"reservation_id": reservation_id} if reservation_id else {}),
            **({"different": ",".join(different)} if different else {}),
        },
    )


def request_id_forgotten(past: ForgottenReservation) -> AlreadyExists:
    """The refusal of a request_id whose reservation ended so long ago that its records were deleted."""
    return AlreadyExists(
        f"request_id {past.request_id!r} belongs to reservation {past.id}, which ended at "
        f"{past.ended_at:%Y-%m-%d %H:%M:%S} UTC. Its records are no longer kept, and no machine is rented for it. "
        "To rent again, use another request_id.",
        metadata={"request_id": past.request_id, "reservation_id": past.id},
    )


def _nothing(reservation: Reservation, leases: Sequence[Lease], queue_seconds: float) -> Verdict:
    reasons = _counted(lease.reason for lease in leases)
    tried = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
    kinds = set(reasons)
    if kinds == {InsufficientFunds.reason}:
        text = "The marketplace account has no credit left. Nothing was rented."
        return _failed(InsufficientFunds.reason, text, reasons)
    if kinds == {AuthFailed.reason}:
        return _failed(AuthFailed.reason, "The marketplace does not accept our API key. Nothing was rented.", reasons)
    if kinds == {Reason.NOT_ATTEMPTED} and queue_seconds > 0:
        return _queue_too_long(queue_seconds, len(leases))
    if kinds == {Reason.NOT_ATTEMPTED}:
        text = "The deadline left no time to create a machine. Nothing was rented."
        return _failed(DeadlineExceeded.reason, text, reasons, retryable=True)
    if kinds <= _OUT_OF_REACH | {Reason.NOT_ATTEMPTED}:
        text = f"No marketplace could be reached to create a machine ({tried}). Nothing was rented."
        return _failed(Reason.PROVIDERS_UNREACHABLE, text, reasons, retryable=True)
    if kinds <= {Reason.INTERRUPTED, Reason.NOT_ATTEMPTED}:
        text = "The server stopped before it sent a create. Nothing was rented. Repeat the call."
        return _failed(Reason.UNAVAILABLE, text, reasons, retryable=True)
    rented = any(lease.instance_id is not None for lease in leases)
    ending = "What was created is released." if rented else "Nothing was rented."
    return _failed(
        CreationFailed.reason,
        f"None of {reservation.count} GPUs could be reserved: {tried}.{_stopped(reservation)} {ending}",
        {**reasons, **({"stopped": reservation.stopped} if reservation.stopped else {})},
        closing=CreationFailed.reason if rented else Reason.NONE,
    )


def _queue_too_long(seconds: float, creates: int) -> Verdict:
    text = (
        f"The marketplace limits how fast machines are created. The next turn of this project is in {seconds:.0f} s, "
        "after the deadline of this call. Nothing was rented. Repeat the call later, or with a longer deadline."
    )
    metadata = (("not_attempted", str(creates)), ("queue_seconds", f"{seconds:.0f}"))
    failure = Failure(reason=Reason.CREATE_QUEUE, message=text, metadata=metadata)
    return Verdict(message=text, failure=failure, closing=Reason.CREATE_QUEUE, retryable=True)


def _too_few(reservation: Reservation, leases: Sequence[Lease], gpus: int) -> Verdict:
    reasons = _counted(lease.reason or lease.state.value.upper() for lease in leases if lease.state not in RENTED)
    because = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
    text = (
        f"Only {gpus} of {reservation.count} GPUs could be reserved and at least {reservation.least} were demanded "
        f"({because}). Everything is released."
    )
    metadata = {"reserved": gpus, "required": reservation.least, **reasons}
    return _failed(Reason.NOT_ALL_RESERVED, text, metadata, closing=Reason.NOT_ALL_RESERVED)


def _failed(
    reason: Reason,
    text: str,
    reasons: Mapping[str, int | str],
    *,
    retryable: bool = False,
    closing: Reason = Reason.NONE,
) -> Verdict:
    metadata = tuple((name.lower(), str(count)) for name, count in reasons.items())
    failure = Failure(reason=reason, message=text, metadata=metadata)
    return Verdict(message=text, failure=failure, closing=closing or reason, retryable=retryable)


def _counted(reasons: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for reason in reasons:
        counts[reason] = counts.get(reason, 0) + 1
    return counts
