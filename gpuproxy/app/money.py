"""Building what keeps the books and the limits: the ledger's postings, the holds, and what is shown of both."""

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from gpuproxy.billing.costs import Costs
from gpuproxy.billing.horizons import Horizons
from gpuproxy.billing.limits import SpendingLimits
from gpuproxy.billing.posting import Posting
from gpuproxy.config.settings import Settings
from gpuproxy.config.spending import limits_of, quotas_of
from gpuproxy.model.limits import SpendingLimit
from gpuproxy.model.quotas import Quota
from gpuproxy.ports import Clock, Database
from gpuproxy.runtime.accounts import Accounts
from gpuproxy.runtime.claims import Claims, HeldClaim, alone, claimed
from gpuproxy.runtime.limits import Limits
from gpuproxy.runtime.loops import repeat, repeat_every
from gpuproxy.store import spend_limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """What was spent, and what may be spent."""

    db: Database
    clock: Clock
    posting: Posting
    costs: Costs
    horizons: Horizons
    hold_check_seconds: float
    limits: SpendingLimits
    set_limits: tuple[SpendingLimit, ...]
    set_quotas: tuple[Quota, ...]
    """The limits and quotas of the settings."""
    posting_claim: HeldClaim
    horizons_claim: HeldClaim
    """Only the process with these posts to the ledger, and extends holds."""

    @property
    def claims(self) -> tuple[HeldClaim, ...]:
        """The claims on the work of the loops."""
        return self.posting_claim, self.horizons_claim

    async def start(self) -> None:
        """Check the ledger, and make the limits of the settings those of the database."""
        await self.posting.check()
        await self.db.write(lambda tx: spend_limits.use_settings(tx, self.set_limits, self.set_quotas))

    def loops(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """The work that goes on as long as the server runs."""
        return (
            repeat(alone(self.posting_claim, self.posting.step), self.posting.wait, self.clock, "ledger"),
            repeat_every(alone(self.horizons_claim, self.horizons.step), self.hold_check_seconds, self.clock, "holds"),
        )


def build_money(
    settings: Settings, accounts: Accounts, limits: Limits, db: Database, clock: Clock, *, claims: Claims
) -> Money:
    """Wire it over the given ports."""
    posting, holds = claims.of_work("ledger"), claims.of_work("holds")
    return Money(
        db=db, clock=clock, posting=Posting(claimed(db, posting), clock), costs=Costs(db),
        horizons=Horizons(claimed(db, holds), accounts, limits), posting_claim=posting, horizons_claim=holds,
        hold_check_seconds=limits.hold_check_seconds, limits=SpendingLimits(db, settings.limit_policy),
        set_limits=limits_of(settings), set_quotas=quotas_of(settings),
    )  # fmt: skip
