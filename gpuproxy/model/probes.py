"""What a probe measures of a marketplace, what it may cost, and what came of it. Pure.

A probe rents the cheapest machines of one account, measures what the marketplace's documentation leaves open, and
releases everything. Before a machine is rented, the price of its longest possible life is held.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from gpuproxy.model.leases import ReservationId
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import AccountKey

HELD_SECONDS = 3600.0
"""The longest possible life of a machine that is billed by use: WANTED_SECONDS, and the time to get rid of it."""
WANTED_SECONDS = 2400.0
"""Everything of a probe is released after this time, whatever has been measured."""

_NOTHING = Micro(0)

ProbeState = Literal["planned", "running", "releasing", "finished", "interrupted"]
Outcome = Literal["measured", "not_applicable", "not_measured"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """One thing that a probe can measure. The texts complete "the probe measures ..."."""

    unit: str
    """"s", or "" for a word."""
    what: str
    needs: tuple[str, ...] = ()
    """Capabilities. Where one is missing, the measurement is not applicable."""


QUANTITIES: Mapping[str, Quantity] = {
    "create_answer": Quantity(unit="s", what="how long a create takes to be answered"),
    "create_to_listed": Quantity(unit="s", what="how long after a create was sent a listing shows the machine"),
    "listing_lag": Quantity(unit="s", what="how long after a create was answered a listing shows the machine"),
    "label_lag": Quantity(unit="s", what="how long after a create was answered a listing shows the machine's label"),
    "create_to_ready": Quantity(unit="s", what="how long after a create was sent the machine is ready"),
    "container_key": Quantity(unit="", what="whether a container may read its own instance", needs=("logs",)),
    "volume_sharing": Quantity(
        unit="", what="whether two machines may have one volume", needs=("volumes", "volume_sharing")
    ),
    "create_stopped": Quantity(
        unit="", what="whether a machine that is created stopped never runs", needs=("stop_start", "volumes")
    ),
    "stop_latency": Quantity(
        unit="s", what="how long after a stop was sent the machine is at rest", needs=("stop_start",)
    ),
    "stop_frees_gpus": Quantity(
        unit="", what="whether the GPUs of a stopped machine are offered again", needs=("stop_start",)
    ),
    "chunk_binding": Quantity(
        unit="", what="whether a stopped machine starts only on its own GPUs", needs=("stop_start",)
    ),
    "destroy_to_gone": Quantity(
        unit="s", what="how long after a destroy was accepted listings no longer show the machine"
    ),
}  # fmt: skip
"""What can be measured, by name, in the order in which it is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What came of measuring one quantity."""

    name: str
    """Of QUANTITIES."""
    outcome: Outcome
    value: str = ""
    """A number of `unit`, or a word; "" unless it was measured."""
    unit: str = ""
    why: str = ""
    """The marketplace's words or a detail; the reason if nothing was measured."""
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One thing that a probe rents. Prices are micro-dollars."""

    what: str
    """In words: "1x RTX 3090 on host 123"."""
    price: Micro
    """Per hour."""
    most: Micro
    """The most that it can cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One probe of an account, as it is stored. Times are aware UTC, money micro-dollars."""

    account: AccountKey
    reservation_id: ReservationId
    """The reservation that has everything the probe rents; "" for a plan."""
    project: str
    state: ProbeState
    began_at: datetime
    ended_at: datetime | None = None
    parts: tuple[Part, ...] = ()
    budget: Micro
    spent: Micro = _NOTHING
    """What everything has cost; known at the end."""
    doing: str = ""
    """What is being done now, or how it ended."""
    measurements: tuple[Measurement, ...] = ()
    """In the order of QUANTITIES."""

    @property
    def most(self) -> Micro:
        """The most that the probe can cost."""
        return Micro(sum(part.most for part in self.parts))


def merged(old: Iterable[Measurement], new: Measurement) -> tuple[Measurement, ...]:
    """The measurements with a new one instead of an older one of the same name, in the order of QUANTITIES."""
    by_name = {each.name: each for each in old} | {new.name: new}
    return tuple(by_name[name] for name in QUANTITIES if name in by_name)


def inapplicable(missing: Mapping[str, str], *, has_own_key: bool) -> Mapping[str, str]:
    """The names of what can't be measured because of missing capabilities, with the reasons.

    `has_own_key`: a machine has a key of the marketplace with which it may read its own row.
    """
    found = {} if has_own_key else {"container_key": "the marketplace gives its machines no key of their own"}
    for name, quantity in QUANTITIES.items():
        if (why := next((missing[need] for need in quantity.needs if need in missing), None)) is not None:
            found[name] = why
    return found


def known(facts: Iterable[Measurement], found: Measurement) -> tuple[Measurement, ...]:
    """The last known values: a probe that could not measure something leaves the value of an earlier one."""
    facts = tuple(facts)
    return facts if found.outcome != "measured" else merged(facts, found)
