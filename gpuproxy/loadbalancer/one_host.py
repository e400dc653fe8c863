"""What a choice on several hosts would cost on one host, out of the same offers. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from gpuproxy.loadbalancer.balancer import Choice, Shortage
from gpuproxy.model.chunks import by_host
from gpuproxy.model.demands import Packing
from gpuproxy.model.money import dollars
from gpuproxy.model.offers import Offer
from gpuproxy.model.spread import Placed, spread

_CHOSEN: frozenset[Packing] = frozenset({"spread", "single_host"})
"""Who asks for one of these packings does not look for another one."""


def noted(choice: Choice, packing: Packing, on_one_host: Callable[[int], Choice]) -> Choice:
    """The choice with a note, if it is on several hosts: on how many, and what one host would cost.

    `on_one_host` chooses so many GPUs with the packing single_host, or raises Shortage.
    """
    text = spread([_placed(offer) for offer in choice.picks])
    if not text:
        return choice
    if packing not in _CHOSEN:
        text += f"; {_alternative(sum(offer.num_gpus for offer in choice.picks), on_one_host)}"
    return replace(choice, decision=replace(choice.decision, notes=(*choice.decision.notes, text)))


def large_enough(offers: Sequence[Offer], gpus: int) -> list[Offer]:
    """The offers of hosts whose chunks add up to at least `gpus`, overlapping or not. No other host can give so many.

    An offer without conflict keys can be rented many times, so its host is always large enough.
    """
    able = {
        host
        for host, own in by_host(offers).items()
        if any(not offer.conflict_keys for offer in own) or sum(offer.num_gpus for offer in own) >= gpus
    }
    return [offer for offer in offers if offer.host in able]


def _alternative(gpus: int, on_one_host: Callable[[int], Choice]) -> str:
    try:
        alone = on_one_host(gpus)
    except Shortage:
        return f"packing single_host is not possible: no host offers exactly {gpus} such GPUs"
    price = sum(pick.price for pick in alone.decision.picks)
    return f"packing single_host would cost {dollars(price)}/h"


def _placed(offer: Offer) -> Placed:
    return Placed(
        host=offer.host,
        num_gpus=offer.num_gpus,
        gpu_model=offer.gpu_model,
        vram_gb=offer.vram_gb,
        location=offer.location,
    )
