"""The control calls of the on-demand market: its instances, machines, offers and images."""

from typing import Any

from gpuproxy.sandbox.control.bodies import WrongCall, number_in
from gpuproxy.sandbox.market.addresses import answering, authorized_keys
from gpuproxy.sandbox.market.defects import WAYS_TO_BREAK
from gpuproxy.sandbox.market.exchange import SimulatedMarket
from gpuproxy.sandbox.market.instances import Ended, Instance, Phase
from gpuproxy.sandbox.market.machines import Machine
from gpuproxy.sandbox.market.volumes import Volume
from gpuproxy.sandbox.protocol.wire import Incoming


class OnDemandControl:
    """The control calls of one on-demand market, whose marketplace has the name `provider`."""

    def __init__(self, market: SimulatedMarket, provider: str) -> None:
        self._market = market
        self._provider = provider

    def instances(self) -> list[dict[str, Any]]:
        """The rows of all instances by id, also of ended ones."""
        shown = [_ended_row(gone) for gone in self._market.ended]
        shown += [_live_row(self._market, instance) for instance in self._market.instances.values()]
        return [{"provider": self._provider, **row} for row in sorted(shown, key=lambda row: int(row["id"]))]

    def volumes(self) -> list[dict[str, Any]]:
        """The rows of all volumes, also of deleted ones."""
        all_of_them = self._market.volumes.all.values()
        return [{"provider": self._provider, **_volume_row(self._market, volume)} for volume in all_of_them]

    def broken(self) -> dict[str, str]:
        """How the broken machines fail, by machine id."""
        return {str(one.id): one.broken for one in self._market.machines.values() if one.broken}

    def done(self, what: str, named: str, request: Incoming) -> dict[str, Any]:
        """Do one call about an instance, a machine, an offer or images.

        Raises WrongCall, BadBody, or KeyError for something that doesn't exist.
        """
        market, body = self._market, request.json()
        match what.split():
            case ["POST", "instances", act]:
                return _done_to_instance(market, act, market.instances[int(named)], body)
            case ["POST", "machines", act]:
                return _done_to_machine(market, act, market.machines[int(named)], body)
            case ["POST", "offers"]:
                chunk = market.chunks[int(named)]
                market.reprice(chunk, round(number_in(body, "price_per_hour") * 1_000_000))
                return {"id": int(named), "price_per_hour": chunk.price / 1e6}
            case ["POST", "images"]:
                return _break_image(market, body)
            case ["DELETE", "images"]:
                return {"cleared": market.defects.repair_images(body.get("image"))}
        raise WrongCall(f"there is no call {request.method} {request.path}; see docs/sandbox.md")


def _done_to_instance(market: SimulatedMarket, act: str, instance: Instance, body: dict[str, Any]) -> dict[str, Any]:
    match act:
        case "kill":
            _kill(market, instance, body)
            return {"id": instance.id, "status": _status(market, instance)}
        case "mute":
            market.troubles.mute(instance, number_in(body, "seconds"))
            return {"id": instance.id, "muted": True}
        case "unmute":
            market.troubles.unmute(instance)
            return {"id": instance.id, "muted": False}
        case "contract":
            market.contract_ends.move(instance, market.now + number_in(body, "ends_in_seconds"))
            return {"id": instance.id, "ends_at": instance.end_date}
        case "gpu_util":
            instance.gpu_util = None if body.get("percent") is None else number_in(body, "percent")
            return {"id": instance.id, "gpu_util": instance.gpu_util}
    raise WrongCall(f"there is no call {act} of an instance; see docs/sandbox.md")


def _done_to_machine(market: SimulatedMarket, act: str, machine: Machine, body: dict[str, Any]) -> dict[str, Any]:
    match act:
        case "occupy":
            return {"gpus": market.occupy(machine, int(number_in(body, "gpus")))}
        case "vacate":
            market.vacate(machine)
            return {"gpus": machine.held.bit_count()}
        case "reconnect":
            market.set_online(machine, online=True)
            return {}
        case "break":
            return _break(market, machine, body)
        case "ports":
            market.defects.set_direct_ports(machine, int(number_in(body, "count")))
            return {"id": machine.id, "count": machine.direct_ports}
        case "repair":
            market.troubles.repair_gpus(machine)
            return _break(market, machine, {"how": ""})
    raise WrongCall(f"there is no call {act} of a machine; see docs/sandbox.md")


def _live_row(market: SimulatedMarket, instance: Instance) -> dict[str, Any]:
    return {
        "account": instance.account,
        "id": str(instance.id),
        "label": instance.label,
        "status": _status(market, instance),
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
        "billed_micro_usd": market.billed(instance),
        "fault": _fault(instance),
        "ssh_addresses": _ssh_addresses(market, instance),
        "authorized_keys": authorized_keys(instance),
    }


def _ended_row(gone: Ended) -> dict[str, Any]:
    return {
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


def _status(market: SimulatedMarket, instance: Instance) -> str:
    return instance.phase.value if market.online(instance) else "offline"


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
        raise WrongCall(f"how must be {', '.join(WAYS_TO_BREAK)}, or empty for a repair, not {how!r}")
    market.defects.break_machine(machine, how, message)
    return {"id": machine.id, "how": how}


def _break_image(market: SimulatedMarket, body: dict[str, Any]) -> dict[str, Any]:
    text = body.get("image")
    if not isinstance(text, str) or not text:
        raise WrongCall("image must be a non-empty text; instances of images that contain it will fail")
    market.defects.break_image(text, str(body.get("message") or ""))
    return {"images": list(market.defects.images)}


def _kill(market: SimulatedMarket, instance: Instance, body: dict[str, Any]) -> None:
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
            raise WrongCall(f"how must be container, gpu, host or outbid, not {how!r}")
