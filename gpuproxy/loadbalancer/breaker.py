"""The circuit breaker of each provider. While it is open, no creates are started there.

It opens when too many creates have an unknown outcome, or when too many were sent within a minute. With many unknown
outcomes the fault is not in one offer, and each further create could be another machine that runs unseen. It closes by
itself when the outcomes are resolved. The default limits are never stricter than a provider's own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from gpuproxy.model.errors import Unavailable
from gpuproxy.model.offers import ProviderName
from gpuproxy.model.reasons import Reason
from gpuproxy.ports import Tx
from gpuproxy.runtime.limits import Limits
from gpuproxy.store import leases

_MINUTE = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class OpenBreaker:
    """A provider whose circuit breaker is open, why, and in how many seconds to try again."""

    provider: ProviderName
    why: str
    retry_after: float


def open_breakers(tx: Tx, providers: Iterable[ProviderName], limits: Limits) -> tuple[OpenBreaker, ...]:
    """The open circuit breakers among these providers."""
    found = []
    for provider in providers:
        unknown = leases.count_unknown(tx, provider)
        if unknown >= limits.max_unknown:
            why = f"{unknown} outcomes at {provider} are unknown (the limit is {limits.max_unknown})"
            found.append(OpenBreaker(provider, why, limits.reconcile_seconds))
            continue
        recent = leases.count_sent(tx, provider, tx.now() - _MINUTE)
        if limits.max_creates_per_minute and recent >= limits.max_creates_per_minute:
            why = f"{recent} creates at {provider} within a minute (the limit is {limits.max_creates_per_minute})"
            found.append(OpenBreaker(provider, why, _MINUTE.total_seconds() / 2))
    return tuple(found)


def refusal_of(found: tuple[OpenBreaker, ...]) -> Unavailable:
    """The refusal when the circuit breakers of all providers are open."""
    why = "; ".join(each.why for each in found)
    return Unavailable(
        f"No machines are created for now, because the circuit breaker is open: {why}. Nothing was rented.",
        reason=Reason.STORM_BREAKER,
        metadata={"providers": ",".join(each.provider for each in found)},
        retry_after=min(each.retry_after for each in found),
    )
