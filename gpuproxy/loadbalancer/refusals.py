"""The refusals when nothing can be chosen: too few GPUs, or every account is paused. Pure."""

from collections.abc import Mapping, Sequence

from gpuproxy.loadbalancer.balancer import Shortage
from gpuproxy.model.demands import Order
from gpuproxy.model.errors import AuthFailed, FailedPrecondition, InsufficientFunds
from gpuproxy.model.money import Micro, usd
from gpuproxy.model.offers import ProviderName
from gpuproxy.store.account_problems import AccountProblem

Silence = Sequence[tuple[ProviderName, float]]
"""Providers that do not answer, and for how many seconds."""

_NAMED_FILTERS = frozenset({"provider", "min_vram", "max_price", "gpu_model", "location"})
"""Filters that the text about too few GPUs shows with their values."""
_PAUSES = {
    AuthFailed.reason: "the marketplace does not accept its key",
    InsufficientFunds.reason: "the marketplace says that its credit is used up",
}
"""The marketplace's own words are shown to the operator only: they may be about another project's call."""


def not_enough(
    order: Order, shortage: Shortage, silent: Silence, nearest: Micro | None, rejected: Mapping[str, int]
) -> FailedPrecondition:
    """The refusal when there are fewer GPUs than asked for, or no exact sum of chunks.

    `nearest`: a price limit per GPU-hour at which there would be enough; None if there is none. `rejected`: how many
    offers each filter rejected.
    """
    per_provider = ", ".join(f"{name} {count}" for name, count in sorted(shortage.per_provider.items()))
    silence = ", ".join(f"{name} silent for {seconds:.0f} s" for name, seconds in silent)
    detail = "; ".join(part for part in (per_provider, silence) if part)
    sizes = ", ".join(str(size) for size in shortage.sizes)
    if shortage.available >= order.least:
        why = f"{shortage.available} are free, but in chunks of {sizes} GPUs that do not add up to {order.least}"
    else:
        why = f"{shortage.available} can be rented at once" + (f" ({detail})" if detail else "")
    hint = f" {order.least} exist at <={_limit(usd(nearest))}." if nearest is not None else ""
    left_out = ", ".join(f"{count} by {name}" for name, count in sorted(rejected.items()) if name not in _NAMED_FILTERS)
    left_out = f" Offers left out: {left_out}." if left_out else ""
    return FailedPrecondition(
        f"Not enough GPUs: asked {_asked(order)}; {why}.{hint}{left_out} Nothing was rented.",
        reason="NOT_ENOUGH_GPUS",
        metadata={
            "requested": str(order.count),
            "available": str(shortage.available),
            "sizes": sizes,
            "unreachable": ",".join(name for name, _ in silent),
            **{f"available.{name}": str(count) for name, count in shortage.per_provider.items()},
            **{f"rejected.{name}": str(count) for name, count in rejected.items()},
            **({"nearest_price": f"{usd(nearest):.6f}"} if nearest is not None else {}),
        },
    )


def account_paused(problem: AccountProblem) -> FailedPrecondition:
    """The refusal when every usable account is paused."""
    provider, account = problem.account
    return FailedPrecondition(
        f"{provider} account {account} is paused since {problem.since:%Y-%m-%d %H:%M:%SZ}: {_PAUSES[problem.reason]}. "
        "Nothing was rented. The account is used again a few minutes after this is corrected.",
        reason=problem.reason,
        metadata={"provider": provider, "account": account},
    )


def _asked(order: Order) -> str:
    wanted = order.filter
    what = [wanted.gpu_model] if wanted.gpu_model else []
    if wanted.min_vram:
        what.append(f">={wanted.min_vram:g} GB")
    parts = [f"{order.count} x {' '.join(what) or 'any GPU'}", f"at <={_limit(wanted.max_price)}/GPU-h"]
    if wanted.location:
        parts.append(f"in {wanted.location}")
    return " ".join(parts)


def _limit(price: float) -> str:
    """The price as `$1.50` or `$0.329744`: cents, and more digits if it needs them."""
    return "$" + max(f"{price:.2f}", f"{price:.6f}".rstrip("0"), key=len)
