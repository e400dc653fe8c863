"""What the log says of an account whose machines can't be listed: a warning once that lasts, and how long it lasted.

Time in which this process did not run is not the marketplace's silence: it does not count towards the warning.
"""

from datetime import datetime, timedelta

import structlog

from gpuproxy.model.errors import ProviderError
from gpuproxy.model.offers import AccountKey
from gpuproxy.ports import Clock, Tx
from gpuproxy.runtime.lateness import Lateness
from gpuproxy.store import account_problems

log = structlog.get_logger(__name__)

SILENT_AFTER = timedelta(minutes=1)
"""A single failed listing is normal and needs no attention."""


class Silence:
    """One account; the lines of one silence after the other."""

    def __init__(self, account: AccountKey, clock: Clock, lateness: Lateness) -> None:
        self._key = account
        self._account = {"provider": account[0], "account": account[1]}
        self._clock = clock
        self._lateness = lateness
        self.lasting = timedelta()
        """For how long listings had failed when the last one failed."""
        self._failed = False
        self._warned = False

    def failed(self, error: ProviderError, since: datetime) -> None:
        """A listing failed, and so did each one since `since`."""
        words = {"reason": error.reason, "error": str(error)}
        if not self._failed:
            self._failed = True
            log.info("listing_failed", **self._account, **words)
        self.lasting = self._heeded(since)
        if not self._warned and self.lasting >= SILENT_AFTER:
            self._warned = True
            log.warning("provider_silent", **self._account, **words, seconds=round(self.lasting.total_seconds()))

    def ended(self, since: datetime) -> None:
        """A listing succeeded; each one since `since` had failed."""
        seconds = round((self._clock.now() - since).total_seconds())
        log.info("provider_answered", **self._account, seconds=seconds)
        self._failed = self._warned = False

    def tell(self, tx: Tx, error: ProviderError, since: datetime | None) -> None:
        """Tell the webhooks, once for each silence that lasts. `since`: None if the last listing succeeded."""
        if since is not None and self._heeded(since) >= SILENT_AFTER:
            account_problems.silent(tx, self._key, error)

    def _heeded(self, since: datetime) -> timedelta:
        """The time since then in which an answer would have been heard."""
        lasting = self._clock.now() - since
        return lasting - timedelta(seconds=self._lateness.within(lasting.total_seconds()))


class ListingGap:
    """The longest time without a listing of an account, for the billing check."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._listed_at = clock.now()
        self._longest = timedelta()

    def listed(self, began: datetime) -> None:
        """A listing that began then has succeeded."""
        self._longest = max(self._longest, self._clock.now() - self._listed_at)
        self._listed_at = began

    def last(self, began: datetime) -> None:
        """The last listing of any process began then. Called when this process begins to list."""
        self._listed_at, self._longest = max(self._listed_at, began), timedelta()

    def longest(self) -> timedelta:
        """The longest time without a listing since the last call of this method, up to now."""
        longest = max(self._longest, self._clock.now() - self._listed_at)
        self._longest = timedelta()
        return longest
