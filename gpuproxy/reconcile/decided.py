"""The result of planning one pass, as a value."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from gpuproxy.model.leases import Lease, LeaseId
from gpuproxy.outcomes.sweep import Sightings, Stray
from gpuproxy.reconcile.doubts import Doubt
from gpuproxy.reconcile.steps import Step


@dataclass(frozen=True, slots=True)
class Decided:
    """The result of planning one pass."""

    steps: tuple[Step, ...]
    strays: tuple[Stray, ...]
    live: tuple[Lease, ...]
    sightings: Sightings
    doubts: Mapping[LeaseId, Doubt]
    idle: Mapping[LeaseId, datetime]
    """When the series of listings of idle machines began that are not stored."""
    bookings_due: tuple[datetime, ...] = ()
    """When bookings need their next steps."""
