"""What a rental excludes from its next choice because of earlier answers, and how long it would have had to wait."""

from dataclasses import dataclass, field

from gpuproxy.model.errors import Advice, OfferGone, Refused, Scope
from gpuproxy.model.leases import Lease
from gpuproxy.model.offers import AccountKey, HostKey, OfferId

_FAILURES_ALLOWED = 3


@dataclass(slots=True)
class Exclusions:
    """Shared by the attempts of one rental. A refusal excludes only what its scope names."""

    offers: set[OfferId] = field(default_factory=set)
    hosts: set[HostKey] = field(default_factory=set)
    accounts: set[AccountKey] = field(default_factory=set)
    queue_seconds: float = 0.0
    """The longest wait for a turn that exceeded the deadline."""
    _failures: dict[AccountKey, int] = field(default_factory=dict)

    def refused(self, lease: Lease, refusal: Refused) -> None:
        """Exclude the offer, host or account that a refused create names; an account also after repeated failures."""
        account = (lease.provider, lease.account)
        if refusal.scope is Scope.ACCOUNT:
            self.accounts.add(account)
            return
        if refusal.scope is Scope.HOST:
            self.hosts.add(lease.offered.host)
        elif refusal.scope is Scope.OFFER:
            self.offers.add(lease.offered.offer_id)
        if not isinstance(refusal, OfferGone) and refusal.advice is not Advice.TRY_NEXT:
            failures = self._failures[account] = self._failures.get(account, 0) + 1
            if failures >= _FAILURES_ALLOWED:
                self.accounts.add(account)

    def queued(self, seconds: float) -> None:
        """Record that a create would have had to wait `seconds` for its turn."""
        self.queue_seconds = max(self.queue_seconds, seconds)
