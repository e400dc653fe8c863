"""The regions and projects of accounts: which accounts may rent an offer, and which are preferred.

An account with a region is preferred for the offers of that region. Where a marketplace's keys are regional, it is also
the only one: the other keys can't rent there. An account without a region takes the offers that no region has.

An account that is assigned to projects rents for these only. Any project may use one that is assigned to none.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from gpuproxy.model.offers import AccountKey, Offer, ProviderName, location_matches


@dataclass(frozen=True, slots=True, kw_only=True)
class Regions:
    """The regions of all accounts, as the operator set them."""

    of: Mapping[AccountKey, str] = field(default_factory=dict)
    """Without the accounts that have none."""
    regional: Collection[ProviderName] = frozenset()
    """The marketplaces whose keys are regional."""
    projects: Mapping[AccountKey, Collection[str]] = field(default_factory=dict)
    """The projects of the accounts that are assigned to some."""

    def of_others(self, project: str) -> set[AccountKey]:
        """The accounts that rent for other projects only."""
        return {account for account, projects in self.projects.items() if project not in projects}

    def matter(self, provider: ProviderName) -> bool:
        """False if every account of the provider may rent every offer."""
        return provider in self.regional

    def seen_by(self, provider: ProviderName, account: str) -> str:
        """What offers an account sees: those of a region, or all ("")."""
        return self.of.get((provider, account), "") if provider in self.regional else ""

    def preferences(self, offer: Offer, accounts: Iterable[str]) -> Mapping[str, int]:
        """Those of these accounts that may rent the offer, with 0 for preferred ones and 1 for the others."""
        regions = {account: self.of.get((offer.provider, account), "") for account in accounts}
        local = self._local(offer)
        if offer.provider in self.regional:
            return {account: 0 for account, region in regions.items() if (account in local if local else not region)}
        preferred = local or {account for account, region in regions.items() if not region}
        return {account: 0 if account in preferred else 1 for account in regions}

    def _local(self, offer: Offer) -> Collection[str]:
        """The accounts of the offer's region, including those that can't be used now."""
        return {
            account
            for (provider, account), region in self.of.items()
            if provider == offer.provider and location_matches(region, offer.location)
        }
