"""Random operations in random order: no GPU is rented twice, and the used GPUs are those of the instances."""

import random

import pytest

from gpuproxy.sandbox.market.instances import HOLDS_GPU
from tests.sandbox.shop import KEY, OTHER_KEY, Shop

pytestmark = pytest.mark.long


@pytest.mark.parametrize("seed", range(5))
def test_no_gpu_is_ever_rented_twice(seed: int) -> None:
    rng = random.Random(seed)
    shop = Shop(machines=25, seed=seed)
    for _ in range(300):
        _something_happens(shop, rng)
        _held_once(shop)
    state = shop.state()
    assert state["bill_micro_usd"] == sum(row["billed_micro_usd"] for row in state["instances"])
    assert len({row["id"] for row in state["instances"]}) == len(state["instances"]) > 10


def _something_happens(shop: Shop, rng: random.Random) -> None:
    shop.wait(rng.uniform(0, 60))
    key = rng.choice((KEY, OTHER_KEY))
    contract = rng.choice([row.id for row in shop.sandbox.market.of(key)] or [1])
    match rng.randrange(8):
        case 0 | 1 | 2:
            offers = shop.search(verified="any", disable_bundling=True, rentable=rng.choice(("any", {"eq": True})))
            shop.create(rng.choice(offers or [{"id": 1}])["id"], key)
        case 3:
            shop.destroy(contract, key)
        case 4:
            shop.manage(contract, key, state="stopped")
        case 5:
            shop.manage(contract, key, state="running")
        case 6:
            machine = rng.choice(list(shop.sandbox.market.machines))
            what = rng.choice(("occupy", "vacate", "reconnect"))
            shop.control("POST", f"machines/{machine}/{what}", {"gpus": rng.randrange(1, 5)})
        case 7:
            how = rng.choice(("container", "gpu", "host", "outbid"))
            shop.ask("POST", f"/sandbox/v1/instances/{contract}/kill", {"how": how})


def _held_once(shop: Shop) -> None:
    market = shop.sandbox.market
    held = dict.fromkeys(market.machines, 0)
    for instance in market.instances.values():
        if instance.phase in HOLDS_GPU:
            assert not held[instance.machine_id] & instance.mask
            held[instance.machine_id] |= instance.mask
    assert held == {number: machine.rented for number, machine in market.machines.items()}
    assert not any(machine.rented & machine.strangers for machine in market.machines.values())
    assert all(market.chunks[chunk.offer_id] is chunk for one in market.machines.values() for chunk in one.chunks)
