"""The billing check: compare the fall of an account's credit with what our ledger shows for the same time.

The ledger can't detect its own errors; the account's credit can. Each check compares the credit with the last reading.
The tolerance is the larger of 1 % and 1 cent, plus the cost of every open meter for one minute or, if longer, for the
longest time without a listing: starts and stops are not seen before the next listing. A larger difference is an alarm.
Either something is billed that the ledger does not know, or the ledger counts something that is not billed. A credit
that rose by more than our refunds explain (a payment) starts a new comparison.

Bookings count when they are confirmed, and refunds when the machine is proven gone. What was under way at the beginning
or at the end of the time may be on either side, so it is tolerated.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

import structlog

from gpuproxy.model.errors import ProviderError
from gpuproxy.model.money import Micro, dollars
from gpuproxy.ports import Clock, Database, Provider, Tx
from gpuproxy.store import bookings, meta, meters
from gpuproxy.store.rows import micros, moment

log = structlog.get_logger(__name__)

_CENT = 10_000
_LATE = timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The last comparison of an account, as it is stored. Money in micro-dollars, `at` in microseconds since 1970."""

    at: int
    credit: int
    spent: int = 0
    """The fall of the credit since the previous reading."""
    booked: int = 0
    """The cost by our meters and bookings for the same time, less refunds."""
    alarm: bool = False


class BillingCheck:
    """Checks one account."""

    def __init__(
        self, provider: Provider, db: Database, clock: Clock, longest_listing_gap: Callable[[], timedelta]
    ) -> None:
        """`longest_listing_gap` returns the longest time without a listing since it was last called."""
        self.provider = provider
        self._longest_listing_gap = longest_listing_gap
        self._since = clock.now()
        self._db = db
        self._clock = clock

    async def step(self) -> Reading | None:
        """Make one comparison. None when the provider's credit could not be read."""
        if "credit" in self.provider.capabilities.missing:
            return None
        try:
            spend = await self.provider.spend()
        except ProviderError as error:
            log.info("billing_check_failed", account=self.provider.account, reason=error.reason)
            return None
        now, gap = self._clock.now(), self._longest_listing_gap()
        reading = await self._db.write(lambda tx: self._compare(tx, spend.credit, now, gap))
        if reading.alarm:
            log.warning(
                "spend_differs",
                account=self.provider.account,
                provider_spend=dollars(reading.spent),
                ledger_spend=dollars(reading.booked),
            )
        return reading

    def _compare(self, tx: Tx, credit: Micro, now: datetime, gap: timedelta) -> Reading:
        before = reading_of(tx, self.provider.name, self.provider.account)
        fresh = Reading(at=micros(now), credit=credit)
        if before is not None:
            judged = self._judged(tx, before, fresh, gap)
            explained = credit <= before.credit or (judged.booked < 0 and not judged.alarm)
            fresh = judged if explained else fresh
        meta.write(tx, _key(self.provider.name, self.provider.account), json.dumps(asdict(fresh)))
        return fresh

    def _judged(self, tx: Tx, before: Reading, fresh: Reading, gap: timedelta) -> Reading:
        account = (self.provider.name, self.provider.account)
        since, until = moment(before.at), moment(fresh.at)
        metered = meters.accrued_between(tx, account, since, until)
        booked = metered + bookings.booked_between(tx, account, since, until)
        late = max(_LATE, gap, self._since - since)  # nothing was listed while the server was down
        doubtful = sum(bookings.doubtful_at(tx, account, at, late) for at in (since, until))
        tolerance = meters.accrued_by_each(tx, account, since, until, late) + doubtful
        spent = before.credit - fresh.credit
        difference = abs(spent - booked)
        alarm = difference > max(abs(booked) // 100, _CENT) + tolerance
        return Reading(at=fresh.at, credit=fresh.credit, spent=spent, booked=booked, alarm=alarm)


def reading_of(tx: Tx, provider: str, account: str) -> Reading | None:
    """The last comparison; None if there was none."""
    stored = meta.read(tx, _key(provider, account))
    return None if stored is None else Reading(**json.loads(stored))


def _key(provider: str, account: str) -> str:
    return f"witness:{provider}:{account}"
