"""The owner that a rental rents for. It knows nothing of calls, callers or requests."""

from datetime import datetime
from typing import Protocol

from gpuproxy.model.owners import Owner
from gpuproxy.model.reasons import Reason
from gpuproxy.model.reservations import Decision
from gpuproxy.ports import Tx


class OwnerRecord(Protocol):
    """One owner in the database. Every method with a `tx` is part of a unit of work."""

    @property
    def project(self) -> str:
        """The project that the owner belongs to. Projects take turns at the marketplace."""

    def wanted_until(self, now: datetime) -> datetime | None:
        """When machines that are first chosen at `now` would be given back; None: there is no end."""

    def draft(self, decision: Decision, now: datetime) -> Owner:
        """The owner as `insert` will store it, with the decision that chose its machines. One draft for each choice."""

    def insert(self, tx: Tx) -> None:
        """Store the last draft, together with the first leases."""

    def read(self, tx: Tx) -> Owner:
        """The owner as it is stored."""

    def require(self, tx: Tx) -> None:
        """Raise ClaimLost unless this process is the one that rents for the owner."""

    def stop_renting(self, tx: Tx, reason: Reason) -> None:
        """Store why no more machines are rented although some are missing; "" means that renting may continue."""
