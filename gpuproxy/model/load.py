"""What the load balancer reads about hosts: counters and measurements. They outlive offers: they hang on the host."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from gpuproxy.model.offers import HostKey


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLoad:
    """One host's counters."""

    live: int = 0
    """Leases that hold something there: creates in flight and unknown ones included."""
    starting: int = 0
    """Those of them whose machine is not ready yet."""
    picks: int = 0
    """Leases ever intended there, without those that are proven never to have been."""
    last_picked_at: datetime | None = None
    gpu_model: str = ""
    response_ms: int = 0
    """From create to ready, as `model.measured` averages it; 0 without samples."""
    samples: int = 0
    """What response_ms rests on; 0 when the last one is too old."""
    ejected_until: datetime | None = None


UNTOUCHED = HostLoad()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """Where a strategy stands between two picks, as far as the counters do not tell."""

    last: HostKey | None = None
    """The last pick."""
    level: int = 0
    """equal_weighted: what the last winner had had before; nobody counts as having less."""
    standing: Mapping[HostKey, int] = field(default_factory=dict)
    """equal_weighted: GPUs had, where that is above the level. weighted_round_robin: the running value."""
    version: int = 0
    """Of the stored row that this was read from, or follows from."""
