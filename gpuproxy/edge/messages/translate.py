"""Translates the engine's values to messages. It only reads values; the engine computes them.

The rule for ids (contract 1.2): the id of a GPUInstance is the offer id while it is offered or just reserved, and the
contract id when it is shown as rented. A message never contains anything of a LaunchSpec, and therefore no secret.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from gpuproxy.edge.messages import json_codec
from gpuproxy.instances.load import LoadReport, LoadRow
from gpuproxy.instances.requests import LeaseView
from gpuproxy.model.leases import Lease, LeaseState, PortMapping, status_word
from gpuproxy.model.meter import meter_rate
from gpuproxy.model.money import Micro, dollars, usd
from gpuproxy.model.offers import DEFAULT_DISK_GB, Offer
from gpuproxy.model.reservations import Decision, Pick, ReservationState, ReservationView, outcome_word
from gpuproxy.model.transactions import Adjustment, Transaction
from gpuproxy.store.keys import KeyRow
from gpuproxy.store.ssh_keys import SshKeyRow
from gpuproxy.v1 import gpuproxy_pb2 as pb

_SSH_USER = "root"
_SSH_PORT = 22


def encode_offer(offer: Offer) -> bytes:
    """One encoded element of `ListGPUInstancesResponse.instances`, with tag and length, for the default disk.

    A repeated field is the concatenation of its encoded elements, so a list is built by joining them.
    """
    return offer_element(offer, DEFAULT_DISK_GB)


def offer_json(offer: Offer, disk_gb: float = DEFAULT_DISK_GB) -> bytes:
    """The offer as JSON, at the price with `disk_gb` GB of disk. Lists join these elements with commas."""
    return json_codec.encode(offered(offer, disk_gb))


def offer_element(offer: Offer, disk_gb: float) -> bytes:
    """Like encode_offer, at the price with `disk_gb` GB of disk."""
    return pb.ListGPUInstancesResponse(instances=[offered(offer, disk_gb)]).SerializeToString()


def lease_element(view: LeaseView) -> bytes:
    """A rented instance as one encoded element of the same list."""
    return pb.ListGPUInstancesResponse(instances=[rented(view.lease, view.cost)]).SerializeToString()


def offered(offer: Offer, disk_gb: float) -> pb.GPUInstance:
    """An offer as a GPUInstance, at the price with `disk_gb` GB of disk."""
    price = offer.price(disk_gb)
    return pb.GPUInstance(
        id=offer.id,
        provider=offer.provider,
        status="available",
        price_per_hour=usd(price),
        vram_gb=offer.vram_gb,
        gpu_model=offer.gpu_model,
        num_gpus=offer.num_gpus,
        location=offer.location,
        metadata=offer.extras,
        price_per_gpu_hour=_per_gpu(price, offer.num_gpus),
        host_id=offer.host,
        reliability=offer.reliability_ppm / 1_000_000,
        verified=offer.verified,
        expires_at=timestamp(offer.expires_at),
        cuda_max=offer.cuda_max,
        disk_gb=disk_gb,
    )


def rented(lease: Lease, cost: Micro) -> pb.GPUInstance:
    """A lease as a GPUInstance under its contract id; `cost` is its cost so far."""
    contract = lease.instance_id or ""
    return pb.GPUInstance(
        id=contract,
        provider=lease.provider,
        status=status_word(lease.state),
        price_per_hour=usd(lease.price),
        vram_gb=lease.vram_gb,
        gpu_model=lease.gpu_model,
        num_gpus=lease.num_gpus,
        location=lease.location,
        metadata=_metadata(lease),
        price_per_gpu_hour=_per_gpu(lease.price, lease.num_gpus),
        host_id=lease.host,
        lease_id=lease.id,
        reservation_id=lease.reservation_id,
        created_at=timestamp(lease.started_at),
        ready_at=timestamp(lease.ready_at),
        expires_at=timestamp(lease.expires_at),
        account=lease.account,
        contract_id=contract,
        ssh=_ssh(lease),
        port_mappings=[_port(port) for port in lease.ports],
        status_message=lease.status_message,
        cost_so_far=usd(cost),
        reliability=lease.reliability_ppm / 1_000_000,
        verified=lease.verified,
        cuda_max=lease.cuda_max,
        disk_gb=lease.disk_gb,
    )


def reserved(lease: Lease, cost: Micro) -> pb.GPUInstance:
    """A lease in the answer of the call that created it: with the offer's id and the status "reserved"."""
    instance = rented(lease, cost)
    instance.id = lease.offer_id
    instance.status = "reserved"
    return instance


def reserve_answer(view: ReservationView) -> pb.ReserveGPUsResponse:
    """The answer of ReserveGPUs, also for a dry run."""
    kept, reservation, decision = view.kept, view.reservation, view.reservation.decision
    dry_run = not view.leases and decision is not None
    prices = [pick.price for pick in decision.picks] if dry_run and decision else [lease.price for lease in kept]
    alternative = decision.cheapest_alternative if decision else None
    return pb.ReserveGPUsResponse(
        reserved_instances=_instances(view, reserved),
        reserved_count=sum(lease.num_gpus for lease in kept),
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
    price = f"{dollars(lease.price)}/h"
    text = f"{lease.offer_id}: {lease.num_gpus} x {lease.gpu_model} at {price}, contract {lease.instance_id}."
    return pb.CreateGPUInstanceResponse(
        instance_id=lease.instance_id or "",
        provider=lease.provider,
        status="reserved" if view.kept else status_word(lease.state),
        message=f"Reserved {text}" if view.kept else view.reservation.message or _under_way(view),
        reservation_id=view.reservation.id,
    )


def reservation_message(view: ReservationView) -> pb.Reservation:
    """A reservation in its current state."""
    reservation, kept = view.reservation, view.kept
    return pb.Reservation(
        reservation_id=reservation.id,
        state=reservation.state,
        instances=_instances(view, rented),
        outcomes=outcomes(view.leases),
        reserved_count=sum(lease.num_gpus for lease in kept),
        ready_count=sum(lease.num_gpus for lease in kept if lease.state is LeaseState.ACTIVE),
        requested_count=reservation.count,
        price_per_hour=usd(sum(lease.price for lease in kept)),
        cost_so_far=usd(sum(view.costs)),
        created_at=timestamp(reservation.created_at),
        expires_at=timestamp(reservation.expires_at),
        labels=dict(reservation.labels),
        request_id=reservation.request_id,
        strategy=reservation.strategy,
        message=reservation.message or _under_way(view),
        reason=_reason(view),
    )


def outcomes(leases: Iterable[Lease]) -> list[pb.Outcome]:
    """The outcome of each attempt to rent an offer."""
    return [
        pb.Outcome(
            attempt=lease.attempt,
            lease_id=lease.id,
            offer_id=lease.offer_id,
            provider=lease.provider,
            host_id=lease.host,
            num_gpus=lease.num_gpus,
            state=outcome_word(lease),
            reason=lease.reason or ("OUTCOME_UNKNOWN" if lease.state is LeaseState.UNKNOWN else ""),
            instance_id=lease.instance_id or "",
            status_message=lease.status_message,
        )
        for lease in leases
    ]


def destroy_answer(lease: Lease) -> pb.DestroyGPUInstanceResponse:
    """The answer of DestroyGPUInstance, after the release has been committed."""
    state = status_word(lease.state)
    texts: Mapping[str, str] = {
        "releasing": f"is being released. {lease.provider} may bill it until it is confirmed gone.",
        "released": "is released and no longer billed.",
        "lost": f"was taken away by {lease.provider} and is no longer billed.",
    }
    text = texts.get(state, f"is {state}.")
    return pb.DestroyGPUInstanceResponse(success=True, message=f"Instance {lease.instance_id} {text}", state=state)


def load_answer(report: LoadReport, kind: str) -> pb.GetLoadInfoResponse:
    """The load counters; `kind` is "server", "provider" or "all"."""
    return pb.GetLoadInfoResponse(
        server_load=[_load(row) for row in report.server] if kind in ("server", "all") else [],
        provider_load=[_load(row) for row in report.provider] if kind in ("provider", "all") else [],
        current_strategy=report.strategy,
    )


def transaction_message(transaction: Transaction | Adjustment) -> pb.Transaction:
    """The usage of one meter within one hour, or an adjustment to the provider's charges."""
    if isinstance(transaction, Adjustment):
        return _adjustment(transaction)
    meter = transaction.meter
    what = f"disk of {meter.gpu_model}" if meter.storage else f"{meter.num_gpus} x {meter.gpu_model}"
    return pb.Transaction(
        id=transaction.id,
        type="usage",
        amount=usd(transaction.amount),
        currency="USD",
        timestamp=int(transaction.ended_at.timestamp()),
        status="pending" if transaction.pending else "completed",
        description=f"{what} at {dollars(meter.rate)}/h on {meter.provider}, contract {meter.instance_id}",
        provider=meter.provider,
        instance_id=meter.instance_id,
        reservation_id=meter.reservation_id,
        started_at=timestamp(transaction.started_at),
        ended_at=None if transaction.pending else timestamp(transaction.ended_at),
        gpu_hours=transaction.gpu_hours,
    )


def _adjustment(adjustment: Adjustment) -> pb.Transaction:
    charged, metered = dollars(adjustment.charged), dollars(adjustment.metered)
    return pb.Transaction(
        id=adjustment.id,
        type="adjustment",
        amount=usd(adjustment.amount),
        currency="USD",
        timestamp=int(adjustment.at.timestamp()),
        status="completed",
        description=f"{adjustment.provider} charged {charged} for contract {adjustment.instance_id}, metered {metered}",
        provider=adjustment.provider,
        instance_id=adjustment.instance_id,
        reservation_id=adjustment.reservation_id,
        ended_at=timestamp(adjustment.at),
    )


def key_message(row: KeyRow) -> pb.APIKey:
    """An API key without its secret."""
    return pb.APIKey(
        id=row.id,
        name=row.name,
        prefix=row.prefix,
        role=row.role,
        created_at=timestamp(row.created_at),
        revoked_at=timestamp(row.revoked_at),
    )


def ssh_key_message(row: SshKeyRow) -> pb.SSHKey:
    """A public SSH key of a project."""
    return pb.SSHKey(
        id=row.id,
        name=row.name,
        public_key=row.public_key,
        fingerprint=row.fingerprint,
        created_at=timestamp(row.created_at),
    )


def timestamp(at: datetime | None) -> Timestamp | None:
    """A time as a protobuf Timestamp; None for None."""
    if at is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp


def _instances(view: ReservationView, shown: Callable[[Lease, Micro], pb.GPUInstance]) -> list[pb.GPUInstance]:
    kept = {lease.id for lease in view.kept}
    return [shown(lease, cost) for lease, cost in zip(view.leases, view.costs, strict=True) if lease.id in kept]


def _under_way(view: ReservationView) -> str:
    held = sum(lease.num_gpus for lease in view.kept)
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


def _metadata(lease: Lease) -> dict[str, str]:
    facts = dict(lease.extras) | {"lease_id": lease.id, "offer_id": lease.offer_id}
    if lease.instance_id:
        facts["contract_id"] = lease.instance_id
    if (rate := meter_rate(lease)) is not None:
        facts["billed_per_hour"] = f"{usd(rate):f}"
    if lease.faltered_at is not None:
        facts["not_running_since"] = f"{lease.faltered_at:%Y-%m-%dT%H:%M:%SZ}"
    return facts


def _ssh(lease: Lease) -> pb.SSHAccess | None:
    if not lease.ssh_host:
        return None
    command = f"ssh -p {lease.ssh_port} {_SSH_USER}@{lease.ssh_host}"
    return pb.SSHAccess(host=lease.ssh_host, port=lease.ssh_port, user=_SSH_USER, command=command)


def _port(port: PortMapping) -> pb.PortMapping:
    host = f"[{port.host}]" if ":" in port.host else port.host
    return pb.PortMapping(
        container_port=port.container_port,
        protocol=port.protocol,
        host=port.host,
        public_port=port.public_port,
        url=f"http://{host}:{port.public_port}" if port.protocol == "tcp" and port.container_port != _SSH_PORT else "",
    )


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


def _load(row: LoadRow) -> pb.LoadInfo:
    return pb.LoadInfo(
        instance_id=row.id,
        provider=row.provider,
        connections=row.connections,
        avg_response_time_ms=row.response_ms,
        load_score=row.connections / row.gpus if row.gpus else 0.0,
        total_connections=row.picks,
        weight=row.weight,
        last_used=timestamp(row.last_used),
        samples=row.samples,
        ejected_until=timestamp(row.ejected_until),
    )


def _per_gpu(price: int, num_gpus: int) -> float:
    """USD per GPU-hour, not rounded: used as max_price, it must still include this offer."""
    return price / num_gpus / 1_000_000 if num_gpus else 0.0
