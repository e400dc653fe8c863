"""Idle machines: when one is released, and what its owner is told. Pure.

A machine is idle while the marketplace tells a low GPU utilisation. `reconcile.idleness` keeps the series of listings
that show it. Machines of warm pools, and machines that are paid in advance, are not released for being idle.
"""

import math
from datetime import datetime, timedelta

from gpuproxy.model.leases import RENTED, Lease, LeaseState

NOT_READ = math.nan
"""Stands for the GPU utilisation of a machine where nobody has looked it up."""


def is_releasable(lease: Lease) -> bool:
    """Whether the machine is released once it has been idle for long enough."""
    return lease.release_idle_s > 0 and not lease.is_prepaid and lease.kind == "machine"


def notice_after(lease: Lease) -> timedelta:
    """How long a machine is idle before its owner is told. It is released after the same time again."""
    return timedelta(seconds=lease.release_idle_s) / 2


def release_at(lease: Lease) -> datetime | None:
    """When the machine is released if it stays idle; None while it is not idle, or is never released for it."""
    seen = lease.observed
    if lease.state is not LeaseState.ACTIVE or seen.idle_since is None or not is_releasable(lease):
        return None
    noticed = seen.idle_notice_at or seen.idle_since + notice_after(lease)
    return noticed + notice_after(lease)


def warning(lease: Lease, gpu_util: float | None) -> str:
    """What the owner of a machine should know about its release; "" for nothing.

    `gpu_util`: in percent; None where the marketplace does not tell it.
    """
    if not lease.release_idle_s or lease.state not in RENTED:
        return ""
    if not is_releasable(lease):
        return "it is paid in advance, so it is not released when it is idle"
    if (at := release_at(lease)) is not None and lease.observed.idle_notice_at is not None:
        since, then = f"{lease.observed.idle_since:%Y-%m-%d %H:%MZ}", f"{at:%Y-%m-%d %H:%MZ}"
        return f"its GPUs have been idle since {since}. Unless they work before, it is released at {then}"
    if lease.state is LeaseState.ACTIVE and gpu_util is None:
        return f"{lease.provider} does not tell its GPU utilisation now, so it is not released when it is idle"
    return ""
