"""Offers for tests: hosts whose chunks nest as they do on vast.ai, and random markets of them."""

import random
from collections.abc import Iterator

from gpuproxy.model.money import Micro
from gpuproxy.model.offers import HostKey, Offer, OfferId, ProviderName

VAST = ProviderName("vast.ai")


def offer(number: int, host: str = "", **facts: object) -> Offer:
    """An offer that every default filter lets pass; without a host it has one of its own."""
    machine = host or str(number)
    provider = ProviderName(str(facts.pop("provider", VAST)))
    values: dict[str, object] = {
        "id": OfferId(f"{provider.partition('.')[0]}-{number}"),
        "provider": provider,
        "host": HostKey(f"{provider}/{machine}"),
        "machine_id": machine,
        "gpu_model": "RTX 4090",
        "num_gpus": 1,
        "vram_gb": 24,
        "gpu_price": Micro(300_000),
        "disk_price_month": Micro(0),
        "max_disk_gb": 500.0,
        "reliability_ppm": 990_000,
        "verified": True,
        "cuda_max": 12.4,
        "location": "Texas, US",
        "conflict_keys": (f"{machine}:{number}",),
    }
    return Offer(**(values | facts))  # type: ignore[arg-type]


def nested(numbers: Iterator[int], host: str, gpus: int, sizes: tuple[int, ...], **facts: object) -> list[Offer]:
    """The chunks of a host: of each size as many as there is room for, side by side."""
    return [
        offer(
            next(numbers),
            host,
            num_gpus=size,
            conflict_keys=tuple(f"{host}:{gpu}" for gpu in range(at, at + size)),
            **facts,
        )
        for size in sizes
        for at in range(0, gpus - size + 1, size)
    ]


def random_market(seed: int, hosts: int, *, crossing: bool = False) -> list[Offer]:
    """Hosts of 1-8 GPUs with random nested chunks and prices; `crossing`: also some that overlap without nesting."""
    dice = random.Random(seed)
    numbers = iter(range(1, 1_000_000))
    offers: list[Offer] = []
    for index in range(hosts):
        host, gpus = f"m{index}", dice.choice((1, 1, 2, 4, 4, 8))
        sizes = tuple(size for size in (1, 2, 4, 8) if size <= gpus and dice.random() < 0.6)
        per_gpu = dice.randrange(100, 120) * 1000
        chunks = [chunk for chunk in nested(numbers, host, gpus, sizes) if dice.random() < 0.8]
        offers += [_dearer(chunk, per_gpu * chunk.num_gpus, dice) for chunk in chunks]
        if crossing and gpus >= 4:
            keys = tuple(f"{host}:{gpu}" for gpu in dice.sample(range(gpus), 3))
            chunk = offer(next(numbers), host, num_gpus=3, conflict_keys=keys)
            offers.append(_dearer(chunk, per_gpu * 3, dice))
    dice.shuffle(offers)
    return offers


def _dearer(chunk: Offer, price: int, dice: random.Random) -> Offer:
    facts = {name: getattr(chunk, name) for name in Offer.__dataclass_fields__}
    facts |= {"gpu_price": Micro(price), "reliability_ppm": dice.choice((950_000, 990_000))}
    return Offer(**facts)
