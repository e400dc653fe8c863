"""The true-up: after a machine has ended, its metered cost is corrected to what the marketplace charged for it.

Meters follow listed prices and statuses. They can be wrong by the time between two listings, and they do not include
network traffic. What the marketplace charged is what was paid, to the last digit that it tells. The difference becomes
an adjustment, a transaction of its own, so that completed transactions never change.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial

import structlog

from gpuproxy.model.errors import ProviderError
from gpuproxy.model.leases import InstanceId
from gpuproxy.model.money import Micro, usd
from gpuproxy.model.transactions import CORRECTED_FOR
from gpuproxy.ports import Clock, Database, Provider, Tx
from gpuproxy.store import leases, settlements
from gpuproxy.store.settlements import Unsettled

log = structlog.get_logger(__name__)

_AFTER = timedelta(hours=2)
"""The delay after a machine's end before its charges are read: marketplaces list charges late."""
_AGAIN = timedelta(hours=24)
"""The time between two readings. They repeat until two agree, because charges may be incomplete at first.

After `CORRECTED_FOR` a charge is no longer read, even if two readings never agreed.
"""


class TrueUp:
    """Corrects the costs of one account's machines."""

    def __init__(self, provider: Provider, db: Database, clock: Clock) -> None:
        self.provider = provider
        self._db = db
        self._clock = clock

    async def step(self) -> None:
        """Compare all machines that are due. If the marketplace does not answer, they stay due."""
        if "charges" in self.provider.capabilities.missing:
            return
        account, now = (self.provider.name, self.provider.account), self._clock.now()
        due = await self._db.read(lambda tx: settlements.due(tx, account, now - CORRECTED_FOR, now - _AFTER, _AGAIN))
        if not due:
            return
        try:
            charged = await self.provider.charges(min(each.began for each in due), _latest(due))
        except ProviderError as error:
            log.info("true_up_failed", account=self.provider.account, reason=error.reason, error=str(error))
            return
        await self._db.write(lambda tx: _settle(tx, due, charged))


def _latest(due: Sequence[Unsettled]) -> datetime:
    return max(each.ended for each in due)


def _settle(tx: Tx, due: Sequence[Unsettled], charged: Mapping[InstanceId, Micro]) -> None:
    for each in due:
        amount = charged.get(each.instance_id)
        if amount is None:
            continue
        metered = leases.recorded(tx, each.lease_id)
        if settlements.save(tx, each.lease_id, charged=amount, metered=metered):
            tx.after_commit(partial(_log_adjusted, each, amount, metered))


def _log_adjusted(each: Unsettled, charged: Micro, metered: Micro) -> None:
    contract = each.instance_id
    log.info("cost_adjusted", lease=each.lease_id, contract=contract, charged=usd(charged), metered=usd(metered))
