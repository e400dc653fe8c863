"""The independent witness: what the provider says was spent, against what our meters say.

Books that are wrong can't tell so themselves; an account's credit can. At least hourly the fall of the credit since the
last reading is compared with what our meters ran up meanwhile. A difference beyond one per cent, a cent, and what every
open meter costs in a minute, or in the longest time without a listing (until the next one we do not know what started
or stopped), is an alarm: something is billed that the books do not know, or the books bill what nobody asks for. A
credit that rose (a payment) starts a new comparison.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

import structlog

from gpuproxy.model.errors import ProviderError
from gpuproxy.model.money import Micro, dollars
from gpuproxy.ports import Clock, Database, Provider, Tx
from gpuproxy.store import meta, meters
from gpuproxy.store.rows import micros, moment

log = structlog.get_logger(__name__)

_CENT = 10_000
_LATE = timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The last comparison of an account, as the books keep it. Money in micro-dollars, `at` in microseconds."""

    at: int
    credit: int
    spent: int = 0
    """By the provider's word, since the reading before."""
    booked: int = 0
    """By our meters, in the same time."""
    alarm: bool = False


class BillingCheck:
    """Compares one account."""

    def __init__(
        self, provider: Provider, db: Database, clock: Clock, longest_listing_gap: Callable[[], timedelta]
    ) -> None:
        """`longest_listing_gap`: the longest time without a listing since it was asked last."""
        self.provider = provider
        self._longest_listing_gap = longest_listing_gap
        self._since = clock.now()
        self._db = db
        self._clock = clock

    async def step(self) -> Reading | None:
        """One comparison; None when the provider did not tell its side."""
        try:
            spend = await self.provider.spend()
        except ProviderError as error:
            log.info("billing_check_failed", account=self.provider.account, reason=error.reason)
            return None
        now, blind = self._clock.now(), self._longest_listing_gap()
        reading = await self._db.write(lambda tx: self._compare(tx, spend.credit, now, blind))
        if reading.alarm:
            log.warning(
                "spend_differs",
                account=self.provider.account,
                provider_says=dollars(reading.spent),
                books_say=dollars(reading.booked),
            )
        return reading

    def _compare(self, tx: Tx, credit: Micro, now: datetime, blind: timedelta) -> Reading:
        before = reading_of(tx, self.provider.name, self.provider.account)
        fresh = Reading(at=micros(now), credit=credit)
        if before is not None and credit <= before.credit:
            fresh = self._judged(tx, before, fresh, blind)
        meta.write(tx, _key(self.provider.name, self.provider.account), json.dumps(asdict(fresh)))
        return fresh

    def _judged(self, tx: Tx, before: Reading, fresh: Reading, blind: timedelta) -> Reading:
        account = (self.provider.name, self.provider.account)
        since, until = moment(before.at), moment(fresh.at)
        booked = meters.accrued_between(tx, account, since, until)
        late = max(_LATE, blind, self._since - since)  # nobody looked while the server was down
        leeway = meters.accrued_by_each(tx, account, since, until, late)
        spent = before.credit - fresh.credit
        difference = abs(spent - booked)
        alarm = difference > max(booked // 100, _CENT) + leeway
        return Reading(at=fresh.at, credit=fresh.credit, spent=spent, booked=booked, alarm=alarm)


def reading_of(tx: Tx, provider: str, account: str) -> Reading | None:
    """The last comparison, if there was one."""
    stored = meta.read(tx, _key(provider, account))
    return None if stored is None else Reading(**json.loads(stored))


def _key(provider: str, account: str) -> str:
    return f"witness:{provider}:{account}"
