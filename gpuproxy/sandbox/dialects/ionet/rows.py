"""io.net's rows: deployments in lists, a deployment's details, and its workers."""

import hashlib
import uuid
from datetime import UTC, datetime
from typing import Any

from gpuproxy.sandbox.dialects.ionet.offers import place
from gpuproxy.sandbox.market.prepaid.bookings import ENDED, Booking, Stage
from gpuproxy.sandbox.market.prepaid.exchange import PrepaidMarket
from gpuproxy.sandbox.market.prepaid.ways_in import MAIN
from gpuproxy.sandbox.protocol.faults import Fault

Row = dict[str, Any]
STATUSES = ("running", "completed", "failed", "deployment requested", "termination requested", "destroyed")
"""The words of the status filter."""
_WORDS = {
    Stage.LOADING: "deployment requested",
    Stage.RUNNING: "running",
    Stage.ENDING: "termination requested",
    Stage.COMPLETED: "completed",
    Stage.FAILED: "failed",
    Stage.DESTROYED: "destroyed",
}
_DEPLOYING = 0.5  # of the time until it runs, for containers
_UNKNOWN_WORD = "hibernating"
_IP = "127.0.0.1"


def status(booking: Booking, now: float, fault: Fault | None = None) -> str:
    """The status of a deployment; the fault status_words writes it in another way."""
    word = _WORDS[booking.stage]
    if booking.stage is Stage.LOADING and booking.order.product == "container" and booking.starts_at is not None:
        begins = booking.requested_at + (booking.starts_at - booking.requested_at) * _DEPLOYING
        word = "deploying" if now >= begins else word
    match fault.args.get("form", "upper") if fault is not None and fault.name == "status_words" else "":
        case "upper":
            return word.upper()
        case "underscores":
            return word.upper().replace(" ", "_")
        case "title":
            return word.title()
        case "unknown":
            return _UNKNOWN_WORD
    return word


def listed(booking: Booking, now: float, fault: Fault | None = None) -> Row:
    """The row of a list. Only here is the name."""
    return {
        "id": booking.id,
        "status": status(booking, now, fault),
        "name": booking.order.name,
        "completed_percent": _percent(booking, now),
        "hardware_quantity": booking.gpus,
        "brand_name": "NVIDIA",
        "hardware_name": booking.model,
        **_minutes(booking, now),
        "created_at": _without_zone(booking.requested_at),
    }


def detail(booking: Booking, now: float, fault: Fault | None = None) -> Row:
    """A deployment's details. There is neither a name nor an end; times are in UTC and don't say so."""
    order, vm = booking.order, booking.order.product == "vm"
    row: Row = {
        "id": booking.id,
        "status": status(booking, now, fault),
        "created_at": _without_zone(booking.requested_at),
        "started_at": _without_zone(booking.started_at),
        "finished_at": _without_zone(booking.ended_at),
        "amount_paid": booking.paid / 1e6,
        "completed_percent": _percent(booking, now),
        "total_gpus": booking.gpus,
        "gpus_per_vm" if vm else "gpus_per_container": order.cards,
        "total_vms" if vm else "total_containers": order.workers,
        "hardware_name": booking.model,
        "hardware_id": order.kind,
        "locations": [place(booking.location)],
        "brand_name": "NVIDIA",
        **_minutes(booking, now),
    }
    if order.container is None:
        return row | {"ssh_keys": order.ssh_keys, "github_ids": order.github_ids}
    container = order.container
    config = {
        "entrypoint": container.entrypoint,
        "env_variables": container.env,
        "traffic_port": container.traffic_port,
        "image_url": container.image,
        "secret_env_keys": list(container.secret_env),
    }
    return row | {"is_cc": False, "container_config": config}


def vm(market: PrepaidMarket, booking: Booking, number: int = 0) -> Row:
    """A virtual machine. `ssh_access` is null until its addresses are known, and again when it has ended."""
    ports, known = booking.ports[number], _known(booking)
    services = {
        name: {
            "port": service.port,
            "protocol": service.protocol,
            "whitelist": service.whitelist,
            "public_port": ports[name] if known else None,
            "public_ip": _IP if known else None,
            "srv_record": "" if known else None,
        }
        for name, service in booking.order.services.items()
    }
    return {
        "vm_id": worker_id(booking, number),
        **_worker(market, booking, number),
        "gpus_per_vm": booking.order.cards,
        "vm_events": _events(booking),
        "network_services": services or None,
        "ssh_access": f"ssh ubuntu@{_IP} -p {ports[MAIN]}" if known else None,
        "is_external": isinstance(booking.order.kind, str),
    }


def container(market: PrepaidMarket, booking: Booking, number: int) -> Row:
    """A container. `public_url` and the checks are null until io.net's own check has passed."""
    ingress = booking.order.container is not None and booking.order.container.ingress
    known = _known(booking)
    word = "ok" if known else None
    return {
        "container_id": worker_id(booking, number),
        **_worker(market, booking, number),
        "allocation_id": _uuid(booking, f"allocation {number}"),
        "gpus_per_container": booking.order.cards,
        "public_url": f"http://{_IP}:{booking.ports[number][MAIN]}" if known and ingress else None,
        "container_events": _events(booking) or [],
        "connect_check_status": word,
        "external_check_status": word,
        "internal_check_status": word,
        "deployment_health": "healthy" if known else None,
    }


def worker_id(booking: Booking, number: int) -> str:
    """The id of a worker."""
    kind = "vm" if booking.order.product == "vm" else "container"
    return f"{kind}-{booking.id[:8]}-{number + 1}"


def shuffled(bookings: list[Booking], salt: str) -> list[Booking]:
    """In an order that says nothing about their age."""
    return sorted(bookings, key=lambda booking: hashlib.sha256(f"{salt}{booking.id}".encode()).digest())


def _worker(market: PrepaidMarket, booking: Booking, number: int) -> Row:
    return {
        "device_id": _uuid(booking, f"device {number}"),
        "hardware": booking.model,
        "brand_name": "NVIDIA",
        "created_at": _with_zone(booking.requested_at),
        "uptime_percent": 100.0 if booking.stage is Stage.RUNNING else 0.0,
        "status": status(booking, market.now),
    }


def _known(booking: Booking) -> bool:
    return booking.stage is Stage.RUNNING and booking.settled


def _events(booking: Booking) -> list[Row] | None:
    return [{"time": _with_zone(event.at), "message": event.message} for event in booking.events] or None


def _minutes(booking: Booking, now: float) -> Row:
    """Whole minutes: those that have passed, and the rest of what was paid."""
    total = booking.hours * 60
    served = total if booking.stage is Stage.COMPLETED else int(booking.used(now) // 60)
    return {"compute_minutes_served": served, "compute_minutes_remaining": total - served}


def _percent(booking: Booking, now: float) -> int:
    if booking.stage in ENDED and booking.stage is not Stage.COMPLETED:
        return 0
    return int(_minutes(booking, now)["compute_minutes_served"] * 100 // (booking.hours * 60))


def _uuid(booking: Booking, what: str) -> str:
    return str(uuid.uuid5(uuid.UUID(booking.id), what))


def _without_zone(when: float | None) -> str | None:
    return None if when is None else _time(when)


def _with_zone(when: float) -> str:
    return f"{_time(when)}Z"


def _time(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%S")
