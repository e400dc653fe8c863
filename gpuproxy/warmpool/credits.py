"""How long the credit of an account is enough for what is rented with it now. It is read rarely: it changes slowly."""

from datetime import datetime, timedelta

import structlog

from gpuproxy.model.errors import ProviderError
from gpuproxy.model.leases import KINDS
from gpuproxy.model.meter import meter_rate
from gpuproxy.model.offers import AccountKey
from gpuproxy.ports import Clock, Database, Provider, Tx
from gpuproxy.store import leases

log = structlog.get_logger(__name__)

_EVERY = timedelta(minutes=10)


class Credits:
    """The last reading of each account."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._hours: dict[AccountKey, float | None] = {}
        self._read_at: dict[AccountKey, datetime] = {}

    def hours(self, account: AccountKey) -> float | None:
        """For how many hours the credit is enough; None if that is not known, or if nothing costs anything."""
        return self._hours.get(account)

    async def look(self, provider: Provider) -> None:
        """Read the credit, if the last reading is old. A marketplace that does not tell it is not asked."""
        if "credit" in provider.capabilities.missing:
            return
        account, now = (provider.name, provider.account), self._clock.now()
        if (last := self._read_at.get(account)) is not None and now - last < _EVERY:
            return
        self._read_at[account] = now
        try:
            credit = (await provider.spend()).credit
        except ProviderError as error:
            log.info("credit_check_failed", account=provider.account, reason=error.reason, error=str(error))
            return

        def rate(tx: Tx) -> int:
            live = [each for kind in KINDS for each in leases.live(tx, *account, kind)]
            return sum(meter_rate(each) or 0 for each in live)

        per_hour = await self._db.read(rate)
        self._hours[account] = credit / per_hour if per_hour else None
