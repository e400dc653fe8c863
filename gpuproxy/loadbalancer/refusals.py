"""The refusals when nothing can be chosen: too few GPUs, or every account is paused. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from gpuproxy.loadbalancer.balancer import Shortage
from gpuproxy.loadbalancer.groups import GroupShortage
from gpuproxy.model.demands import Order
from gpuproxy.model.errors import AuthFailed, FailedPrecondition, InsufficientFunds
from gpuproxy.model.gpus import gpu_matches, near_models
from gpuproxy.model.money import Micro, usd
from gpuproxy.model.offers import Offer, ProviderName
from gpuproxy.model.reasons import Reason
from gpuproxy.store.account_problems import AccountProblem

Silence = Sequence[tuple[ProviderName, float]]
"""Providers that do not answer, and for how many seconds."""

_PAUSES = {
    AuthFailed.reason: "the marketplace does not accept its key",
    InsufficientFunds.reason: "the marketplace says that its credit is used up",
}
"""The marketplace's own words are shown to the operator only: they may be about another project's call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is known of the market besides the offers that passed."""

    silent: Silence = ()
    truncated: bool = False
    """There may be more offers than are known."""
    models: Sequence[str] = ()
    """The printed names of all known GPU models."""
    named: Offer | None = None
    """The offer that the order names, if it ends too soon."""
    until: datetime | None = None
    """Until when an offer must last."""


def not_enough(
    order: Order, shortage: Shortage, rejected: Mapping[str, int], seen: Seen, nearest: Micro | None
) -> FailedPrecondition:
    """The refusal when there are fewer GPUs than asked for, or no exact sum of chunks.

    `nearest`: a price limit per GPU-hour at which there would be enough; None if there is none. `rejected`: how many
    offers each filter rejected.
    """
    metadata = {
        "requested": str(order.count),
        "available": str(shortage.available),
        "sizes": _listed(shortage.sizes),
        "unreachable": ",".join(name for name, _ in seen.silent),
        **{f"available.{name}": str(count) for name, count in shortage.per_provider.items()},
    }
    if _is_unknown(order, seen.models):
        near = near_models(order.filter.gpu_model, seen.models)
        rejected = {"gpu_model": sum(rejected.values())}
        metadata |= {"unknown_gpu_model": order.filter.gpu_model, "near_gpu_models": ",".join(near)}
        text = _unknown_model(order, near, seen)
    else:
        text = _too_few(order, shortage, rejected, seen, nearest)
    metadata |= {f"rejected.{name}": str(count) for name, count in rejected.items()}
    if nearest is not None:
        metadata["nearest_price"] = f"{usd(nearest):.6f}"
    if seen.named is not None and seen.named.expires_at is not None:
        metadata["offer_ends_at"] = f"{seen.named.expires_at:%Y-%m-%dT%H:%M:%SZ}"
    if isinstance(shortage, GroupShortage):
        metadata |= _best(shortage)
    return FailedPrecondition(text, reason=Reason.NOT_ENOUGH_GPUS, metadata=metadata)


def _too_few(order: Order, shortage: Shortage, rejected: Mapping[str, int], seen: Seen, nearest: Micro | None) -> str:
    per_provider = ", ".join(f"{name} {count}" for name, count in sorted(shortage.per_provider.items()))
    detail = "; ".join(part for part in (per_provider, _silence(seen)) if part)
    there = _there(shortage)
    if shortage.available >= order.least:
        sizes = _listed(shortage.sizes)
        why = f"{shortage.available} are free{there}, but in chunks of {sizes} GPUs that do not add up to {order.least}"
    else:
        why = f"{shortage.available} can be rented at once{there}" + (f" ({detail})" if detail else "")
    hint = f" {order.least} exist at <={_limit(usd(nearest))}." if nearest is not None else ""
    hint += _without_rule(shortage)
    left_out = _left_out(rejected, order.defaulted)
    return f"Not enough GPUs: asked {_asked(order)}; {why}.{hint}{_end(seen)}{left_out} Nothing was rented."


def _there(shortage: Shortage) -> str:
    """Where the GPUs are, if they must be alike: in the group that has most of them."""
    if not isinstance(shortage, GroupShortage) or not shortage.available:
        return ""
    of = "of " if shortage.group.model else ""
    return f" {of}{shortage.group}, the best {shortage.alike.nouns[0]}"


def _without_rule(shortage: Shortage) -> str:
    """The rules that all GPUs must be alike, if there would be enough without them."""
    if not isinstance(shortage, GroupShortage) or not shortage.enough_without:
        return ""
    return f" Without {' and '.join(shortage.alike.rules)} there are enough."


def _best(shortage: GroupShortage) -> dict[str, str]:
    """The group with the most GPUs, as metadata."""
    group = shortage.group
    model = {"gpu_model": group.model, "vram_gb": str(group.vram_gb or "")} if shortage.alike.model else {}
    return model | ({"country": group.country} if shortage.alike.country else {})


def _left_out(rejected: Mapping[str, int], defaulted: Collection[str]) -> str:
    """Every rule that left out offers, the one that left out most of them first, and whether it is a default."""
    ordered = sorted(rejected.items(), key=lambda each: (-each[1], each[0]))
    rules = ", ".join(f"{count} by {name}{' (default)' * (name in defaulted)}" for name, count in ordered if count)
    return f" Offers left out: {rules}." if rules else ""


def _end(seen: Seen) -> str:
    """When the offer that the order names ends; "" if that is late enough."""
    if seen.named is None or seen.named.expires_at is None or seen.until is None:
        return ""
    return (
        f" Offer {seen.named.id} ends at {seen.named.expires_at:%Y-%m-%d %H:%M:%SZ}; it would have to last until "
        f"{seen.until:%Y-%m-%d %H:%M:%SZ}."
    )


def _is_unknown(order: Order, models: Sequence[str]) -> bool:
    """Whether the order names a GPU model that no known offer has. Without any offer, nothing is known of models."""
    wanted = order.filter.gpu_model
    return bool(wanted and models) and not any(gpu_matches(wanted, model) for model in models)


def _unknown_model(order: Order, near: Sequence[str], seen: Seen) -> str:
    like = f" Near ones: {', '.join(near)}." if near else ""
    unsure = [f"{name} has been silent for {seconds:.0f} s" for name, seconds in seen.silent]
    unsure += ["not all offers have been read"] if seen.truncated else []
    perhaps = f" It may exist all the same: {'; '.join(unsure)}." if unsure else ""
    return (
        f'Not enough GPUs: no offer has a GPU model "{order.filter.gpu_model}".{like}{perhaps} '
        f"Asked {_asked(order)}. Nothing was rented."
    )


def _silence(seen: Seen) -> str:
    return ", ".join(f"{name} silent for {seconds:.0f} s" for name, seconds in seen.silent)


def _listed(sizes: Sequence[int]) -> str:
    return ", ".join(str(size) for size in sizes)


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
    usual = " (default)" if "max_price" in order.defaulted else ""
    parts = [f"{order.count} x {' '.join(what) or 'any GPU'}", f"at <={_limit(wanted.max_price)}/GPU-h{usual}"]
    if order.alike.model:
        parts.append("of one model")
    if order.alike.country:
        parts.append("in one country")
    if wanted.location:
        parts.append(f"in {wanted.location}")
    return " ".join(parts)


def _limit(price: float) -> str:
    """The price as `$1.50` or `$0.329744`: cents, and more digits if it needs them."""
    return "$" + max(f"{price:.2f}", f"{price:.6f}".rstrip("0"), key=len)
