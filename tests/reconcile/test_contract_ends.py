"""The marketplace's contract of a machine may end before its lease: the owner is told in time."""

from datetime import timedelta
from typing import Any

import pytest

from gpuproxy.model import contracts
from gpuproxy.model.leases import LeaseState
from gpuproxy.ports import InstanceStatus
from gpuproxy.reconcile.steps import Note
from tests.scenes import NOON, Account, lease_of, row

HOUR = timedelta(hours=1)


def _warned(account: Account, seconds: float, **facts: Any) -> bool:
    steps = account.sees(seconds, row(InstanceStatus.RUNNING, **facts))
    account.applies([step for step in steps if isinstance(step, Note)])
    return contracts.warning(account.lease) != ""


@pytest.mark.parametrize(
    ("lease_hours", "contract_hours", "warned"),
    [(24, 23, True), (24, 24, False), (24, 25, False), (None, 71, True), (None, 73, False), (24, None, False)],
)
def test_a_contract_that_ends_before_its_lease_is_warned_about(
    lease_hours: float | None, contract_hours: float | None, *, warned: bool
):
    account = Account(lease_of(expires_at=None if lease_hours is None else NOON + lease_hours * HOUR))
    ends_at = None if contract_hours is None else NOON + contract_hours * HOUR
    assert _warned(account, 60, ends_at=ends_at) is warned


def test_a_warning_ends_when_the_host_extends_the_contract():
    account = Account(lease_of(expires_at=NOON + 24 * HOUR))
    assert _warned(account, 60, ends_at=NOON + HOUR)
    assert _warned(account, 62, ends_at=NOON + HOUR)
    assert account.lease.observed.contract_warned_at == NOON + timedelta(seconds=60)
    assert not _warned(account, 64, ends_at=NOON + 48 * HOUR)


def test_a_listing_without_the_end_keeps_the_last_one():
    account = Account(lease_of(expires_at=NOON + 24 * HOUR))
    assert _warned(account, 60, ends_at=NOON + HOUR)
    assert _warned(account, 62, ends_at=None)


def test_a_warning_says_both_ends_and_what_to_do():
    account = Account(lease_of(expires_at=NOON + 24 * HOUR))
    _warned(account, 60, ends_at=NOON + HOUR)
    text = contracts.warning(account.lease)
    assert "vast.ai 1: 2026-06-12 13:00Z; the lease: 2026-06-13 12:00Z" in text
    assert "Copy the data" in text


def test_a_machine_that_is_being_released_has_no_warning():
    lease = lease_of(state=LeaseState.RELEASING, contract_ends_at=NOON, contract_warned_at=NOON)
    assert contracts.warning(lease) == ""
