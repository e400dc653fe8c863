"""In which state a pool must be, by what the market is: the judge of how a story ends."""

from collections.abc import Collection
from typing import Any

from gpuproxy.sandbox.market.exchange import SimulatedMarket
from gpuproxy.sandbox.market.instances import HOLDS_GPU, Instance, Phase
from gpuproxy.sandbox.market.machines import Machine

_ACTIVE = frozenset({"active"})


def allowed(
    market: SimulatedMarket,
    pool: dict[str, Any],
    primary: Instance | None,
    standby: Instance | None,
    kept: Collection[Instance],
) -> frozenset[str]:
    """The words "active" or a reason of `degraded` that the market explains, once everything is at rest.

    `kept` has the standbys of all pools: the GPUs of one pool's standby are rented to no other pool.
    """
    machine = market.machines.get(int(pool["host"].rpartition("/")[2] or 0))
    if primary is None or machine is None:
        return frozenset({"no_primary"})
    if not machine.online:
        return frozenset({"host_offline"})
    if primary.phase is Phase.RUNNING:
        if primary.works_since is None:
            return frozenset({"unreachable"})
        if primary.lock not in ("", "held"):
            return frozenset({"lock_held", "wrong_volume"})
        return _with_primary(machine, pool, standby, _reserved(kept, machine, primary, standby))
    startable = any(_free(machine, one.mask) for one in (primary, standby) if one is not None)
    if primary.phase is Phase.STOPPED and not startable:
        return frozenset({"stopped_outside", "start_failed", "no_free_gpu", "no_standby"})
    if primary.phase is Phase.STOPPED:
        return frozenset({"stopped_outside"})
    reserved = _reserved(kept, machine, primary, standby)
    vain = not startable and not _chunk_free(machine, primary.gpus, reserved)
    return frozenset({"start_failed"}) if vain else frozenset()


def _with_primary(machine: Machine, pool: dict[str, Any], standby: Instance | None, reserved: int) -> frozenset[str]:
    size = pool["spec"].get("num_gpus", 1)
    if pool.get("mode") == "recreate":
        return _ACTIVE if _chunk_free(machine, size, reserved) else frozenset({"no_free_gpu"})
    if standby is not None and standby.phase not in HOLDS_GPU:
        return _ACTIVE if _free(machine, standby.mask) else frozenset({"no_free_gpu"})
    return _ACTIVE if _chunk_free(machine, size, reserved) else frozenset({"no_standby", "no_free_gpu"})


def _reserved(kept: Collection[Instance], machine: Machine, *own: Instance | None) -> int:
    """The GPUs of the host that the standbys of other pools are to start on."""
    mask = 0
    for each in kept:
        if each.machine_id == machine.id and each not in own:
            mask |= each.mask
    return mask


def _free(machine: Machine, mask: int) -> bool:
    return not machine.held & mask


def _chunk_free(machine: Machine, gpus: int, reserved: int) -> bool:
    return any(chunk.gpus == gpus and chunk.rentable and not chunk.mask & reserved for chunk in machine.chunks)
