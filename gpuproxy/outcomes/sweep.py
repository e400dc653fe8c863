"""Stray machines: they carry our label, but no live lease accounts for them.

Only machines whose label has a valid signature of this deployment are touched. There are three kinds:

- reappeared: its lease has ended. The lease returns to `releasing`. If the machine was lost, its owner may still use
  it, so the brake of orphans applies.
- surplus: a second machine under one label. It is released.
- orphan: no lease has its label, for example because the database was lost. It is released after at least two
  sightings and `ORPHAN_AGE`.

A brake releases only a few of them in a pass, and none in the first pass of a process.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from gpuproxy.model.leases import TERMINAL, InstanceId, Lease, LeaseState
from gpuproxy.ports import ListedInstance

ORPHAN_AGE = timedelta(minutes=10)
"""How long after its first sighting an orphan is released: time to react for who restored an old copy."""
_BETWEEN = timedelta(seconds=30)
"""The least time between two releases under the brake: passes can follow each other quickly."""
_AT_LEAST = 2
_SHARE = 10

Kind = Literal["reappeared", "surplus", "orphan"]


@dataclass(frozen=True, slots=True)
class Stray:
    """A machine that is released once a read has shown that it is alive."""

    instance: ListedInstance
    kind: Kind
    lease: Lease | None
    """The lease with the machine's label; None for an orphan."""


@dataclass(frozen=True, slots=True)
class Sightings:
    """What earlier passes of this process saw: orphans by id, with the time of the first sighting."""

    passes: int = 0
    orphans: Mapping[InstanceId, datetime] | None = None
    swept_at: datetime | None = None
    """When machines were last released under the brake."""


def strays(
    instances: Sequence[ListedInstance],
    by_label: Mapping[str, Lease],
    is_ours: Callable[[str | None], bool],
    sightings: Sightings,
    now: datetime,
) -> tuple[list[Stray], Sightings]:
    """The strays to release in this pass, and the sightings for the next. `by_label`: leases of all listed labels."""
    found: list[Stray] = []
    lost: list[Stray] = []
    unowned: list[ListedInstance] = []
    for instance in instances:
        if not is_ours(instance.label):
            continue
        lease = by_label.get(instance.label or "")
        if lease is None:
            unowned.append(instance)
        elif (kind := _kind(lease, instance)) is not None:
            was_lost = kind == "reappeared" and lease.state is LeaseState.LOST
            (lost if was_lost else found).append(Stray(instance, kind, lease))
    seen = sightings.orphans or {}
    first = {instance.id: seen.get(instance.id, now) for instance in unowned}
    swept_at = sightings.swept_at
    if sightings.passes > 0 and (swept_at is None or now - swept_at >= _BETWEEN):
        ripe = lost + [Stray(i, "orphan", None) for i in unowned if now - first[i.id] >= ORPHAN_AGE]
        found += ripe[: max(_AT_LEAST, len(instances) // _SHARE)]
        swept_at = now if ripe else swept_at
    return found, Sightings(sightings.passes + 1, first, swept_at)


def _kind(lease: Lease, instance: ListedInstance) -> Kind | None:
    """The kind of stray; None if the lease accounts for the machine or will do so."""
    if lease.instance_id not in (None, instance.id):
        return "surplus"
    return "reappeared" if lease.state in TERMINAL else None
