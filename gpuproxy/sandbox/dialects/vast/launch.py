"""Parsing of the body of a create, and the effects of faults on the created instance."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpuproxy.sandbox.market.addresses import UNREACHABLE
from gpuproxy.sandbox.market.defects import host_failure, image_failure, other_name
from gpuproxy.sandbox.market.instances import InstanceDefects, Launch, Misreport
from gpuproxy.sandbox.market.machines import Column
from gpuproxy.sandbox.protocol.faults import Fault
from gpuproxy.sandbox.protocol.known_scripts import boot_of

_MIN_DISK_GB = 8
_DIES_AFTER = 30.0
_KEYS_REFRESHED_AFTER = 60.0
_PRICE_FACTOR = 1.5
_MISREPORT_SECONDS = 40.0
_OTHER_GPU = ("RTX 3060", 12288)
_VOLUME_SIZE_GB = 15
_VOLUME_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
_VOLUME_IN_ENV = re.compile(r"-v\s+V\.(\d+):(/\S*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewVolume:
    """A volume that is created together with the instance."""

    ask_id: int
    size_gb: int
    name: str | None
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounts:
    """The volumes of a create: `existing` has mount paths by volume id; `new` is at most one new volume."""

    existing: dict[int, str] = field(default_factory=dict)
    new: NewVolume | None = None


def create_error(body: Mapping[str, Any], most_disk: Column) -> str:
    """What is wrong with a create; "" if nothing is. `most_disk` (GB) is None if the offer doesn't exist."""
    if not body.get("image") and not body.get("template_hash_id"):
        return "image is required"
    if len(str(body.get("label") or "")) > 256:
        return "label is longer than 256 characters"
    disk = _number(body.get("disk"), 10.0)
    if disk is None or disk < _MIN_DISK_GB or (isinstance(most_disk, float) and disk > most_disk):
        return f"disk must be a number from {_MIN_DISK_GB} to what the offer has"
    price = _number(body.get("price"), 1.0)
    if price is None or not 0.001 <= price <= 128:
        return "invalid_price"
    return ""


def launch_of(body: Mapping[str, Any], *, min_bid: int) -> Launch:
    """The launch. With a bid below `min_bid` (micro-dollars per hour), the instance is created stopped."""
    env = body.get("env")  # an object; the real service silently ignores a string
    price = _number(body.get("price"), None)
    bid = None if price is None else round(price * 1_000_000)
    label, onstart = body.get("label"), body.get("onstart")
    return Launch(
        image=str(body.get("image") or ""),
        disk_gb=_number(body.get("disk"), 10.0) or 10.0,
        label=None if label is None else str(label),
        runtype=str(body.get("runtype") or "ssh"),
        onstart=None if onstart is None else str(onstart),
        env={str(key): str(value) for key, value in env.items()} if isinstance(env, dict) else {},
        boot=boot_of(str(onstart or "")),
        bid=bid,
        stopped=body.get("target_state") == "stopped" or (bid is not None and bid < min_bid),
    )


def mounts_of(body: Mapping[str, Any]) -> Mounts | str:
    """The volumes from `volume_info` and from env keys like "-v V.55:/data", or a text that says what is wrong."""
    env, info = body.get("env"), body.get("volume_info")
    found = [_VOLUME_IN_ENV.fullmatch(str(key).strip()) for key in env] if isinstance(env, dict) else []
    existing = {int(one[1]): one[2] for one in found if one is not None}
    if info is None:
        return Mounts(existing=existing)
    if not isinstance(info, dict):
        return "volume_info must be an object"
    number, path = _whole(info.get("volume_id")), str(info.get("mount_path") or "")
    if number is None or not path.startswith("/"):
        return "volume_info needs volume_id, a number, and mount_path, an absolute path"
    if info.get("create_new") is not True:
        return Mounts(existing={**existing, number: path})
    size, name = _whole(info.get("size", _VOLUME_SIZE_GB)), info.get("name")
    if size is None or size < 1 or not is_valid_volume_name(name):
        return "volume_info needs size, at least 1, and name, letters, digits and underscores"
    return Mounts(existing=existing, new=NewVolume(ask_id=number, size_gb=size, name=name, path=path))


def is_valid_volume_name(name: Any) -> bool:
    """True if a volume may have this name. None, for no name, is valid."""
    return name is None or (isinstance(name, str) and _VOLUME_NAME.fullmatch(name) is not None)


def defects_of(fault: Fault | None, launch: Launch, model: str) -> InstanceDefects:
    """The defects that a fault gives to a new instance. `model` is the GPU model of the offer."""
    if fault is None:
        return InstanceDefects()
    args = fault.args
    message, status = str(args.get("message", "")), str(args.get("status", "created"))
    stopped = args.get("stopped") is True
    match fault:
        case Fault(name="price_moved"):
            return InstanceDefects(price_factor=fault.number("factor", _PRICE_FACTOR))
        case Fault(name="wrong_gpu"):
            name, memory = _OTHER_GPU
            return InstanceDefects(
                gpu_name=str(args.get("gpu_name", name)), gpu_ram=int(fault.number("gpu_ram", memory))
            )
        case Fault(name="never_ready"):
            return InstanceDefects(never_ready=True)
        case Fault(name="dies_after_ready"):
            return InstanceDefects(dies_after=fault.number("seconds", _DIES_AFTER))
        case Fault(name="image_fault"):
            return InstanceDefects(failure=image_failure(launch.image, message, status, stopped=stopped))
        case Fault(name="host_fault"):
            return InstanceDefects(failure=host_failure(message, status, stopped=stopped))
        case Fault(name="shy_row" | "other_name"):
            return InstanceDefects(misreport=_misreport(fault, model))
    return _access_defects(fault)


def _access_defects(fault: Fault) -> InstanceDefects:
    """The defects of an instance that runs, and that nobody can reach or log in to in some way."""
    if fault.name == "keys_refreshed":
        return InstanceDefects(keys_refreshed_after=fault.number("seconds", _KEYS_REFRESHED_AFTER))
    return InstanceDefects(unreachable=fault.name if fault.name in UNREACHABLE else "")


def _misreport(fault: Fault, model: str) -> Misreport:
    seconds = fault.number("seconds", _MISREPORT_SECONDS)
    if fault.name == "shy_row":
        return Misreport(seconds=seconds, status=str(fault.args.get("status", "exited")))
    name = str(fault.args.get("gpu_name") or other_name(model))
    return Misreport(seconds=seconds, gpu_name=name, flips=fault.args.get("flip") is True)


def _number(value: Any, otherwise: float | None) -> float | None:
    if value is None:
        return otherwise
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _whole(value: Any) -> int | None:
    number = _number(value, None)
    return int(number) if number is not None and math.isfinite(number) else None
