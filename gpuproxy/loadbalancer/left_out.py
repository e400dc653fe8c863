"""Why a rental would not choose an offer: for each offer the first rule that leaves it out. Only reads.

The rules of the filter come first, in the order of `OfferFilter.rejects`. Then come those that the choice applies to
the offers that pass it: an account must be usable, the GPUs must not be rented already, the create must not just have
found no capacity, and the host must not be ejected.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from gpuproxy.loadbalancer.choice import Chooser, Survey, ejection
from gpuproxy.loadbalancer.exclusions import Exclusions
from gpuproxy.model.demands import Order
from gpuproxy.model.money import dollars, usd
from gpuproxy.model.offers import ENDS_TOO_SOON, LOWER_BOUNDS, Offer

MOST = 20
"""Offers that are named for each rule: the cheapest ones."""
NO_ACCOUNT, RENTED, NO_CAPACITY, EJECTED = "no_account", "rented", "no_capacity", "ejected"
"""The rules of the choice, after those of the filter."""
UNREACHABLE = "unreachable"
"""The marketplace does not answer. Such offers, and those just taken (`RENTED`), are left out before the filter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferOut:
    """An offer that is left out."""

    offer_id: str
    host: str
    gpu_model: str
    num_gpus: int
    location: str
    price_per_gpu_hour: float
    """USD, with the disk asked for."""
    fact: str
    """What of the offer breaks the rule, for people; "" if the rule says it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleOut:
    """The offers that one rule leaves out. An offer is counted at the first rule that it breaks."""

    rule: str
    """As in `Decision.rejected`: the name of a request's field, or one of this module's constants."""
    total: int
    offers: Sequence[OfferOut]
    """The cheapest `MOST` of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """All offers of the market, by what leaves them out."""

    total: int
    fitting: int
    """Offers that no rule leaves out."""
    rules: Sequence[RuleOut]
    """The rules that leave out offers, in the order in which they are applied."""


async def left_out(
    chooser: Chooser, order: Order, strategy: str, exclusions: Exclusions, *, until: datetime
) -> LeftOut:
    """Why offers are left out of a rental of `order` that lasts until `until`.

    `exclusions`: the accounts that rent for other projects only. Raises Unavailable when no marketplace can be read.
    """
    survey = await chooser.survey(order, strategy, exclusions)
    selection = survey.market.select(order.filter, until)
    found = {rule: (total, selection.left_out(rule, MOST)) for rule, total in selection.rejected.items()}
    hidden = survey.market.view.hidden_offers
    found |= {
        rule: (len(offers), tuple(offers[:MOST]))
        for rule, offers in _after_filter(survey, selection.offers, hidden, exclusions).items()
        if offers
    }
    total = selection.total + sum(selection.rejected.values()) + len(hidden)
    return LeftOut(
        total=total,
        fitting=total - sum(number for number, _ in found.values()),
        rules=[
            RuleOut(rule=rule, total=number, offers=[_shown(offer, rule, order) for offer in offers])
            for rule, (number, offers) in found.items()
        ],
    )


def _after_filter(
    survey: Survey, offers: Sequence[Offer], hidden: Sequence[Offer], exclusions: Exclusions
) -> Mapping[str, list[Offer]]:
    """The offers that pass the filter, but would not be chosen, by rule. `hidden`: the filter did not see them."""
    found: dict[str, list[Offer]] = {UNREACHABLE: [], NO_ACCOUNT: [], RENTED: [], NO_CAPACITY: [], EJECTED: []}
    silent = {name for name, _ in survey.market.unreachable}
    for offer in hidden:
        found[UNREACHABLE if offer.provider in silent else RENTED].append(offer)
    free = {offer.id for offer in survey.free(offers, exclusions)}
    locked, capable = survey.known.locked_keys, []
    for offer in offers:
        if offer.id not in free:
            is_rented = any((offer.provider, key) in locked for key in offer.conflict_keys)
            found[RENTED if is_rented else NO_ACCOUNT].append(offer)
        elif survey.known.exhausted(offer):
            found[NO_CAPACITY].append(offer)
        else:
            capable.append(offer)
    out, _ = ejection(capable, survey.known.ejected)
    found[EJECTED] = [offer for offer in capable if offer.host in out]
    return found


def _shown(offer: Offer, rule: str, order: Order) -> OfferOut:
    return OfferOut(
        offer_id=offer.id,
        host=offer.host,
        gpu_model=offer.gpu_model,
        num_gpus=offer.num_gpus,
        location=offer.location,
        price_per_gpu_hour=usd(offer.price(order.filter.disk_gb)) / offer.num_gpus,
        fact=_fact(offer, rule, order.filter.disk_gb),
    )


def _fact(offer: Offer, rule: str, disk_gb: float) -> str:
    if rule == "max_price":
        return f"{dollars(offer.lowest_limit(disk_gb))} per GPU-hour"
    if rule in LOWER_BOUNDS:
        value = getattr(offer, LOWER_BOUNDS[rule])
        return f"{value:g}" if value else "not known"
    return _FACTS[rule](offer) if rule in _FACTS else ""


def _traffic(offer: Offer) -> str:
    down, up = offer.inet_down_price, offer.inet_up_price
    return "not known" if down is None or up is None else f"{dollars(down)} down, {dollars(up)} up"


_FACTS: Mapping[str, Callable[[Offer], str]] = {
    "provider": lambda offer: offer.provider,
    "num_gpus": lambda offer: f"{offer.num_gpus} GPUs",
    "gpu_model": lambda offer: offer.gpu_model,
    "location": lambda offer: offer.location,
    "exclude_hosts": lambda offer: offer.host,
    "min_vram": lambda offer: f"{offer.vram_gb:g} GB",
    "verified_only": lambda _: "not verified",
    "min_reliability": lambda offer: f"{offer.reliability_ppm / 10_000:.1f} %",
    "min_cuda": lambda offer: f"CUDA {offer.cuda_max:g}" if offer.cuda_max else "not known",
    "compute_cap": lambda offer: f"{offer.compute_cap:g}",
    "disk_gb": lambda offer: f"{offer.max_disk_gb:g} GB free",
    "ports": lambda offer: f"{offer.direct_ports or 0} ports",
    "max_traffic_price": _traffic,
    ENDS_TOO_SOON: lambda offer: f"{offer.expires_at:%Y-%m-%d %H:%M} UTC" if offer.expires_at else "",
}
