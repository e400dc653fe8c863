"""How busy hosts are: the counters that the load balancer reads. They hang on the host, so they outlive offers."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLoad:
    """One host's counters."""

    live: int = 0
    """Leases that hold something there: creates in flight and unknown ones included."""
    picks: int = 0
    """Leases ever intended there."""
    last_picked_at: datetime | None = None


UNTOUCHED = HostLoad()
