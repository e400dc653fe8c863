"""Renting a volume: the lease of the intent, and the create, which is sent once and whose outcome is recorded."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar

from gpuproxy.model.errors import ProviderError, Refused
from gpuproxy.model.leases import Creation, Lease, LeaseId, LeaseState, Observed, Offered
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import AccountKey, HostKey
from gpuproxy.model.reservations import Reservation
from gpuproxy.outcomes import record
from gpuproxy.ports import Clock, Database, Provider, Tx, VolumeOffer
from gpuproxy.runtime.persist import write_until_committed

T = TypeVar("T")
NOT_SENT = "The volume was not created, because the account is paused."


def volume_lease(
    ledger: Reservation,
    account: AccountKey,
    offer: VolumeOffer,
    size_gb: int,
    *,
    attempt: int,
    label: str,
    at: datetime,
) -> Lease:
    """The lease of a volume that is about to be rented for a reservation."""
    price = offer.price(size_gb)
    return Lease(
        id=LeaseId(f"{ledger.id.replace('res-', 'lease-')}-{attempt:02d}"),
        reservation_id=ledger.id,
        project=ledger.project,
        attempt=attempt,
        provider=account[0],
        account=account[1],
        label=label,
        state=LeaseState.REQUESTED,
        version=1,
        created_at=at,
        expires_at=ledger.expires_at,
        kind="volume",
        offered=Offered(
            offer_id=offer.id,
            # A host of its own, so that what happens to volumes is not counted as what its GPUs do.
            host=HostKey(f"{account[0]}/volumes/{offer.machine_id}"),
            conflict_keys=(),
            gpu_model="",
            num_gpus=0,
            vram_gb=0,
            location="",
            disk_gb=float(size_gb),
        ),
        creation=Creation(ceiling=volume_ceiling(offer, size_gb)),
        observed=Observed(price=price, disk_price=price, contract_ends_at=offer.ends_at),
    )


def volume_ceiling(offer: VolumeOffer, size_gb: int) -> Micro:
    """The highest price per hour at which a volume is kept. The listing may round differently than the offer."""
    price = offer.price(size_gb)
    return Micro(price + price // 50 + 10)


async def create_volume(  # noqa: PLR0917 - the ports, then what is rented
    db: Database,
    clock: Clock,
    provider: Provider,
    offer: VolumeOffer,
    lease: Lease,
    latest: datetime,
    require: Callable[[Tx], None],
) -> str:
    """Send the create of a lease once, and record its outcome. Returns why nothing was rented; "" if it may have been.

    `latest` and `require`: as for `record.call_started`.
    """
    patience = timedelta(seconds=provider.capabilities.create_timeout * clock.scale)

    async def write(unit: Callable[[Tx], T]) -> T:
        return await write_until_committed(db, clock, unit, lease.id)

    sent = await write(lambda tx: record.call_started(tx, lease.id, patience, latest, 0.0, require=require))
    if not sent:
        return NOT_SENT
    try:
        receipt = await provider.create_volume(offer, int(lease.offered.disk_gb), lease.label)
    except Refused as error:
        refusal = error
        await write(lambda tx: record.refused(tx, lease.id, refusal))
        return str(refusal)
    except ProviderError as lost:
        text = str(lost)
        await write(lambda tx: record.reply_lost(tx, lease.id, text))
        return ""
    await write(lambda tx: record.created(tx, lease.id, receipt))
    return ""
