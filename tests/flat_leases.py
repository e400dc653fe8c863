"""Leases from a flat list of facts, so that a test names only the facts that it is about."""

from dataclasses import fields, replace
from typing import Any

from gpuproxy.model.leases import Creation, Lease, Observed, Offered, Pending, Prepaid

PARTS = {"offered": Offered, "creation": Creation, "observed": Observed, "pending": Pending, "prepaid": Prepaid}


def flat_lease(**facts: Any) -> Lease:
    """A lease with these fields, whichever part they belong to."""
    parts = {name: part(**_of(part, facts)) for name, part in PARTS.items()}
    return Lease(**_of(Lease, facts), **parts)


def changed(lease: Lease, **facts: Any) -> Lease:
    """The lease with other values of these fields, whichever part they belong to."""
    parts = {name: replace(getattr(lease, name), **_of(part, facts)) for name, part in PARTS.items()}
    return replace(lease, **_of(Lease, facts), **parts)


def _of(part: type, facts: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(part)} - PARTS.keys()
    return {name: value for name, value in facts.items() if name in names}
