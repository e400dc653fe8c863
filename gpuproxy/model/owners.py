"""Owners of machines: one view of every kind of owner, which renting and reconciling use.

A lease has one owner for its whole life. The owner says how many GPUs it wants, until when, and whether it still wants
them. Everything else about it (a reservation has a caller, a pool has a policy) is handled elsewhere.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NewType

from gpuproxy.model.reasons import Reason

OwnerId = NewType("OwnerId", str)
OwnerKind = Literal["reservation", "pool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """An owner as it is stored; times are aware UTC."""

    kind: OwnerKind
    id: OwnerId
    project: str
    gpus: int
    """How many GPUs it wants in all."""
    strategy: str
    wanted_until: datetime | None
    """When its agreement to pay ends; None if it has no end."""
    grace_s: int = 0
    """For so many seconds after that its machines are kept, stopped."""
    release_idle_s: int = 0
    """A machine that has been idle for so many seconds is released. 0: never."""
    waits: bool
    """It keeps a machine that is found late, because it is still waiting or can find the machine later."""
    concluded: bool
    """No further machine is rented for it."""
    closing: Reason = Reason.NONE
    """Why everything is being released, an upper-case constant; empty while it is not."""
    stopped: Reason = Reason.NONE
    """Why no more machines are rented although some are missing; empty while renting may continue."""
    replace_unready: bool = True
    """A machine that does not get ready in time is released."""
    ready_timeout_s: float = 0.0

    def wants(self, now: datetime) -> bool:
        """Whether a machine that is found now would be kept."""
        return self.waits and not self.closing and (self.wanted_until is None or now < self.wanted_until)

    @property
    def unwanted_because(self) -> Reason:
        """The reason for releasing a machine that was found and is not wanted."""
        return self.closing or (Reason.EXPIRED if self.waits else Reason.CAME_TOO_LATE)
