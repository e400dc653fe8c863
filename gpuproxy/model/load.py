"""The counters and measurements of hosts for the load balancer. They belong to the host and outlive its offers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from gpuproxy.model.offers import HostKey


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLoad:
    """The counters of one host."""

    live: int = 0
    """The number of live leases, including pending and unknown creates."""
    starting: int = 0
    """The number of live leases whose machine is not ready yet."""
    picks: int = 0
    """The number of leases ever requested there, without creates that are proven not to have happened."""
    last_picked_at: datetime | None = None
    gpu_model: str = ""
    response_ms: int = 0
    """The average time from create to ready by `model.measured`, in milliseconds; 0 without samples."""
    samples: int = 0
    """The number of samples of response_ms; 0 if the last one is too old."""
    ejected_until: datetime | None = None


UNTOUCHED = HostLoad()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """The state of a strategy between two picks that isn't in the hosts' counters."""

    last: HostKey | None = None
    """The host of the last pick."""
    level: int = 0
    """equal_weighted: the last picked host's GPUs before the pick; it is the minimum for all hosts."""
    standing: Mapping[HostKey, int] = field(default_factory=dict)
    """equal_weighted: GPUs so far, if above `level`. weighted_round_robin: the current weight."""
    version: int = 0
    """The version of the stored row that this was read from."""
