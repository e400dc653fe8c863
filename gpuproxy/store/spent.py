"""What counts against a spending limit within a period: the ledger's debits, and what open meters have accrued since.

The ledger stays when history is deleted, so a long period is complete. The sum of one lease within the period is never
negative: a refund comes after the payment it belongs to, so without that rule a period that has only the refund would
allow more than the limit.
"""

from datetime import datetime

from gpuproxy.model.leases import LeaseId
from gpuproxy.model.money import Micro
from gpuproxy.ports import Tx
from gpuproxy.store import ledger
from gpuproxy.store.rows import micros, moment


def spent(tx: Tx, *, project: str | None, key_id: str | None, since: datetime, until: datetime) -> Micro:
    """What a project spent from `since` up to and including `until`, or all projects for None, in micro-dollars.

    `key_id`: only what was rented with this API key; None: with any. The surplus counts for all projects together.
    """
    window = _window(since, until)
    total = ledger.spent_within(tx, window, project=project, key_id=key_id)
    for lease_id in ledger.refunded(tx, window, project=project, key_id=key_id):
        total -= min(0, ledger.spent_on(tx, lease_id, window))
    return Micro(total)


def spent_on(tx: Tx, lease_id: LeaseId, since: datetime, until: datetime) -> Micro:
    """What was spent on one lease from `since` up to and including `until`, in micro-dollars."""
    return Micro(max(0, ledger.spent_on(tx, lease_id, _window(since, until))))


def first_payment(tx: Tx, *, project: str | None, key_id: str | None, since: datetime) -> datetime | None:
    """The first time from `since` at which something was paid by a project, or by any for None; None: never.

    `key_id`: for what was rented with this API key; None: with any.
    """
    found = ledger.first_debit(tx, micros(since), project=project, key_id=key_id)
    starts = [charge.since for _, charge in ledger.unposted(tx, project, key_id)]
    first = min([*([] if found is None else [found]), *starts], default=None)
    return None if first is None else moment(max(first, micros(since)))


def _window(since: datetime, until: datetime) -> tuple[int, int]:
    """What is paid at `until` counts already."""
    return micros(since), micros(until) + 1
