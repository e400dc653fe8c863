"""What a machine will still cost: at its present price, up to the end of its lease."""

from datetime import timedelta
from typing import Any

import pytest

from gpuproxy.model.cost_ahead import cost_to_end, costs_to_end
from gpuproxy.model.leases import Lease, LeaseState
from gpuproxy.model.money import Micro
from tests.scenes import NOON, lease_of

HOUR = timedelta(hours=1)


def machine(state: LeaseState = LeaseState.ACTIVE, hours: float | None = 2.5, **facts: Any) -> Lease:
    return lease_of(1, state=state, expires_at=None if hours is None else NOON + hours * HOUR, **facts)


@pytest.mark.parametrize(
    ("lease", "ahead"),
    [
        (machine(), 750_000),
        (machine(LeaseState.STARTING), 750_000),
        (machine(LeaseState.PARKED), 25_000),
        (machine(hours=-1.0), 0),
        (machine(hours=None), None),
        (machine(LeaseState.RELEASING), None),
        (machine(LeaseState.RELEASED), None),
        (machine(LeaseState.UNKNOWN), None),
        (machine(booked_hours=2, booked_until=NOON + HOUR), 600_000),
        (machine(booked_hours=3, booked_until=NOON + 2.5 * HOUR), 0),
        (machine(booked_hours=3, booked_until=NOON + 3 * HOUR), 0),
    ],
)
def test_the_rest_of_a_lease_costs_its_present_price(lease: Lease, ahead: int | None) -> None:
    assert cost_to_end(lease, NOON) == ahead


def test_a_reservation_has_a_cost_to_its_end_only_if_all_its_machines_have() -> None:
    assert costs_to_end([machine(), machine(LeaseState.PARKED), machine(LeaseState.LOST)], NOON) == Micro(775_000)
    assert costs_to_end([machine(), machine(hours=None)], NOON) is None
    assert costs_to_end([machine(LeaseState.RELEASED)], NOON) is None
