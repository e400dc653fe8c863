"""Random calls of io.net in random order: GPUs are booked once, money adds up, and a restart changes nothing."""

import random
from pathlib import Path

import pytest

from gpuproxy.sandbox.market.prepaid.bookings import ENDED
from tests.sandbox.ionet_shop import CAAS, HOUR, KEY, VM, IoShop
from tests.sandbox.shop import OTHER_KEY


@pytest.mark.parametrize("seed", range(4))
def test_gpus_are_booked_once_and_money_adds_up(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    shop = IoShop(seed=seed, state=tmp_path / "market.state", credit=300.0)
    for step in range(150):
        _something_happens(shop, rng)
        _holds(shop)
        if step % 50 == 25:
            before = shop.control("GET", "state")
            shop = shop.reopened()
            assert shop.control("GET", "state") | {"calls": {}} == before | {"calls": {}}  # the last ones are not saved
    state = shop.control("GET", "state")
    assert len(state["instances"]) > 10
    assert {row["status"] for row in state["instances"]} >= {"completed", "destroyed"}
    assert state["bill_micro_usd"] == sum(row["billed_micro_usd"] for row in state["instances"])


def _something_happens(shop: IoShop, rng: random.Random) -> None:
    shop.wait(rng.choice((1, 30, 600, HOUR)))
    key = rng.choice((KEY, OTHER_KEY))
    number = rng.choice(list(shop.sandbox.prepaid.bookings) or ["none"])
    product = rng.choice((VM, VM, CAAS))
    match rng.randrange(7):
        case 0 | 1 | 2:
            row = rng.choice(shop.hardware())
            wanted = {"hardware_id": row["deploy_id"], "gpus_per_vm": row["num_cards"]}
            shop.deploy(key, **wanted, location_ids=[row["location"]], duration_hours=rng.randint(1, 5))
        case 3:
            shop.container(duration_hours=rng.randint(1, 3), location_ids=[rng.choice(("US", "DE"))])
        case 4:
            shop.ask("DELETE", f"{product}/deployment/{number}", key=key)
        case 5:
            shop.ask("POST", f"{product}/deployment/{number}/extend", {"duration_hours": 1}, key)
        case 6:
            what = rng.choice(("occupy", "vacate", "reconnect"))
            shop.control("POST", f"machines/{rng.choice(list(shop.sandbox.prepaid.hosts))}/{what}", {"gpus": 2})
            how = rng.choice(("container", "gpu", "host"))
            shop.ask("POST", f"/sandbox/v1/instances/{number}/kill", {"how": how}, None)


def _holds(shop: IoShop) -> None:
    shop.sandbox.tick()
    market = shop.sandbox.prepaid
    held = dict.fromkeys(market.hosts, 0)
    for booking in market.bookings.values():
        assert 0 <= booking.refunded <= booking.paid
        if booking.stage not in ENDED:
            for host in booking.hosts:
                held[host] += booking.order.cards
    assert held == {host.id: host.rented for host in market.hosts.values()}
    assert all(0 <= host.rented + host.strangers <= host.gpus for host in market.hosts.values())
    assert all(market.credit(account) >= 0 for account in market.accounts)
