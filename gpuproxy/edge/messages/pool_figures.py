"""What is computed about a warm pool for its status: percentiles, the phases of a failover, costs by part.

All of it follows from the engine's view; nothing is decided here.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from math import ceil

from gpuproxy.model.leases import Lease, status_word
from gpuproxy.model.meter import meter_rate
from gpuproxy.model.money import HOURS_PER_MONTH, Micro, usd
from gpuproxy.model.pools import FailoverTimes, Incident, Phase, PoolView
from gpuproxy.v1 import gpuproxy_pb2 as pb


def percentile(values: Sequence[float], percent: int) -> float | None:
    """The smallest value that at least `percent` of the values do not exceed; None of no values."""
    ordered = sorted(values)
    return ordered[max(1, ceil(len(ordered) * percent / 100)) - 1] if ordered else None


def phases_message(phases: Mapping[Phase, float]) -> pb.WarmPoolPhases:
    """The seconds of each phase that has ended."""
    made = pb.WarmPoolPhases()
    for phase, seconds in phases.items():
        setattr(made, phase, seconds)
    return made


def failover_message(times: FailoverTimes, at: pb.WarmPoolFailover) -> pb.WarmPoolFailover:
    """A finished failover; `at` has its time already."""
    at.kind, at.seconds = times.kind, times.total
    at.phases.CopyFrom(phases_message(dict(times.phases)))
    return at


def phase_of(incident: Incident) -> Phase:
    """What an open incident is at."""
    if incident.fenced_at is None:
        return "fence"
    if incident.running_at is None:
        return "start"
    return "reachable" if incident.reachable_at is None else "promote"


def ended_phases(incident: Incident) -> dict[Phase, float]:
    """The seconds of the phases of an open incident that have ended, each from the end of the one before."""
    ends: tuple[tuple[Phase, datetime | None], ...] = (
        ("fence", incident.fenced_at),
        ("start", incident.running_at),
        ("reachable", incident.reachable_at),
    )
    made: dict[Phase, float] = {}
    if incident.last_good_at is not None:
        made["detect"] = _seconds(incident.last_good_at, incident.began_at)
    before = incident.began_at
    for phase, end in ends:
        if end is None:
            continue
        made[phase] = _seconds(before, end)
        before = end
    return made


def costs(view: PoolView) -> list[pb.WarmPoolCost]:
    """What each part costs now: the primary first, then the standby, the volume, and what else remains."""
    return [
        pb.WarmPoolCost(
            part=part,
            state=f"{lease.offered.disk_gb:g} GB" if lease.kind == "volume" else status_word(lease.state),
            price_per_hour=usd(rate),
            price_per_month=usd(rate * HOURS_PER_MONTH),
            contract_id=lease.marketplace_id,
        )
        for part, lease in _parts(view)
        for rate in (current_rate(lease),)
    ]


def current_rate(lease: Lease | None) -> Micro:
    """What a lease costs per hour now."""
    return (meter_rate(lease) if lease is not None else None) or Micro(0)


def _parts(view: PoolView) -> Iterator[tuple[str, Lease]]:
    pool = view.pool
    retained = {lease.id for lease in view.retained}
    names = {pool.primary: "primary", pool.standby: "standby", pool.volume: "volume", pool.failed: "failed_primary"}
    order = [*names.values(), "other", "retained_volume"]
    named = [
        ("retained_volume" if lease.id in retained else names.get(lease.id, "other"), lease)
        for lease in {lease.id: lease for lease in (*view.machines, *view.retained)}.values()
    ]
    yield from sorted(named, key=lambda entry: order.index(entry[0]))


def _seconds(begin: datetime, end: datetime) -> float:
    return max(0.0, (end - begin).total_seconds())
