"""When a failed machine may be replaced, and when renting must stop. Pure.

A host that failed a reservation is not used again for it. If machines fail in the same way on several hosts and none
gets ready, they have a common cause: the image, the account, the catalog or our own network. Another machine would fail
too. In addition, the number of GPUs ever rented for one reservation is limited.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gpuproxy.model.demands import OnNotReady
from gpuproxy.model.groups import ANY_GROUP, Alike, Group
from gpuproxy.model.leases import KEEPABLE, Lease, LeaseState
from gpuproxy.model.offers import HostKey
from gpuproxy.model.reasons import Reason

_ALIKE = 3
"""If this many hosts fail a call in the same way and none succeeds, the failures have a common cause."""
_UNREADY = frozenset({Reason.NOT_READY, Reason.HOST_BROKEN, Reason.IMAGE_UNUSABLE})
_FAILURES = _UNREADY | {Reason.WRONG_GPU, Reason.PRICE_MOVED}


@dataclass(frozen=True, slots=True)
class Replacement:
    """How many GPUs may be rented now, or why no more may be rented."""

    gpus: int = 0
    stopped: Reason = Reason.NONE


def replacement(count: int, rows: Sequence[Lease], factor: float, on_not_ready: OnNotReady = "replace") -> Replacement:
    """What may be rented for a reservation of `count` GPUs with these leases; its limit is `factor` times `count`."""
    missing = count - covered_gpus(rows, on_not_ready)
    if missing <= 0:
        return Replacement()
    if stopped := _common_cause(rows):
        return Replacement(stopped=stopped)
    left = int(factor * count) - sum(lease.offered.num_gpus for lease in rows if lease.may_exist)
    return Replacement(gpus=min(missing, left)) if left > 0 else Replacement(stopped=Reason.REPLACEMENT_LIMIT)


def covered_gpus(rows: Sequence[Lease], on_not_ready: OnNotReady = "replace") -> int:
    """The number of GPUs that need no replacement: those kept, and those that the owner has destroyed.

    With "release", also those whose machines did not become ready.
    """
    final = {Reason.DESTROYED, *(_UNREADY if on_not_ready == "release" else ())}
    return sum(lease.offered.num_gpus for lease in rows if lease.state in KEEPABLE or lease.reason in final)


def group(rows: Sequence[Lease], alike: Alike) -> Group:
    """What a replacement must have in common with the machines that are kept; ANY_GROUP if none is."""
    kept = [lease for lease in rows if lease.state in KEEPABLE]
    found = (alike.group(lease.offered.gpu_model, lease.offered.vram_gb, lease.offered.location) for lease in kept)
    return next((group for group in found if group is not None), ANY_GROUP)


def failed_hosts(rows: Sequence[Lease]) -> set[HostKey]:
    """The hosts whose machines failed this reservation."""
    return {lease.offered.host for lease in rows if _failed(lease)}


def _failed(lease: Lease) -> bool:
    return lease.instance_id is not None and (lease.state is LeaseState.LOST or lease.reason in _FAILURES)


def _common_cause(rows: Sequence[Lease]) -> Reason:
    """Why another machine would fail too; NONE when no such cause is known. A machine that got ready disproves one."""
    if any(lease.observed.ready_at is not None for lease in rows):
        return Reason.NONE
    hosts: dict[str, set[HostKey]] = {}
    for lease in filter(_failed, rows):
        hosts.setdefault(lease.reason or lease.state, set()).add(lease.offered.host)
    if Reason.IMAGE_UNUSABLE in hosts:
        return Reason.IMAGE_UNUSABLE
    return Reason.COMMON_CAUSE if any(len(alike) >= _ALIKE for alike in hosts.values()) else Reason.NONE
