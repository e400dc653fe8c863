"""What a rental excludes from its next choice because of earlier answers, and how long it would have had to wait."""

from collections import Counter
from dataclasses import dataclass, field

from gpuproxy.model.errors import Advice, OfferGone, ProviderUnavailable, Refused, Scope
from gpuproxy.model.leases import Lease
from gpuproxy.model.offers import AccountKey, HostKey, OfferId, ProviderName

_FAILURES_ALLOWED = 3


@dataclass(slots=True)
class Exclusions:
    """Shared by the attempts of one rental. A refusal excludes only what its scope names."""

    offers: set[OfferId] = field(default_factory=set)
    hosts: set[HostKey] = field(default_factory=set)
    accounts: set[AccountKey] = field(default_factory=set)
    providers: set[ProviderName] = field(default_factory=set)
    queue_seconds: float = 0.0
    """The longest wait for a turn that exceeded the deadline."""
    _failures: Counter[AccountKey | ProviderName] = field(default_factory=Counter)

    def refused(self, lease: Lease, refusal: Refused) -> None:
        """Exclude the offer, host or account that a refused create names.

        An account that repeatedly does not answer is excluded too, and a provider that repeatedly refuses the request.
        """
        account = (lease.provider, lease.account)
        if refusal.scope is Scope.ACCOUNT:
            self.accounts.add(account)
            return
        if refusal.scope is Scope.HOST:
            self.hosts.add(lease.offered.host)
        elif refusal.scope is Scope.OFFER:
            self.offers.add(lease.offered.offer_id)
        if isinstance(refusal, OfferGone) or refusal.advice is Advice.TRY_NEXT:
            return
        if isinstance(refusal, ProviderUnavailable):
            self._failures[account] += 1
            if self._failures[account] >= _FAILURES_ALLOWED:
                self.accounts.add(account)
            return
        self._failures[lease.provider] += 1
        if self._failures[lease.provider] >= _FAILURES_ALLOWED:
            self.providers.add(lease.provider)

    def queued(self, seconds: float) -> None:
        """Record that a create would have had to wait `seconds` for its turn."""
        self.queue_seconds = max(self.queue_seconds, seconds)
