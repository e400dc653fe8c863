"""The storm breaker: when too many outcomes of a provider are unknown, or creates come too fast, no more are started.

What is wrong then is not one offer; every further create is another machine that may run unseen. The defaults never
bind below a provider's own limits. It closes by itself as outcomes are resolved.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from gpuproxy.model.errors import Unavailable
from gpuproxy.model.offers import ProviderName
from gpuproxy.ports import Tx
from gpuproxy.runtime.limits import Limits
from gpuproxy.store import leases

_MINUTE = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class OpenBreaker:
    """Why a provider is not created with at the moment, and in how many seconds to look again."""

    provider: ProviderName
    why: str
    retry_after: float


def open_breakers(tx: Tx, providers: Iterable[ProviderName], limits: Limits) -> tuple[OpenBreaker, ...]:
    """The providers that the breaker keeps from creating."""
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
    """What callers are told when no provider is left."""
    why = "; ".join(each.why for each in found)
    return Unavailable(
        f"No more machines are created for now: {why}. Nothing was rented.",
        reason="STORM_BREAKER",
        metadata={"providers": ",".join(each.provider for each in found)},
        retry_after=min(each.retry_after for each in found),
    )
