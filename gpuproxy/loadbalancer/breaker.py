"""The circuit breakers of accounts. While one is open, no creates are started with the account.

It opens when too many of the account's creates have an unknown outcome. Then the fault is not in one offer, and each
further create could be another machine that runs unseen. It closes by itself when the outcomes are resolved. It is also
open while the circuit of the account's creates is (`runtime.circuits`). If too many creates were sent to a provider
within a minute, it is open for all its accounts. The default limits are never stricter than a provider's own.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta

from gpuproxy.model.errors import Unavailable
from gpuproxy.model.offers import AccountKey, ProviderName
from gpuproxy.model.reasons import Reason
from gpuproxy.ports import Tx
from gpuproxy.runtime.circuits import Circuit
from gpuproxy.runtime.limits import Limits
from gpuproxy.store import leases

_MINUTE = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class OpenBreaker:
    """An account whose circuit breaker is open, why, and in how many seconds to try again."""

    account: AccountKey
    why: str
    retry_after: float


def open_breakers(
    tx: Tx,
    terms: Mapping[ProviderName, Collection[str]],
    limits: Limits,
    rests: Callable[[AccountKey], float | None],
) -> tuple[OpenBreaker, ...]:
    """The open circuit breakers among these accounts.

    `rests`: the seconds for which the circuit of an account's creates stays open; None if it is not.
    """
    found = []
    for provider, accounts in terms.items():
        recent = leases.count_sent(tx, provider, tx.now() - _MINUTE) if limits.max_creates_per_minute else 0
        for account in accounts:
            key = (provider, account)
            if (unknown := leases.count_unknown(tx, key)) >= limits.max_unknown:
                why = f"{unknown} outcomes at {provider} ({account}) are unknown (the limit is {limits.max_unknown})"
                found.append(OpenBreaker(key, why, limits.reconcile_seconds))
            elif limits.max_creates_per_minute and recent >= limits.max_creates_per_minute:
                limit = limits.max_creates_per_minute
                why = f"{recent} creates at {provider} within a minute (the limit is {limit})"
                found.append(OpenBreaker(key, why, _MINUTE.total_seconds() / 2))
            elif (rest := rests(key)) is not None:
                found.append(OpenBreaker(key, f"{provider} ({account}) does not answer creates", max(1.0, rest)))
    return tuple(found)


def rests(circuit: Circuit) -> float | None:
    """The seconds for which a circuit stays open; None if it takes a call."""
    return circuit.rest if circuit.rank() is None else None


def refusal_of(found: tuple[OpenBreaker, ...]) -> Unavailable:
    """The refusal when the circuit breakers of all accounts are open."""
    why = "; ".join(dict.fromkeys(each.why for each in found))
    return Unavailable(
        f"No machines are created for now, because the circuit breaker is open: {why}. Nothing was rented.",
        reason=Reason.STORM_BREAKER,
        metadata={"providers": ",".join(dict.fromkeys(each.account[0] for each in found))},
        retry_after=min(each.retry_after for each in found),
    )
