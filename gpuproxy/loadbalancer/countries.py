"""All GPUs in one country: the cheapest country that can make the sum. Pure.

Offers whose location does not end with a country code do not qualify.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from gpuproxy.loadbalancer.balancer import Choice, Shortage
from gpuproxy.model.chunks import by_country
from gpuproxy.model.money import dollars
from gpuproxy.model.offers import Offer

RULE = "same_country"
"""The rule that offers outside the chosen country break."""


class CountryShortage(Shortage):
    """No country can make the sum. The figures are those of the best country."""

    def __init__(self, shortage: Shortage, country: str) -> None:
        super().__init__(
            available=shortage.available,
            best=shortage.best,
            per_provider=shortage.per_provider,
            sizes=shortage.sizes,
        )
        self.country = country
        """The two-letter code; "" if no offer has a country."""


def choose(within: Callable[[Sequence[Offer]], Choice], offers: Sequence[Offer], *, only: str = "") -> Choice:
    """The choice in the country with the most GPUs and then the lowest cost. Raises CountryShortage.

    `within` makes the choice among the offers of one country, or raises Shortage. `only`: the code of the only country
    that may be chosen. Countries where a choice needs ejected hosts come last.
    """
    choices: list[tuple[tuple[int, bool, int, str], Choice]] = []
    shortages: list[tuple[tuple[int, int, str], Shortage]] = []
    for country, own in usable(offers, only=only).items():
        try:
            choice = within(own)
        except Shortage as shortage:
            shortages.append(((-shortage.best, -shortage.available, country), shortage))
        else:
            gpus = sum(offer.num_gpus for offer in choice.picks)
            cost = choice.decision.cheapest_alternative or 0
            choices.append(((-gpus, bool(choice.decision.notes), cost, country), choice))
    if choices:
        place, choice = min(choices, key=lambda entry: entry[0])
        return _noted(choice, place[3], len(choices), len(offers))
    if not shortages:
        raise CountryShortage(Shortage(available=0, best=0, per_provider={}, sizes=()), only)
    place_of_best, best = min(shortages, key=lambda entry: entry[0])
    raise CountryShortage(best, place_of_best[2]) from best


def usable(offers: Sequence[Offer], *, only: str = "") -> Mapping[str, Sequence[Offer]]:
    """The offers of each country that may be chosen."""
    return {country: own for country, own in by_country(offers).items() if only in ("", country)}


def _noted(choice: Choice, country: str, able: int, offers: int) -> Choice:
    """The choice with its reason, and with the number of offers in other countries."""
    decision = choice.decision
    rejected = dict(decision.rejected)
    if elsewhere := offers - decision.considered - sum(rejected.values()):
        rejected[RULE] = elsewhere
    others = "the only country that has enough" if able == 1 else f"the cheapest of {able} countries that have enough"
    note = f"all in {country}: {others} (from {dollars(decision.cheapest_alternative or 0)}/h)"
    return replace(choice, decision=replace(decision, rejected=tuple(rejected.items()), notes=(*decision.notes, note)))
