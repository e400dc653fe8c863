"""Whom a rental rents for: what it has to know of an owner, and nothing of calls, callers or requests."""

from datetime import datetime
from typing import Protocol

from gpuproxy.model.owners import Owner
from gpuproxy.model.reservations import Decision
from gpuproxy.ports import Tx


class OwnerRecord(Protocol):
    """One owner in the database. All methods with a `tx` are parts of a unit of work."""

    @property
    def project(self) -> str:
        """Whose turn it takes where projects take turns."""

    def draft(self, decision: Decision, now: datetime) -> Owner:
        """The owner as `insert` will store it, for machines that were chosen so; drafted anew with each new choice."""

    def insert(self, tx: Tx) -> None:
        """Store the last draft, together with the first leases."""

    def read(self, tx: Tx) -> Owner:
        """The owner as it is stored."""

    def stop_renting(self, tx: Tx, reason: str) -> None:
        """Store why no more machines are rented although some are missing; "": that is open again."""
