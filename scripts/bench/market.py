"""Twenty thousand offers as a big marketplace might have them, the same for a seed, and requests that filter them."""

import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import datetime
from typing import cast

from gpuproxy.catalog.snapshot import built
from gpuproxy.model.errors import NotSupported, Violation
from gpuproxy.model.leases import InstanceId
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import HostKey, Offer, OfferFilter, OfferId, ProviderName
from gpuproxy.ports import Capabilities, Inventory, ListedInstance, Provider, Receipt, Spend
from gpuproxy.v1 import gpuproxy_pb2 as pb

OFFERS = 20_000
MATCHING = 1_000
_PAGE = 2_000
NAME = ProviderName("vast.ai")
_MODELS = (
    ("RTX 3060", 12, 60_000), ("RTX 3090", 24, 130_000), ("RTX 4060 Ti", 16, 90_000), ("RTX 4090", 24, 300_000),
    ("RTX 5090", 32, 420_000), ("RTX A4000", 16, 110_000), ("RTX A6000", 48, 400_000), ("L40S", 48, 550_000),
    ("A100 PCIE", 40, 700_000), ("A100 SXM4", 80, 900_000), ("H100 SXM", 80, 1_900_000), ("H200", 141, 2_400_000),
)  # fmt: skip
_PLACES = tuple(f"{region}, {land}" for land in ("US", "DE", "FR", "CA", "JP", "NO") for region in "ABCDEFGH")
_CUDA = (11.8, 12.1, 12.2, 12.4, 12.6, 12.8)


def offers(total: int = OFFERS, seed: int = 1) -> list[Offer]:
    """So many, in no order: chunks of hosts with 1 to 8 GPUs, nested as on vast.ai."""
    dice = random.Random(seed)
    numbers = iter(range(10_000_000, 100_000_000))
    made: list[Offer] = []
    while len(made) < total:
        made += _host(dice, numbers, len(made))
    del made[total:]
    dice.shuffle(made)
    return made


def _host(dice: random.Random, numbers: Iterator[int], machine: int) -> list[Offer]:
    gpus = dice.choice((1, 1, 2, 4, 8))
    model, vram, price = dice.choice(_MODELS)
    per_gpu = round(price * dice.uniform(0.7, 1.6))
    facts = {
        "provider": NAME,
        "host": HostKey(f"{NAME}/{machine}"),
        "machine_id": str(machine),
        "gpu_model": model,
        "vram_gb": vram,
        "disk_price_month": Micro(dice.randrange(100_000, 300_000)),
        "max_disk_gb": dice.uniform(60, 4000),
        "host_gpus": gpus,
        "location": dice.choice(_PLACES),
        "reliability_ppm": 1_000_000 - dice.randrange(100_000),
        "verified": dice.random() < 0.85,
        "cuda_max": dice.choice(_CUDA),
        "extras": {"host_account": str(dice.randrange(100_000)), "direct_ports": str(dice.randrange(200))},
    }
    return [
        Offer(
            id=OfferId(f"vast-{next(numbers)}"),
            num_gpus=size,
            gpu_price=Micro(per_gpu * size),
            conflict_keys=tuple(f"{machine}:{gpu}" for gpu in range(at, at + size)),
            **facts,  # type: ignore[arg-type]
        )
        for size in (1, 2, 4, 8)
        for at in range(0, gpus - size + 1, size)
    ]


def requests(market: Sequence[Offer], count: int, seed: int = 2) -> list[pb.ListGPUInstancesRequest]:
    """Distinct random filters that use every field and let about MATCHING offers pass; the price makes it so."""
    dice = random.Random(seed)
    snapshot = built([(offer, {}) for offer in market])
    made: list[pb.ListGPUInstancesRequest] = []
    while len(made) < count:
        request = pb.ListGPUInstancesRequest(
            min_vram=dice.choice((0, 12, 16, 24)),
            gpu_model=dice.choice(("", "", "RTX 4090", "RTX 3090", "A100")),
            location=dice.choice(("", "", "US", "DE", "fr")),
            verified_only=dice.random() < 0.6,
            min_reliability=round(dice.choice((0.0, dice.uniform(0.9, 0.95))), 4),
            num_gpus=dice.choice((0, 0, 0, 1)),
        )
        wanted = OfferFilter(
            min_vram=request.min_vram,
            max_price=1_000.0,
            gpu_model=request.gpu_model,
            location=request.location,
            verified_only=request.verified_only,
            min_reliability=request.min_reliability,
            num_gpus=request.num_gpus,
        )
        found = snapshot.select(wanted).offers
        if len(found) > MATCHING:
            last = found[MATCHING - 1]
            request.max_price = last.lowest_limit(wanted.disk_gb) / 1_000_000
            if request not in made:
                made.append(request)
    return made


def marketplace(market: Sequence[Offer]) -> Provider:
    """A Provider whose searches find these offers, and who rents nothing."""
    return cast("Provider", _Marketplace(market))


class _Marketplace:
    """What is asked of it in measurements."""

    name = NAME
    account = "bench"
    capabilities = Capabilities()

    def __init__(self, market: Sequence[Offer]) -> None:
        self._market = market

    def check_launch(self, spec: object) -> Sequence[Violation]:
        """Everything could be launched."""
        del spec
        return ()

    async def search(self, wanted: OfferFilter) -> AsyncIterator[Sequence[Offer]]:
        """Everything, by pages."""
        del wanted
        for start in range(0, len(self._market), _PAGE):
            yield self._market[start : start + _PAGE]

    async def create(self, offer: Offer, spec: object, label: str) -> Receipt:
        """Never."""
        raise NotSupported(f"{offer.id} is not to be rented, {label}, {spec}")

    async def list(self) -> Inventory:
        """Nothing."""
        return Inventory(instances=())

    async def get(self, instance_id: InstanceId) -> ListedInstance | None:
        """None."""
        del instance_id
        return None

    async def destroy(self, instance_id: InstanceId) -> bool:
        """There is nothing."""
        del instance_id
        return True

    async def start(self, instance_id: InstanceId) -> None:
        """Not for measurements."""
        raise NotSupported(f"{instance_id} is not rented")

    async def stop(self, instance_id: InstanceId) -> None:
        """Not for measurements."""
        raise NotSupported(f"{instance_id} is not rented")

    async def logs(self, instance_id: InstanceId, lines: int) -> Sequence[str]:
        """Not for measurements."""
        raise NotSupported(f"{instance_id} is not rented and has no {lines} lines")

    async def charges(self, since: datetime, until: datetime) -> Mapping[InstanceId, Micro]:
        """Nothing is rented."""
        raise NotSupported(f"nothing was charged from {since} to {until}")

    async def spend(self) -> Spend:
        """Of nothing."""
        return Spend(credit=Micro(0))
