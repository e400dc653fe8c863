"""Reservations, and the answers to the calls that create them, as messages."""

from collections.abc import Callable, Iterable
from datetime import datetime

from google.protobuf.duration_pb2 import Duration

from gpuproxy.edge.messages.instances import rented, reserved
from gpuproxy.edge.messages.times import timestamp
from gpuproxy.model import idleness, lease_ends
from gpuproxy.model.cost_ahead import costs_to_end
from gpuproxy.model.leases import Lease, LeaseState, status_word
from gpuproxy.model.meter import present_price
from gpuproxy.model.money import Micro, dollars, usd
from gpuproxy.model.reasons import Reason
from gpuproxy.model.reservations import ENDED, Decision, Pick, ReservationState, ReservationView, outcome_word
from gpuproxy.v1 import gpuproxy_pb2 as pb


def reserve_answer(view: ReservationView) -> pb.ReserveGPUsResponse:
    """The answer of ReserveGPUs, also for a dry run."""
    kept, reservation, decision = view.kept, view.reservation, view.reservation.decision
    dry_run = not view.leases and decision is not None
    prices = (
        [pick.price for pick in decision.picks] if dry_run and decision else [present_price(lease) for lease in kept]
    )
    alternative = decision.cheapest_alternative if decision else None
    return pb.ReserveGPUsResponse(
        reserved_instances=_instances(view, reserved),
        reserved_count=sum(lease.offered.num_gpus for lease in kept),
        message=reservation.message or _under_way(view),
        reservation_id="" if dry_run else reservation.id,
        state="" if dry_run else reservation.state,
        outcomes=outcomes(view.leases),
        price_per_hour=usd(sum(prices)),
        decision=_decision(decision),
        cheapest_alternative_per_hour=usd(alternative or 0),
        expires_at=timestamp(reservation.expires_at),
    )


def create_answer(view: ReservationView) -> pb.CreateGPUInstanceResponse:
    """The answer of CreateGPUInstance: a reservation of one instance."""
    lease = (view.kept or view.leases)[0]
    price = f"{dollars(lease.observed.price)}/h"
    offered = lease.offered
    text = f"{offered.offer_id}: {offered.num_gpus} x {offered.gpu_model} at {price}, contract {lease.instance_id}."
    return pb.CreateGPUInstanceResponse(
        instance_id=lease.instance_id or "",
        provider=lease.provider,
        status=_create_status(view, lease),
        message=f"Reserved {text}" if view.kept else view.reservation.message or _under_way(view),
        reservation_id=view.reservation.id,
    )


def _create_status(view: ReservationView, lease: Lease) -> str:
    """The status: "reserved", "unknown" while an outcome is open, or how the reservation has ended."""
    if view.kept:
        return "reserved"
    return view.reservation.state if view.reservation.state in ENDED else status_word(lease.state)


def reservation_message(view: ReservationView) -> pb.Reservation:
    """A reservation in its current state."""
    reservation, kept = view.reservation, view.kept
    return pb.Reservation(
        reservation_id=reservation.id,
        state=reservation.state,
        instances=_instances(view, rented),
        outcomes=outcomes(view.leases),
        reserved_count=sum(lease.offered.num_gpus for lease in kept),
        ready_count=sum(lease.offered.num_gpus for lease in kept if lease.state is LeaseState.ACTIVE),
        requested_count=reservation.count,
        price_per_hour=usd(sum(map(present_price, kept))),
        cost_so_far=usd(sum(view.costs)),
        created_at=timestamp(reservation.created_at),
        expires_at=timestamp(reservation.expires_at),
        labels=dict(reservation.labels),
        request_id=reservation.request_id,
        strategy=reservation.strategy,
        message=reservation.message or _under_way(view),
        reason=_reason(view),
        cost_to_end=_cost_to_end(view),
        ending_soon=any(map(lease_ends.is_soon, view.leases)),
        destroyed_at=timestamp(_destroyed_at(view)),
        release_idle_after=Duration(seconds=reservation.release_idle_s) if reservation.release_idle_s else None,
    )


def _cost_to_end(view: ReservationView) -> float | None:
    ahead = None if view.at is None else costs_to_end(view.leases, view.at)
    return None if ahead is None else usd(ahead)


def outcomes(leases: Iterable[Lease]) -> list[pb.Outcome]:
    """The outcome of each attempt to rent an offer."""
    return [
        pb.Outcome(
            attempt=lease.attempt,
            lease_id=lease.id,
            offer_id=lease.offered.offer_id,
            provider=lease.provider,
            host_id=lease.offered.host,
            num_gpus=lease.offered.num_gpus,
            state=outcome_word(lease),
            reason=lease.reason or (Reason.OUTCOME_UNKNOWN if lease.state is LeaseState.UNKNOWN else Reason.NONE),
            instance_id=lease.instance_id or "",
            status_message=lease.observed.status_message,
        )
        for lease in leases
    ]


def _instances(
    view: ReservationView, shown: Callable[[Lease, Micro, datetime | None, float | None], pb.GPUInstance]
) -> list[pb.GPUInstance]:
    kept = {lease.id for lease in view.kept}
    utils = view.gpu_utils or (idleness.NOT_READ,) * len(view.leases)
    rows = zip(view.leases, view.costs, utils, strict=True)
    return [shown(lease, cost, view.at, gpu_util) for lease, cost, gpu_util in rows if lease.id in kept]


def _destroyed_at(view: ReservationView) -> datetime | None:
    """When its machines are destroyed, if that is later than its end."""
    ends = [end for lease in view.kept if lease.grace_s and (end := lease_ends.destroyed_at(lease)) is not None]
    return max(ends, default=None)


def _under_way(view: ReservationView) -> str:
    held = sum(lease.offered.num_gpus for lease in view.kept)
    return (
        f"{held} of {view.reservation.count} GPUs are reserved so far; the others are still being rented. "
        "Call GetReservation with the reservation_id to follow."
    )


def _reason(view: ReservationView) -> str:
    reservation = view.reservation
    if reason := reservation.closing or (reservation.failure.reason if reservation.failure else ""):
        return reason
    over = reservation.state in (ReservationState.RELEASING, ReservationState.RELEASED)
    reasons = {lease.reason for lease in view.leases if lease.instance_id is not None}
    return reasons.pop() if over and len(reasons) == 1 else ""


def _decision(decision: Decision | None) -> pb.Decision | None:
    if decision is None:
        return None
    return pb.Decision(
        strategy=decision.strategy,
        considered=decision.considered,
        eligible=decision.eligible,
        rejected=dict(decision.rejected),
        sizes=decision.sizes,
        picks=[_pick(pick) for pick in decision.picks],
        top=[_pick(pick) for pick in decision.top],
        notes=decision.notes,
    )


def _pick(pick: Pick) -> pb.Pick:
    return pb.Pick(
        offer_id=pick.offer_id, host_id=pick.host, num_gpus=pick.num_gpus, price_per_hour=usd(pick.price), why=pick.why
    )
