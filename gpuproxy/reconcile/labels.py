"""Labels that carry the end of a lease: read from a listing, and written anew where they are wrong.

A machine whose contract id is in the database is ours whatever its label says. A changed label is reported, because the
machine would not end itself any more, and is written anew.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from gpuproxy.model.errors import ProviderError, Unavailable
from gpuproxy.model.labels import Signer
from gpuproxy.model.leases import RENTED, LeaseId
from gpuproxy.ports import Clock, Database, ListedInstance, Provider, Tx
from gpuproxy.reconcile.steps import Relabel
from gpuproxy.store import leases

log = structlog.get_logger(__name__)

_FIRST_WAIT, _LONGEST_WAIT = timedelta(seconds=60), timedelta(hours=1)


def plain(instance: ListedInstance, signer: Signer) -> ListedInstance:
    """The machine with the label that it was created for, without an end. Other labels stay as they are."""
    if instance.label is None or "." not in instance.label:
        return instance
    label = signer.without_end(instance.label)
    return instance if label is None else replace(instance, label=label, written_label=instance.label)


@dataclass(slots=True)
class _Written:
    label: str
    wait: timedelta
    next_at: datetime


class Labels:
    """Writes the labels of one account's machines. What was written lately is kept in memory."""

    def __init__(self, provider: Provider, db: Database, clock: Clock) -> None:
        self._provider = provider
        self._db = db
        self._clock = clock
        self._written: dict[LeaseId, _Written] = {}

    def forget(self, live: Collection[LeaseId]) -> None:
        """Forget all leases that are not in `live`."""
        self._written = {lease_id: written for lease_id, written in self._written.items() if lease_id in live}

    async def write(self, step: Relabel) -> None:
        """Write the label, unless that was done a short time ago. Listings may show an old one, or none, for long."""
        lease, now = step.lease, self._clock.now()
        before = self._written.get(lease.id)
        if before is not None and before.label != step.label:
            before = None  # another end is written at once
        if lease.instance_id is None or (before is not None and now < before.next_at):
            return
        wait = _FIRST_WAIT if before is None else min(2 * before.wait, _LONGEST_WAIT)
        self._written[lease.id] = _Written(step.label, wait, now + wait)
        try:
            if not await self._db.read(lambda tx: _is_due(tx, step)):
                return
            if step.foreign:
                log.warning("label_changed", lease=lease.id, contract=lease.instance_id, label=(step.was or "")[:64])
            await self._provider.relabel(lease.instance_id, step.label)
        except Unavailable as error:
            log.warning("database_unavailable", account=self._provider.account, error=str(error.__cause__))
        except ProviderError as error:
            log.info("relabel_failed", lease=lease.id, reason=error.reason, error=str(error))
        else:
            log.info("label_written", lease=lease.id, contract=lease.instance_id)


def _is_due(tx: Tx, step: Relabel) -> bool:
    """False if the lease has changed since the step was planned, or a new end is being written."""
    lease = leases.find(tx, step.lease.id)
    if lease is None or lease.state not in RENTED or lease.pending.new_end_until is not None:
        return False
    return lease.expires_at == step.lease.expires_at and lease.grace_s == step.lease.grace_s
