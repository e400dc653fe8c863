"""Whom machines are rented for: one view of every kind of owner, so that renting and reconciling know no other.

A lease has one owner for its whole life. The owner says how many GPUs it wants, until when, and whether it still wants
any; what it is besides (a reservation with a caller, a pool with a policy) is the business of its own room.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NewType

OwnerId = NewType("OwnerId", str)
OwnerKind = Literal["reservation"]

EXPIRED = "EXPIRED"
"""Why a machine is released whose lease reached its end."""
CAME_TOO_LATE = "CAME_TOO_LATE"
"""Why a machine is released that was found after its owner had stopped waiting for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """An owner as it is stored; times are aware UTC."""

    kind: OwnerKind
    id: OwnerId
    project: str
    gpus: int
    """How many it wants in all."""
    strategy: str
    wanted_until: datetime | None
    """When its agreement to pay ends; None: it has no end."""
    waits: bool
    """It keeps a machine that is found late: it is still waiting, or can find the machine later."""
    concluded: bool
    """No further machine is rented for it."""
    closing: str = ""
    """Why everything is being released, an upper-case constant; empty while it is not."""
    stopped: str = ""
    """Why no more machines are rented although some are missing; empty while that is open."""
    replace_unready: bool = True
    """A machine that does not get ready in time is released."""
    ready_timeout_s: float = 0.0

    def wants(self, now: datetime) -> bool:
        """Whether a machine that is found now would be kept."""
        return self.waits and not self.closing and (self.wanted_until is None or now < self.wanted_until)

    @property
    def unwanted_because(self) -> str:
        """The reason for releasing a machine that was found and is not wanted."""
        return self.closing or (EXPIRED if self.waits else CAME_TOO_LATE)
