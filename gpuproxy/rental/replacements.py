"""When a call may rent a replacement for a machine that failed it, and when it must stop.

Pure. A host that failed a reservation is not tried again for it. When machines fail alike on several hosts and none
does well, the cause is common to them (the image, the account, the catalog, our own network): one more machine would
fail too. And whatever happens, a reservation has a bound on the GPUs that are ever rented in its name.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gpuproxy.model.leases import KEEPABLE, Lease, LeaseState
from gpuproxy.model.offers import HostKey
from gpuproxy.model.reservations import (
    COMMON_CAUSE,
    DESTROYED,
    HOST_BROKEN,
    IMAGE_UNUSABLE,
    NOT_READY,
    REPLACEMENT_LIMIT,
    WRONG_GPU,
)

_ALIKE = 3
"""So many hosts that fail a call in the same way, and none that does not, are no accident."""
_FAILURES = frozenset({NOT_READY, WRONG_GPU, HOST_BROKEN, IMAGE_UNUSABLE, "PRICE_MOVED"})


@dataclass(frozen=True, slots=True)
class Replacement:
    """How many GPUs may be rented now, or why no more are rented at all."""

    gpus: int = 0
    stopped: str = ""


def replacement(count: int, rows: Sequence[Lease], factor: float) -> Replacement:
    """For a reservation of `count` GPUs whose leases are `rows`; `factor` times `count` GPUs are ever rented for it."""
    missing = count - had(rows)
    if missing <= 0:
        return Replacement()
    if stopped := _common_cause(rows):
        return Replacement(stopped=stopped)
    left = int(factor * count) - sum(lease.num_gpus for lease in rows if lease.may_exist)
    return Replacement(gpus=min(missing, left)) if left > 0 else Replacement(stopped=REPLACEMENT_LIMIT)


def had(rows: Sequence[Lease]) -> int:
    """The GPUs that need no replacement: what is kept, and what its owner has destroyed meanwhile."""
    return sum(lease.num_gpus for lease in rows if lease.state in KEEPABLE or lease.reason == DESTROYED)


def failed_hosts(rows: Sequence[Lease]) -> set[HostKey]:
    """The hosts whose machines failed this reservation."""
    return {lease.host for lease in rows if _failed(lease)}


def _failed(lease: Lease) -> bool:
    return lease.instance_id is not None and (lease.state is LeaseState.LOST or lease.reason in _FAILURES)


def _common_cause(rows: Sequence[Lease]) -> str:
    """Why another machine would fail as well; "" when that is not known. One that does well proves that none is."""
    if any(lease.ready_at is not None for lease in rows):
        return ""
    hosts: dict[str, set[HostKey]] = {}
    for lease in filter(_failed, rows):
        hosts.setdefault(lease.reason or lease.state, set()).add(lease.host)
    if IMAGE_UNUSABLE in hosts:
        return IMAGE_UNUSABLE
    return COMMON_CAUSE if any(len(alike) >= _ALIKE for alike in hosts.values()) else ""
