import random
from datetime import UTC, datetime, timedelta

from gpuproxy.model.leases import InstanceId, LeaseId, ReservationId
from gpuproxy.model.money import Micro, accrued
from gpuproxy.model.offers import ProviderName
from gpuproxy.model.transactions import Meter, count, newest

T0 = datetime(2026, 6, 12, 12, 40, tzinfo=UTC)
NOW = T0 + timedelta(days=2)


def meter(
    opened: datetime = T0, closed: datetime | None = None, rate: int = 400_000, lease: str = "lease-a-01"
) -> Meter:
    return Meter(
        lease_id=LeaseId(lease),
        reservation_id=ReservationId("res-a"),
        provider=ProviderName("vast.ai"),
        instance_id=InstanceId("9001"),
        gpu_model="RTX 4090",
        num_gpus=2,
        storage=False,
        rate=Micro(rate),
        opened_at=opened,
        closed_at=closed,
    )


def test_a_running_meter_is_split_at_each_full_hour_and_has_one_pending_part() -> None:
    now = T0 + timedelta(hours=2, minutes=5)
    parts = newest([meter()], [], now, 0, 50)
    assert [(f"{part.started_at:%H:%M}", f"{part.ended_at:%H:%M}", part.pending) for part in parts] == [
        ("14:00", "14:45", True),
        ("13:00", "14:00", False),
        ("12:40", "13:00", False),
    ]
    assert [part.amount for part in parts] == [300_000, 400_000, 133_333]
    assert parts[1].gpu_hours == 2.0


def test_a_meter_that_has_stopped_is_completed_to_its_end() -> None:
    parts = newest([meter(closed=T0 + timedelta(minutes=50))], [], NOW, 0, 50)
    assert [part.pending for part in parts] == [False, False]
    assert parts[0].ended_at == T0 + timedelta(minutes=50)


def test_a_stop_at_the_full_hour_leaves_no_empty_part() -> None:
    hour = T0.replace(minute=0) + timedelta(hours=1)
    assert len(newest([meter(closed=hour)], [], NOW, 0, 50)) == count(meter(closed=hour), NOW) == 1
    assert newest([meter(opened=hour, closed=hour)], [], NOW, 0, 50) == []
    assert count(meter(opened=hour, closed=hour), NOW) == 0


def test_a_part_keeps_its_id_when_it_is_completed() -> None:
    pending = newest([meter()], [], T0 + timedelta(minutes=10), 0, 1)[0]
    later = newest([meter()], [], T0 + timedelta(minutes=30), 0, 50)
    assert pending.pending
    assert [part.id for part in later if not part.pending] == [pending.id]


def test_the_parts_add_up_to_the_meter_exactly_and_pages_to_the_list() -> None:
    for seed in range(50):
        dice = random.Random(seed)
        meters = []
        for number in range(dice.randrange(1, 6)):
            opened = T0 + timedelta(microseconds=dice.randrange(10**11))
            closed = opened + timedelta(microseconds=dice.randrange(6 * 10**10)) if dice.random() < 0.7 else None
            meters.append(meter(opened, closed, dice.randrange(1, 3_000_000), f"lease-{number}"))
        whole = newest(meters, [], NOW, 0, 100_000)
        assert len(whole) == sum(count(each, NOW) for each in meters)
        assert len({part.id for part in whole}) == len(whole)
        for each in meters:
            end = each.closed_at or NOW
            mine = [part for part in whole if part.meter is each]
            assert sum(part.amount for part in mine) == accrued(each.rate, max(timedelta(0), end - each.opened_at))
            assert sum(part.pending for part in mine) == (each.closed_at is None)
        assert [part.ended_at for part in whole] == sorted((part.ended_at for part in whole), reverse=True)
        paged = [part for offset in range(0, len(whole), 7) for part in newest(meters, [], NOW, offset, 7)]
        assert paged == whole
