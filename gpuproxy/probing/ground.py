"""Where a probe measures: the cheapest host that can carry its machines, and what all of it may cost. Pure.

The best host has two chunks of one size and space for a volume. Without such a host, less is measured.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from gpuproxy.model.money import Micro
from gpuproxy.model.offers import HostKey, Offer
from gpuproxy.model.probes import HELD_SECONDS, Part
from gpuproxy.ports import Capabilities, VolumeOffer
from gpuproxy.rental.volumes import volume_ceiling

DISK_GB = 10
VOLUME_GB = 1
_HOSTS = 30
"""The number of the cheapest hosts that are asked for a volume."""
_HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """The offers of one host. `second` and `volume` are None if there are none, or if they would serve nothing."""

    first: Offer
    second: Offer | None = None
    """Of the same size as `first`, with other GPUs."""
    volume: VolumeOffer | None = None


def machine_ceiling(offer: Offer) -> Micro:
    """The highest price per hour at which a machine of the offer is kept."""
    return Micro(offer.lowest_limit(DISK_GB) * offer.num_gpus)


def held(price: Micro, capabilities: Capabilities, prepaid_hours: int) -> Micro:
    """The most that a machine of this price per hour can cost: what is held before it is rented."""
    hours = float(prepaid_hours) if capabilities.billing == "prepaid" else HELD_SECONDS / _HOUR
    return Micro(round(price * hours))


def cheapest_pairs(offers: Sequence[Offer]) -> Mapping[HostKey, tuple[Offer, Offer]]:
    """Two chunks of one size of each host that has them, cheapest host first. `offers` are sorted by their price."""
    by_size: dict[tuple[HostKey, int], list[Offer]] = {}
    for offer in offers:
        if offer.conflict_keys:
            by_size.setdefault((offer.host, offer.num_gpus), []).append(offer)
    found: dict[HostKey, tuple[Offer, Offer]] = {}
    for (host, _), chunks in by_size.items():
        pair = next(
            ((a, b) for a, b in combinations(chunks, 2) if not set(a.conflict_keys) & set(b.conflict_keys)), None
        )
        if pair is not None and (host not in found or _price(pair) < _price(found[host])):
            found[host] = pair
    return dict(sorted(found.items(), key=lambda each: (_price(each[1]), each[0])))


def hosts_to_ask(pairs: Mapping[HostKey, tuple[Offer, Offer]]) -> list[str]:
    """The machine ids of the hosts that are asked for a volume."""
    return [pair[0].machine_id for pair in list(pairs.values())[:_HOSTS]]


def choose(
    offers: Sequence[Offer], pairs: Mapping[HostKey, tuple[Offer, Offer]], space: Collection[VolumeOffer]
) -> Ground | None:
    """The cheapest ground: with a volume and two chunks, else with two chunks, else of one offer; None without any."""
    by_machine = {each.machine_id: each for each in sorted(space, key=lambda each: -each.price_month)}
    for first, second in pairs.values():
        if first.machine_id in by_machine:
            return Ground(first=first, second=second, volume=by_machine[first.machine_id])
    for first, second in pairs.values():
        return Ground(first=first, second=second)
    return Ground(first=offers[0]) if offers else None


def parts(ground: Ground, capabilities: Capabilities, prepaid_hours: int) -> tuple[Part, ...]:
    """What is rented, in order, with the most that each part can cost."""
    found = []
    if ground.volume is not None:
        ceiling = volume_ceiling(ground.volume, VOLUME_GB)
        what = f"volume of {VOLUME_GB} GB on host {ground.volume.machine_id}"
        price = ground.volume.price(VOLUME_GB)
        found.append(Part(what=what, price=price, most=held(ceiling, capabilities, prepaid_hours)))
    offers = [ground.first, *([ground.second, ground.first] if ground.second is not None else [])]
    for offer, which in zip(offers, ("", " (created stopped)", " (while the first one is stopped)"), strict=False):
        what = f"{offer.num_gpus}x {offer.gpu_model} on host {offer.machine_id}{which}"
        most = held(machine_ceiling(offer), capabilities, prepaid_hours)
        found.append(Part(what=what, price=offer.price(DISK_GB), most=most))
    return tuple(found)


def _price(pair: tuple[Offer, Offer]) -> int:
    return pair[0].price(DISK_GB) + pair[1].price(DISK_GB)
