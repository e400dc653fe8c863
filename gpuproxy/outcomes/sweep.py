"""Machines with our label that no live lease accounts for: late ones, twins, and those whose books were lost.

Only a label with a valid signature of this deployment is ever acted on. A machine whose lease is over is a tombstone
come alive and goes back to releasing; a second machine under one label is surplus. A machine without any row is an
orphan: it takes two sightings, an age, and the brake lets only a few go in a pass and none in the first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from gpuproxy.model.leases import TERMINAL, InstanceId, Lease
from gpuproxy.ports import ListedInstance

ORPHAN_AGE = timedelta(minutes=10)
"""Since this process first saw it: whoever restored an old copy of the books has so long to notice."""
_BETWEEN = timedelta(seconds=30)
"""The brake counts by time too: passes follow each other quickly while something is being released."""
_AT_LEAST = 2
_SHARE = 10

Kind = Literal["reappeared", "surplus", "orphan"]


@dataclass(frozen=True, slots=True)
class Stray:
    """A machine to be proven alive and then given back."""

    instance: ListedInstance
    kind: Kind
    lease: Lease | None
    """The lease under whose label it runs."""


@dataclass(frozen=True, slots=True)
class Sightings:
    """What earlier passes of this process saw: orphans by id with the time of the first sighting."""

    passes: int = 0
    orphans: Mapping[InstanceId, datetime] | None = None
    swept_at: datetime | None = None
    """When orphans were last given back."""


def strays(
    instances: Sequence[ListedInstance],
    by_label: Mapping[str, Lease],
    is_ours: Callable[[str | None], bool],
    sightings: Sightings,
    now: datetime,
) -> tuple[list[Stray], Sightings]:
    """What to give back in this pass, and what to remember for the next. `by_label`: every lease with a shown label."""
    found: list[Stray] = []
    unowned: list[ListedInstance] = []
    for instance in instances:
        if not is_ours(instance.label):
            continue
        lease = by_label.get(instance.label or "")
        if lease is None:
            unowned.append(instance)
        elif (kind := _kind(lease, instance)) is not None:
            found.append(Stray(instance, kind, lease))
    seen = sightings.orphans or {}
    first = {instance.id: seen.get(instance.id, now) for instance in unowned}
    swept_at = sightings.swept_at
    if sightings.passes > 0 and (swept_at is None or now - swept_at >= _BETWEEN):
        ripe = [i for i in unowned if now - first[i.id] >= ORPHAN_AGE]
        found += [Stray(i, "orphan", None) for i in ripe[: max(_AT_LEAST, len(instances) // _SHARE)]]
        swept_at = now if ripe else swept_at
    return found, Sightings(sightings.passes + 1, first, swept_at)


def _kind(lease: Lease, instance: ListedInstance) -> Kind | None:
    """None: the lease accounts for it, or will."""
    if lease.instance_id not in (None, instance.id):
        return "surplus"
    return "reappeared" if lease.state in TERMINAL else None
