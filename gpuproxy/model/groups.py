"""Offers by what the GPUs of one reservation must have in common: their model, their country, or both. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from gpuproxy.model.offers import Offer, country_of

SAME_MODEL = "same_model"
"""The rule that offers of other models than the chosen one break, and the name of its field."""
SAME_COUNTRY = "same_country"
"""The same for offers in other countries."""


@dataclass(frozen=True, slots=True, order=True)
class Group:
    """What GPUs have in common. An empty field: they need not have it in common."""

    model: str = ""
    """The printed name. One name may have several sizes of memory, so `vram_gb` belongs to the model."""
    vram_gb: int = 0
    country: str = ""
    """The two-letter code."""

    def __str__(self) -> str:
        model = f"{self.model} ({self.vram_gb} GB)" if self.model else ""
        return " ".join(part for part in (model, self.country and f"in {self.country}") if part)


ANY_GROUP = Group()


@dataclass(frozen=True, slots=True, kw_only=True)
class Alike:
    """What all GPUs of one reservation must have in common. Neither: the order has no such rule."""

    model: bool = False
    country: bool = False

    def __bool__(self) -> bool:
        return self.model or self.country

    @property
    def rules(self) -> tuple[str, ...]:
        """The names of the rules that apply."""
        return (*([SAME_MODEL] if self.model else []), *([SAME_COUNTRY] if self.country else []))

    @property
    def nouns(self) -> tuple[str, str]:
        """What a group is, for texts: one of them, and several of them."""
        if self.model and self.country:
            return "pair of model and country", "pairs of model and country"
        return ("model", "models") if self.model else ("country", "countries")

    def group(self, model: str, vram_gb: int, location: str) -> Group | None:
        """The group of a GPU with these facts; None if a fact that counts is unknown."""
        country = country_of(location) if self.country else ""
        if (self.model and not model) or (self.country and not country):
            return None
        return Group(model, vram_gb, country) if self.model else Group(country=country)

    def broken_by(self, offer: Offer, group: Group) -> str:
        """The first rule that keeps `offer` out of `group`; "" if it belongs there."""
        if self.model and (offer.gpu_model, offer.vram_gb) != (group.model, group.vram_gb):
            return SAME_MODEL
        return SAME_COUNTRY if self.country and country_of(offer.location) != group.country else ""


def by_group(offers: Iterable[Offer], alike: Alike) -> dict[Group, list[Offer]]:
    """The offers of each group, in their original order; without those whose group is unknown."""
    groups: dict[Group, list[Offer]] = {}
    for offer in offers:
        group = alike.group(offer.gpu_model, offer.vram_gb, offer.location)
        if group is not None:
            groups.setdefault(group, []).append(offer)
    return groups
