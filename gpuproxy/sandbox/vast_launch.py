"""What vast.ai reads out of the body of a create, and what faults make of it."""

from collections.abc import Mapping
from typing import Any

from gpuproxy.sandbox.faults import Fault
from gpuproxy.sandbox.instances import Launch, Twist
from gpuproxy.sandbox.machines import Column

_MIN_DISK_GB = 8
_DIES_AFTER = 30.0
_PRICE_FACTOR = 1.5
_OTHER_GPU = ("RTX 3060", 12288)


def complaint(body: Mapping[str, Any], most_disk: Column) -> str:
    """What is wrong with a create, or nothing; `most_disk` (GB) is None where there is no such offer."""
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
    """The launch; one that bids less than `min_bid` (micro-dollars per hour) is made stopped."""
    env = body.get("env")  # an object; the real service ignores a string without a word
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
        bid=bid,
        stopped=body.get("target_state") == "stopped" or (bid is not None and bid < min_bid),
    )


def twist_of(fault: Fault | None) -> Twist:
    """What a fault does to the instance that a create makes."""
    match fault:
        case Fault(name="price_moved"):
            return Twist(price_factor=fault.number("factor", _PRICE_FACTOR))
        case Fault(name="wrong_gpu"):
            name, memory = _OTHER_GPU
            return Twist(gpu_name=str(fault.args.get("gpu_name", name)), gpu_ram=int(fault.number("gpu_ram", memory)))
        case Fault(name="never_ready"):
            return Twist(never_ready=True)
        case Fault(name="dies_after_ready"):
            return Twist(dies_after=fault.number("seconds", _DIES_AFTER))
    return Twist()


def _number(value: Any, otherwise: float | None) -> float | None:
    if value is None:
        return otherwise
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
