"""The rows that the random operations begin with."""

from datetime import datetime, timedelta

from gpuproxy.model.leases import Creation, Lease, LeaseId, LeaseState, Observed, Offered, Prepaid, ReservationId
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import HostKey, OfferId, ProviderName
from gpuproxy.model.reservations import Reservation


def made_reservation(number: int, project: str, key_id: str, now: datetime, lasts: timedelta | None) -> Reservation:
    return Reservation(
        id=ReservationId(f"res-{number}"), project=project, request_id="", fingerprint="", count=1, least=0, keep=True,
        strategy="least_connections", labels=(), created_at=now, expires_at=None if lasts is None else now + lasts,
        version=1, replace_unready=True, ready_timeout_s=900.0, key_id=key_id,
    )  # fmt: skip


def made_lease(owner: Reservation, number: int, price: int, *, prepaid: bool, kept: int = 0) -> Lease:
    return Lease(
        id=LeaseId(f"lease-{number}"), reservation_id=owner.id, project=owner.project, attempt=1,
        provider=ProviderName("vast.ai"), account="vast-1", label=f"label-{number}", version=1,
        state=LeaseState.REQUESTED,
        created_at=owner.created_at, expires_at=owner.expires_at, grace_s=kept,
        offered=Offered(
            offer_id=OfferId(f"o-{number}"), host=HostKey(f"vast.ai/{number}"), conflict_keys=(), gpu_model="RTX 4090",
            num_gpus=1, vram_gb=24, location="",
        ),
        creation=Creation(ceiling=Micro(10**9)),
        observed=Observed(price=Micro(price), disk_price=Micro(price // 20)),
        prepaid=Prepaid(booked_hours=1, refund_after=3600.0) if prepaid else Prepaid(),
    )  # fmt: skip
