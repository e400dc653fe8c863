"""The control API, /sandbox/v1/...: reads and changes the market in ways that a marketplace's API does not offer."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gpuproxy.ports import HttpResponse
from gpuproxy.sandbox.market.addresses import answering, authorized_keys
from gpuproxy.sandbox.market.clock import SandboxClock
from gpuproxy.sandbox.market.defects import WAYS_TO_BREAK
from gpuproxy.sandbox.market.exchange import SimulatedMarket
from gpuproxy.sandbox.market.instances import Ended, Instance, Phase
from gpuproxy.sandbox.market.machines import Machine
from gpuproxy.sandbox.market.volumes import Volume
from gpuproxy.sandbox.protocol.faults import BadFault, Faults
from gpuproxy.sandbox.protocol.wire import BadBody, Incoming, answer

PREFIX = "/sandbox/v1/"
_PROVIDER = "vast.ai"
_PATH = re.compile(
    r"/sandbox/v1/(?P<what>state|faults|clock|instances|machines|offers|images)(/(?P<id>\d+)(/(?P<act>\w+))?)?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """The objects that the control API reads and changes."""

    market: SimulatedMarket
    faults: Faults
    clock: SandboxClock
    tick: Callable[[], None]
    """Runs all events that are due."""
    calls: Callable[[], dict[str, dict[str, int]]]
    """Returns the number of received requests by provider and call."""


class _Wrong(Exception):
    """The request can't be executed; the text says why."""


def respond(controls: Controls, request: Incoming) -> HttpResponse:
    """Execute one call. Errors are {"error": text} with status 400 or 404."""
    path = _PATH.fullmatch(request.path)
    if path is None:
        return answer({"error": f"there is no call {request.method} {request.path}; see docs/sandbox.md"}, 404)
    what = " ".join(part for part in (request.method, path["what"], path["act"]) if part)
    try:
        done = next((one for start, one in _TO_ONE.items() if what.startswith(start)), _done)
        return answer(done(controls, what, int(path["id"] or 0), request))
    except BadBody:
        return answer({"error": "the body must be a JSON object"}, 400)
    except (_Wrong, BadFault) as error:
        return answer({"error": str(error)}, 400)
    except KeyError as error:
        return answer({"error": f"there is no {path['what']} {error.args[0]}"}, 404)


def _done(controls: Controls, what: str, number: int, request: Incoming) -> dict[str, Any]:
    body = request.json()
    market = controls.market
    match what:
        case "GET state":
            return _state(controls)
        case "POST faults":
            armed = controls.faults.arm(body)
            return {"armed": armed.name, "call": armed.call, "times": armed.times or 0, "after": armed.after}
        case "DELETE faults":
            return {"cleared": controls.faults.clear()}
        case "POST clock":
            controls.clock.advance(_number(body, "advance_seconds"))
            controls.tick()
            return {"now": market.now}
        case "POST images":
            return _break_image(market, body)
        case "DELETE images":
            return {"cleared": market.defects.repair_images(body.get("image"))}
        case "POST offers":
            market.reprice(market.chunks[number], round(_number(body, "price_per_hour") * 1_000_000))
            return {"id": number, "price_per_hour": market.chunks[number].price / 1e6}
    raise _Wrong(f"there is no call {request.method} {request.path}; see docs/sandbox.md")


def _done_to_instance(controls: Controls, what: str, number: int, request: Incoming) -> dict[str, Any]:
    body = request.json()
    market = controls.market
    instance = market.instances[number]
    match what:
        case "POST instances kill":
            _kill(controls, instance, body)
            return {"id": number, "status": _status(controls, instance)}
        case "POST instances mute":
            market.troubles.mute(instance, _number(body, "seconds"))
            return {"id": number, "muted": True}
        case "POST instances unmute":
            market.troubles.unmute(instance)
            return {"id": number, "muted": False}
        case "POST instances contract":
            market.contract_ends.move(instance, market.now + _number(body, "ends_in_seconds"))
            return {"id": number, "ends_at": instance.end_date}
    raise _Wrong(f"there is no call {request.method} {request.path}; see docs/sandbox.md")


def _done_to_machine(controls: Controls, what: str, number: int, request: Incoming) -> dict[str, Any]:
    body = request.json()
    market = controls.market
    machine = market.machines[number]
    match what:
        case "POST machines occupy":
            return {"gpus": market.occupy(machine, int(_number(body, "gpus")))}
        case "POST machines vacate":
            market.vacate(machine)
            return {"gpus": machine.held.bit_count()}
        case "POST machines reconnect":
            market.set_online(machine, online=True)
            return {}
        case "POST machines break":
            return _break(market, machine, body)
        case "POST machines ports":
            market.defects.set_direct_ports(machine, int(_number(body, "count")))
            return {"id": number, "count": machine.direct_ports}
        case "POST machines repair":
            market.troubles.repair_gpus(machine)
            return _break(market, machine, {"how": ""})
    raise _Wrong(f"there is no call {request.method} {request.path}; see docs/sandbox.md")


_TO_ONE = {"POST machines ": _done_to_machine, "POST instances ": _done_to_instance}


def _state(controls: Controls) -> dict[str, Any]:
    market = controls.market
    shown = [_ended_row(gone) for gone in market.ended]
    shown += [_live_row(controls, instance) for instance in market.instances.values()]
    return {
        "now": market.now,
        "instances": sorted(shown, key=lambda row: int(row["id"])),
        "volumes": [_volume_row(market, volume) for volume in market.volumes.all.values()],
        "broken_machines": {str(one.id): one.broken for one in market.machines.values() if one.broken},
        "broken_images": list(market.defects.images),
        "bill_micro_usd": market.bill(),
        "calls": controls.calls(),
    }


def _live_row(controls: Controls, instance: Instance) -> dict[str, Any]:
    return {
        "provider": _PROVIDER,
        "account": instance.account,
        "id": str(instance.id),
        "label": instance.label,
        "status": _status(controls, instance),
        "writer": instance.phase is Phase.RUNNING and bool(instance.launch.volumes),
        "workload": instance.workload,
        "lock": instance.lock,
        "gpu_model": instance.gpu_model,
        "num_gpus": instance.gpus,
        "machine_id": str(instance.machine_id),
        "price_per_hour": instance.price / 1e6,
        "volume_ids": [str(number) for number in instance.launch.volumes],
        "created_at": instance.created_at,
        "destroyed_at": None,
        "billed_micro_usd": controls.market.billed(instance),
        "fault": _fault(instance),
        "ssh_addresses": _ssh_addresses(controls.market, instance),
        "authorized_keys": authorized_keys(instance),
    }


def _ended_row(gone: Ended) -> dict[str, Any]:
    return {
        "provider": _PROVIDER,
        "account": gone.account,
        "id": str(gone.id),
        "label": gone.label,
        "status": "destroyed",
        "writer": False,
        "workload": False,
        "lock": "",
        "gpu_model": gone.gpu_model,
        "num_gpus": gone.num_gpus,
        "machine_id": str(gone.machine_id),
        "price_per_hour": gone.price / 1e6,
        "volume_ids": [str(number) for number in gone.volume_ids],
        "created_at": gone.created_at,
        "destroyed_at": gone.destroyed_at,
        "billed_micro_usd": gone.billed,
        "fault": "",
        "ssh_addresses": [],
        "authorized_keys": [],
    }


def _volume_row(market: SimulatedMarket, volume: Volume) -> dict[str, Any]:
    return {
        "provider": _PROVIDER,
        "account": volume.account,
        "id": str(volume.id),
        "machine_id": str(volume.machine_id),
        "size_gb": volume.size_gb,
        "created_at": volume.created_at,
        "deleted_at": volume.deleted_at,
        "billed_micro_usd": market.volumes.billed(volume),
        "most_writers": volume.most_writers,
        "most_workloads": volume.most_workloads,
    }


def _status(controls: Controls, instance: Instance) -> str:
    return instance.phase.value if controls.market.online(instance) else "offline"


def _fault(instance: Instance) -> str:
    """The defect because of which the instance never runs, or some of its addresses never answer; "" without one."""
    if instance.failure is not None:
        return instance.failure.kind
    if instance.phase is Phase.LOADING and instance.boot_at is None:
        return "never_ready"
    return instance.unreachable


def _ssh_addresses(market: SimulatedMarket, instance: Instance) -> list[str]:
    """The addresses at which SSH answers now, the proxy's first."""
    if not market.is_heard(instance):
        return []
    return [f"127.0.0.1:{address.port}" for address in answering(instance) if address.kind == "ssh"]


def _break(market: SimulatedMarket, machine: Machine, body: dict[str, Any]) -> dict[str, Any]:
    how, message = body.get("how"), str(body.get("message") or "")
    if how not in ("", *WAYS_TO_BREAK):
        raise _Wrong(f"how must be {', '.join(WAYS_TO_BREAK)}, or empty for a repair, not {how!r}")
    market.defects.break_machine(machine, how, message)
    return {"id": machine.id, "how": how}


def _break_image(market: SimulatedMarket, body: dict[str, Any]) -> dict[str, Any]:
    text = body.get("image")
    if not isinstance(text, str) or not text:
        raise _Wrong("image must be a non-empty text; instances of images that contain it will fail")
    market.defects.break_image(text, str(body.get("message") or ""))
    return {"images": list(market.defects.images)}


def _kill(controls: Controls, instance: Instance, body: dict[str, Any]) -> None:
    market = controls.market
    match body.get("how", "container"):
        case "container":
            market.container_dies(instance, "container exited with code 137")
        case "gpu":
            market.troubles.gpu_dies(instance)
        case "host":
            market.set_online(market.machines[instance.machine_id], online=False)
        case "outbid":
            market.outbid(instance)
        case how:
            raise _Wrong(f"how must be container, gpu, host or outbid, not {how!r}")


def _number(body: dict[str, Any], name: str) -> float:
    value = body.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise _Wrong(f"{name} must be a number of at least 0")
    return float(value)
