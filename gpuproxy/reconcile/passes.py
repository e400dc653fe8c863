"""What the passes of one account did, for people: the last pass, and the last ones that changed something.

It is in memory only, and of this process only.
"""

import re
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from gpuproxy.reconcile.decided import Decided
from gpuproxy.reconcile.listings import Listing
from gpuproxy.reconcile.steps import (
    Adopt,
    Advance,
    Confirm,
    Destroy,
    Extend,
    Note,
    ProbeReady,
    ReadBooking,
    ReadBoot,
    RegisterKeys,
    Relabel,
    Step,
    Stop,
)

KEPT = 10
"""Passes with steps that are kept for each account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One pass."""

    at: datetime
    """When it ended."""
    seconds: float
    """From the call of the listing until its conclusions were stored, in the clock's seconds."""
    listed: int | None
    """Machines in the listing, those of others included; None: the marketplace did not answer."""
    leases: int
    """Live leases that it was compared with."""
    steps: Sequence[tuple[str, int]]
    """What it did, and how often, such as `destroy sent` or `lease found`. Empty: everything was as it should be."""


class Passes:
    """The passes of one account."""

    def __init__(self) -> None:
        self.last: Pass | None = None
        self._with_steps: deque[Pass] = deque(maxlen=KEPT)

    def note(self, began: datetime, at: datetime, listing: Listing | None, decided: Decided) -> None:
        """Record a pass that has ended."""
        counted = Counter(_name(step) for step in decided.steps)
        counted.update("stray released" for _ in decided.strays)
        self.last = Pass(
            at=at,
            seconds=(at - began).total_seconds(),
            listed=None if listing is None else len(listing.instances),
            leases=len(decided.live),
            steps=sorted(counted.items()),
        )
        if self.last.steps:
            self._with_steps.append(self.last)

    @property
    def with_steps(self) -> Sequence[Pass]:
        """The last passes that did something, newest first."""
        return tuple(reversed(self._with_steps))


_WORDS: Mapping[type, str] = {
    Adopt: "machine assigned to its lease",
    Note: "fact recorded",
    Destroy: "destroy sent",
    Stop: "stop sent",
    Confirm: "machine read by its id",
    ProbeReady: "machine probed",
    RegisterKeys: "SSH keys registered",
    ReadBoot: "boot script's report read",
    Relabel: "label written",
    Extend: "booking extended",
    ReadBooking: "booking read",
}


def _name(step: Step) -> str:
    """The step in words; of a lease's event, which one."""
    if isinstance(step, Advance):
        event = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(step.event).__name__).lower()
        return f"lease {event}"
    return _WORDS[type(step)]
