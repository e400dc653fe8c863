"""All GPUs alike (of one model, in one country, or both): the cheapest group that can make the sum. Pure.

Offers whose model or country is unknown do not qualify where it counts.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from gpuproxy.loadbalancer.balancer import Choice, Shortage
from gpuproxy.model.groups import ANY_GROUP, Alike, Group, by_group
from gpuproxy.model.money import dollars
from gpuproxy.model.offers import Offer


class GroupShortage(Shortage):
    """No group can make the sum. The figures are those of the best group."""

    def __init__(self, shortage: Shortage, group: Group, alike: Alike) -> None:
        super().__init__(
            available=shortage.available,
            best=shortage.best,
            per_provider=shortage.per_provider,
            sizes=shortage.sizes,
        )
        self.group = group
        """ANY_GROUP if no offer has a group."""
        self.alike = alike
        self.enough_without = False
        """Whether the offers of all groups together make the sum."""


def choose(
    within: Callable[[Sequence[Offer]], Choice], offers: Sequence[Offer], alike: Alike, *, only: Group = ANY_GROUP
) -> Choice:
    """The choice in the group with the most GPUs and then the lowest cost. Raises GroupShortage.

    `within` makes the choice among the offers of one group, or raises Shortage. `only`: the only group that may be
    chosen. Groups where a choice needs ejected hosts come last.
    """
    choices: list[tuple[tuple[int, bool, int, Group], Choice]] = []
    shortages: list[tuple[tuple[int, int, Group], Shortage]] = []
    for group, own in usable(offers, alike, only=only).items():
        try:
            choice = within(own)
        except Shortage as shortage:
            shortages.append(((-shortage.best, -shortage.available, group), shortage))
        else:
            gpus = sum(offer.num_gpus for offer in choice.picks)
            cost = choice.decision.cheapest_alternative or 0
            choices.append(((-gpus, bool(choice.decision.notes), cost, group), choice))
    if choices:
        place, choice = min(choices, key=lambda entry: entry[0])
        return _noted(choice, place[3], alike, len(choices), offers)
    if not shortages:
        raise GroupShortage(Shortage(available=0, best=0, per_provider={}, sizes=()), only, alike)
    place_of_best, best = min(shortages, key=lambda entry: entry[0])
    raise GroupShortage(best, place_of_best[2], alike) from best


def usable(offers: Sequence[Offer], alike: Alike, *, only: Group = ANY_GROUP) -> Mapping[Group, Sequence[Offer]]:
    """The offers of each group that may be chosen."""
    return {group: own for group, own in by_group(offers, alike).items() if only in (ANY_GROUP, group)}


def _noted(choice: Choice, group: Group, alike: Alike, able: int, offers: Sequence[Offer]) -> Choice:
    """The choice with its reason, and with the number of offers of other groups."""
    decision = choice.decision
    outside = Counter(rule for offer in offers if (rule := alike.broken_by(offer, group)))
    one, several = alike.nouns
    others = f"the only {one} that has enough" if able == 1 else f"the cheapest of {able} {several} that have enough"
    note = f"all {group}: {others} (from {dollars(decision.cheapest_alternative or 0)}/h)"
    return replace(
        choice,
        decision=replace(decision, rejected=(*decision.rejected, *outside.items()), notes=(*decision.notes, note)),
    )
