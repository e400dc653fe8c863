"""The database parts of a pass: reading the leases of the listed labels, and writing the steps of a plan."""

from collections.abc import Sequence

import structlog

from gpuproxy.model import contracts
from gpuproxy.model.leases import Lease
from gpuproxy.outcomes import record
from gpuproxy.ports import Tx
from gpuproxy.reconcile.steps import Adopt, Advance, Note, Step
from gpuproxy.store import leases

log = structlog.get_logger(__name__)


def by_label(tx: Tx, labels: Sequence[str], rows: Sequence[Lease]) -> dict[str, Lease]:
    """The leases with these labels. Most are among the live rows."""
    known = {lease.label: lease for lease in rows}
    for label in labels:
        if label not in known and (lease := leases.by_label(tx, label)) is not None:
            known[label] = lease
    return known


def write(tx: Tx, step: Step) -> None:
    """Write the database part of a step. The lease is read again, because an earlier step may have changed it."""
    lease = leases.get(tx, step.lease.id)
    if isinstance(step, Advance):
        leases.advance(tx, lease, step.event)
    elif isinstance(step, Adopt):
        record.found(tx, lease, step.instance_id)
    elif isinstance(step, Note):
        noted = leases.note(tx, lease, step.fact)
        if lease.observed.contract_warned_at is None and (warning := contracts.warning(noted)):
            tx.after_commit(lambda: log.warning("contract_ends_early", lease=lease.id, effect=warning))
