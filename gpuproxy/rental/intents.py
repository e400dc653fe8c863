"""The intent: what is about to be paid for, committed before anything is sent.

One unit of work writes the reservation (or finds it still open), a lease for each pick with its label, ceiling and
account, and the holds that keep others from the same GPUs.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from gpuproxy.loadbalancer.choice import Terms
from gpuproxy.model.errors import Conflict, TurnTaken
from gpuproxy.model.labels import Signer
from gpuproxy.model.leases import KEEPABLE, Lease, LeaseEvent, LeaseId, LeaseState, ReservationId
from gpuproxy.model.load import Rotation
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import AccountKey, Offer, OfferFilter, ProviderName
from gpuproxy.model.reservations import NOT_ATTEMPTED, Reservation
from gpuproxy.ports import Tx
from gpuproxy.store import account_problems, leases, reservations, rotations


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What is to be written; `latest` is the last moment at which a create may still be sent."""

    reservation: Reservation
    first: bool
    picks: tuple[Offer, ...]
    wanted: OfferFilter
    terms: Terms
    waits: Mapping[AccountKey, Sequence[float]]
    """The seconds until an account's turn for this project comes, behind no, one, two ... more creates of it."""
    latest: datetime
    rotation: Rotation | None = None
    """Where the strategy stands after these picks, if it takes turns."""


def write(tx: Tx, intent: Intent, signer: Signer) -> tuple[Lease, ...]:
    """The new leases; Conflict when the reservation was closed or settled meanwhile, TurnTaken: choose again."""
    tx.before_spending()
    if intent.first:
        reservations.insert(tx, intent.reservation)
        earlier: tuple[Lease, ...] = ()
    else:
        intent = replace(intent, reservation=_open(tx, intent.reservation.id))  # its end may have moved since
        earlier = leases.of_reservation(tx, intent.reservation.id)
    gpus = sum(lease.num_gpus for lease in earlier if lease.state in KEEPABLE)
    if gpus + sum(offer.num_gpus for offer in intent.picks) > intent.reservation.count:
        raise Conflict(f"reservation {intent.reservation.id} would hold more GPUs than were asked for")
    if intent.rotation is not None:
        rotations.save(tx, intent.reservation.strategy, intent.rotation)
    first_attempt = 1 + max((lease.attempt for lease in earlier), default=0)
    slot = intent.reservation.id.removeprefix("res-")
    queued: Counter[AccountKey] = Counter()
    made: list[Lease] = []
    for attempt, offer in enumerate(intent.picks, start=first_attempt):
        account, wait = _turn(tx, intent, offer.provider, queued)
        row = _lease(intent, offer, account, attempt=attempt, label=signer.label(slot, attempt), now=tx.now())
        leases.insert(tx, row)
        if tx.now() + timedelta(seconds=wait) <= intent.latest:
            queued[offer.provider, account] += 1
        else:
            row = leases.advance(tx, row, LeaseEvent.NOT_ATTEMPTED, reason=NOT_ATTEMPTED)
        made.append(row)
    return tuple(made)


def _open(tx: Tx, reservation_id: ReservationId) -> Reservation:
    reservation = reservations.get(tx, reservation_id)
    if reservation.closing or reservation.settled_at is not None:
        raise Conflict(f"reservation {reservation.id} takes no more machines")
    return reservation


def _lease(intent: Intent, offer: Offer, account: str, *, attempt: int, label: str, now: datetime) -> Lease:
    return Lease(
        id=LeaseId(f"{intent.reservation.id.replace('res-', 'lease-')}-{attempt:02d}"),
        reservation_id=intent.reservation.id,
        project=intent.reservation.project,
        attempt=attempt,
        provider=offer.provider,
        account=account,
        label=label,
        offer_id=offer.id,
        host=offer.host,
        conflict_keys=offer.conflict_keys,
        gpu_model=offer.gpu_model,
        num_gpus=offer.num_gpus,
        vram_gb=offer.vram_gb,
        location=offer.location,
        disk_gb=intent.wanted.disk_gb,
        reliability_ppm=offer.reliability_ppm,
        verified=offer.verified,
        cuda_max=offer.cuda_max,
        host_gpus=offer.host_gpus,
        price=offer.price(intent.wanted.disk_gb),
        disk_price=Micro(offer.price(intent.wanted.disk_gb) - offer.gpu_price),
        ceiling=intent.wanted.ceiling(offer.num_gpus),
        state=LeaseState.REQUESTED,
        version=1,
        created_at=now,
        expires_at=intent.reservation.expires_at,
        extras=tuple(sorted(offer.extras.items())),
    )


def _turn(tx: Tx, intent: Intent, provider: ProviderName, queued: Counter[AccountKey]) -> tuple[str, float]:
    """The account whose turn comes first, the earlier configured one of equals, and the seconds until then.

    TurnTaken: all are paused by now.
    """
    paused = account_problems.paused(tx)
    turns = [
        (intent.waits[provider, account][queued[provider, account]], order, account)
        for order, account in enumerate(intent.terms[provider])
        if (provider, account) not in paused
    ]
    if not turns:
        raise TurnTaken(f"every account of {provider} is paused")
    wait, _, account = min(turns)
    return account, wait
