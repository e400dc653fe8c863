"""Offers and machines as messages.

The rule for ids (contract 1.2): the id of a GPUInstance is the offer id while it is offered or just reserved, and the
contract id when it is shown as rented. A message never contains anything of a LaunchSpec, and therefore no secret.
"""

import math
from collections.abc import Mapping
from datetime import datetime

from gpuproxy.edge.messages import json_codec
from gpuproxy.edge.messages.times import timestamp
from gpuproxy.instances.requests import LeaseView
from gpuproxy.model import bookings, contracts, idleness, self_ending
from gpuproxy.model.cost_ahead import cost_to_end
from gpuproxy.model.leases import Lease, LeaseState, PortMapping, status_word
from gpuproxy.model.meter import meter_rate
from gpuproxy.model.money import Micro, usd
from gpuproxy.model.offers import DEFAULT_DISK_GB, Offer
from gpuproxy.v1 import gpuproxy_pb2 as pb

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
    return pb.ListGPUInstancesResponse(instances=[of_view(view)]).SerializeToString()


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
        cpu_cores=offer.cpu_cores,
        ram_gb=offer.ram_gb,
        disk_bandwidth=offer.disk_bandwidth,
        inet_down=offer.inet_down,
        inet_up=offer.inet_up,
        inet_down_price=None if offer.inet_down_price is None else usd(offer.inet_down_price),
        inet_up_price=None if offer.inet_up_price is None else usd(offer.inet_up_price),
        direct_ports=offer.direct_ports,
        compute_cap=offer.compute_cap,
    )


def of_view(view: LeaseView) -> pb.GPUInstance:
    """A rented instance as a GPUInstance."""
    return rented(view.lease, view.cost, view.at, view.gpu_util)


def rented(
    lease: Lease, cost: Micro, at: datetime | None = None, gpu_util: float | None = idleness.NOT_READ
) -> pb.GPUInstance:
    """A lease as a GPUInstance under its contract id; `cost` is its cost so far, read `at` this time.

    `gpu_util`: in percent; None where it is not known.
    """
    contract = lease.instance_id or ""
    return pb.GPUInstance(
        id=contract,
        provider=lease.provider,
        status=status_word(lease.state),
        price_per_hour=usd(lease.observed.price),
        vram_gb=lease.offered.vram_gb,
        gpu_model=lease.offered.gpu_model,
        num_gpus=lease.offered.num_gpus,
        location=lease.offered.location,
        metadata=_metadata(lease),
        price_per_gpu_hour=_per_gpu(lease.observed.price, lease.offered.num_gpus),
        host_id=lease.offered.host,
        lease_id=lease.id,
        reservation_id=lease.reservation_id,
        created_at=timestamp(lease.started_at),
        ready_at=timestamp(lease.observed.ready_at),
        expires_at=timestamp(lease.expires_at),
        account=lease.account,
        contract_id=contract,
        ssh=_ssh(lease),
        port_mappings=[_port(port) for port in lease.observed.ports],
        status_message=lease.observed.status_message,
        cost_so_far=usd(cost),
        reliability=lease.offered.reliability_ppm / 1_000_000,
        verified=lease.offered.verified,
        cuda_max=lease.offered.cuda_max,
        disk_gb=lease.offered.disk_gb,
        contract_ends_at=timestamp(_contract_end(lease)),
        ready_evidence=lease.observed.ready_evidence,
        boot_parts=_boot_parts(lease),
        warnings=_warnings(lease, gpu_util),
        booked_until=timestamp(lease.prepaid.booked_until),
        paid=usd(lease.prepaid.paid) if lease.is_prepaid else None,
        refund_rule=bookings.refund_rule(lease),
        cost_to_end=None if at is None or (ahead := cost_to_end(lease, at)) is None else usd(ahead),
        self_ending=self_ending.state(lease),
        gpu_util=None if gpu_util is None or math.isnan(gpu_util) else gpu_util,
        idle_since=timestamp(lease.observed.idle_since if lease.state is LeaseState.ACTIVE else None),
        idle_release_at=timestamp(idleness.release_at(lease)),
    )


def reserved(
    lease: Lease, cost: Micro, at: datetime | None = None, gpu_util: float | None = idleness.NOT_READ
) -> pb.GPUInstance:
    """A lease in the answer of the call that created it: with the offer's id and the status "reserved"."""
    instance = rented(lease, cost, at, gpu_util)
    instance.id = lease.offered.offer_id
    instance.status = "reserved"
    return instance


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


def _warnings(lease: Lease, gpu_util: float | None) -> list[str]:
    found = (contracts.warning(lease), bookings.warning(lease), idleness.warning(lease, gpu_util))
    return [text for text in found if text]


def _metadata(lease: Lease) -> dict[str, str]:
    facts = dict(lease.offered.extras) | {"lease_id": lease.id, "offer_id": lease.offered.offer_id}
    if lease.instance_id:
        facts["contract_id"] = lease.instance_id
    if lease.kind == "volume":
        facts |= {"kind": "volume", "size_gb": f"{lease.offered.disk_gb:g}"}
    if (rate := meter_rate(lease)) is not None:
        facts["billed_per_hour"] = f"{usd(rate):f}"
    if lease.observed.faltered_at is not None:
        facts["not_running_since"] = f"{lease.observed.faltered_at:%Y-%m-%dT%H:%M:%SZ}"
    return facts


def _contract_end(lease: Lease) -> datetime | None:
    """When the machine stops whatever its lease says: at the end of a booking that can't be extended at the moment."""
    return lease.prepaid.booked_until if bookings.warning(lease) else lease.observed.contract_ends_at


def _boot_parts(lease: Lease) -> dict[str, str]:
    parts = dict(lease.observed.boot)
    if lease.pending.keys_state:
        parts["marketplace_keys"] = lease.pending.keys_state
    if self_ending.is_interrupted(lease):
        parts[self_ending.PART] = self_ending.STOPPED
    return parts


def _ssh(lease: Lease) -> pb.SSHAccess | None:
    seen = lease.observed
    if not seen.ssh_host:
        return None
    command = f"ssh -p {seen.ssh_port} {seen.ssh_user}@{seen.ssh_host}"
    return pb.SSHAccess(host=seen.ssh_host, port=seen.ssh_port, user=seen.ssh_user, command=command)


def _port(port: PortMapping) -> pb.PortMapping:
    host = f"[{port.host}]" if ":" in port.host else port.host
    return pb.PortMapping(
        container_port=port.container_port,
        protocol=port.protocol,
        host=port.host,
        public_port=port.public_port,
        url=f"http://{host}:{port.public_port}" if port.protocol == "tcp" and port.container_port != _SSH_PORT else "",
    )


def _per_gpu(price: int, num_gpus: int) -> float:
    """USD per GPU-hour, not rounded: used as max_price, it must still include this offer."""
    return price / num_gpus / 1_000_000 if num_gpus else 0.0
