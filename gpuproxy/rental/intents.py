"""The intent: what is about to be paid for, committed before anything is sent.

One unit of work stores a new owner, or checks that the stored owner still wants machines. It then writes a lease for
each pick, with its label, price ceiling, account, booking and hold, and the keys that exclude other leases
from the same GPUs.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from math import inf

from gpuproxy import boot
from gpuproxy.loadbalancer.choice import Terms
from gpuproxy.model import self_ending
from gpuproxy.model.demands import LaunchSpec
from gpuproxy.model.errors import Conflict, TurnTaken
from gpuproxy.model.labels import Signer
from gpuproxy.model.lease_events import NotAttempted
from gpuproxy.model.leases import (
    KEEPABLE,
    Creation,
    Lease,
    LeaseId,
    LeaseState,
    Observed,
    Offered,
    Pending,
    Prepaid,
    ReservationId,
)
from gpuproxy.model.load import Rotation
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import AccountKey, Offer, OfferFilter
from gpuproxy.model.owners import Owner
from gpuproxy.model.reasons import Reason
from gpuproxy.ports import Capabilities, Tx
from gpuproxy.runtime.regions import Regions
from gpuproxy.store import account_problems, leases, owners, rotations


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What `write` stores. `latest` is the last time at which a create may be sent."""

    owner: Owner
    insert: Callable[[Tx], None] | None
    """Stores the owner with its first leases; None if the owner is already stored."""
    read: Callable[[Tx], Owner]
    picks: tuple[Offer, ...]
    wanted: OfferFilter
    spec: LaunchSpec
    terms: Terms
    waits: Mapping[AccountKey, Sequence[float]]
    """For each account, the seconds until this project's next turn, behind 0, 1, 2, ... more of its creates."""
    latest: datetime
    prepaid_hours: int
    """How many hours a create books where the marketplace is paid in advance."""
    suits: Callable[[AccountKey, int], int | None] = lambda _account, _more: 0
    """How well an account suits, behind so many more creates of this intent: see Circuit.rank."""
    admit: Callable[[Tx, Sequence[Lease]], None]
    """Holds the money for the new leases: see `outcomes.spending`. Raises BudgetExceeded, or the error of a quota."""
    regions: Regions = Regions()  # noqa: RUF009 - frozen
    max_unknown: int | None = None
    """The number of unknown outcomes with which an account is no longer used; None: any number."""
    rotation: Rotation | None = None
    """The state of a rotating strategy after these picks; None for other strategies."""


def write(tx: Tx, intent: Intent, signer: Signer) -> tuple[Lease, ...]:
    """Write the intent and return the new leases.

    Raises Conflict when the owner takes no more machines, TurnTaken when the choice must be made again, and
    BudgetExceeded, or the error of a quota, when the money for all of them can't be held. Then nothing is written.
    """
    tx.before_spending()
    if intent.insert is not None:
        intent.insert(tx)
        earlier: tuple[Lease, ...] = ()
    else:
        intent = replace(intent, owner=_open(intent.read(tx)))  # its end may have moved since
        earlier = owners.leases_of(tx, intent.owner.id)
    gpus = sum(lease.offered.num_gpus for lease in earlier if lease.state in KEEPABLE)
    if gpus + sum(offer.num_gpus for offer in intent.picks) > intent.owner.gpus:
        raise Conflict(f"{intent.owner.kind} {intent.owner.id} would hold more GPUs than it wants")
    if intent.rotation is not None:
        rotations.save(tx, intent.owner.strategy, intent.rotation)
    first_attempt = 1 + max((lease.attempt for lease in earlier), default=0)
    slot = intent.owner.id.removeprefix("res-").removeprefix("pool-")
    queued: Counter[AccountKey] = Counter()
    made: list[Lease] = []
    usable = _usable(tx, intent)
    for attempt, offer in enumerate(intent.picks, start=first_attempt):
        account, wait = _turn(tx, intent, offer, queued, usable)
        row = _lease(intent, offer, account, attempt=attempt, label=signer.label(slot, attempt), now=tx.now())
        leases.insert(tx, row)
        if wait < inf and tx.now() + timedelta(seconds=wait) <= intent.latest:
            queued[offer.provider, account] += 1
        else:
            row = leases.advance(tx, row, NotAttempted(Reason.NOT_ATTEMPTED))
        made.append(row)
    intent.admit(tx, made)
    return tuple(made)


def planned(tx: Tx, intent: Intent) -> tuple[Lease, ...]:
    """The leases that `write` would write and attempt. Nothing is written. Raises TurnTaken."""
    queued: Counter[AccountKey] = Counter()
    made: list[Lease] = []
    usable = _usable(tx, intent)
    for attempt, offer in enumerate(intent.picks, start=1):
        account, wait = _turn(tx, intent, offer, queued, usable)
        if wait < inf and tx.now() + timedelta(seconds=wait) <= intent.latest:
            queued[offer.provider, account] += 1
            made.append(_lease(intent, offer, account, attempt=attempt, label="", now=tx.now()))
    return tuple(made)


def is_usable(tx: Tx, account: AccountKey, max_unknown: int | None) -> bool:
    """False for an account that is paused, or that has as many unknown outcomes as this (None: any number)."""
    if account in account_problems.paused(tx):
        return False
    return max_unknown is None or leases.count_unknown(tx, account) < max_unknown


def _usable(tx: Tx, intent: Intent) -> Callable[[AccountKey], bool]:
    """Whether an account may be used. Nothing that an intent writes changes it, so each account is asked for once."""
    return cache(lambda account: is_usable(tx, account, intent.max_unknown))


def _open(owner: Owner) -> Owner:
    if owner.closing or owner.concluded:
        raise Conflict(f"{owner.kind} {owner.id} takes no more machines")
    return owner


def _lease(intent: Intent, offer: Offer, account: str, *, attempt: int, label: str, now: datetime) -> Lease:
    spec, able = intent.spec, intent.terms[offer.provider][account]
    keys = () if spec.run_mode == "entrypoint" else spec.ssh_public_keys
    price = offer.price(intent.wanted.disk_gb)
    return Lease(
        id=LeaseId(f"{intent.owner.id.replace('res-', 'lease-')}-{attempt:02d}"),
        reservation_id=ReservationId(intent.owner.id),
        project=intent.owner.project,
        attempt=attempt,
        provider=offer.provider,
        account=account,
        label=label,
        state=LeaseState.REQUESTED,
        version=1,
        created_at=now,
        expires_at=intent.owner.wanted_until,
        grace_s=0 if "stop_start" in able.missing else intent.owner.grace_s,
        release_idle_s=intent.owner.release_idle_s,
        offered=_offered(offer, intent.wanted.disk_gb),
        creation=Creation(
            ceiling=intent.wanted.ceiling(offer.num_gpus),
            run_mode=spec.run_mode,
            asked_ports=spec.ports,
            ssh_keys=keys,
            volume=spec.volume.volume_id if spec.volume is not None else "",
        ),
        observed=Observed(
            price=price,
            disk_price=Micro(price - offer.gpu_price),
            boot=_boot_parts(intent.owner, spec, able),
            contract_ends_at=offer.expires_at,
        ),
        pending=Pending(
            keys_state="pending" if keys and "ssh_keys" not in able.missing else "",
            stop_at=now if spec.stopped else None,
        ),
        prepaid=Prepaid(
            booked_hours=intent.prepaid_hours if able.billing == "prepaid" else 0, refund_after=able.refund_after
        ),
    )


def _boot_parts(owner: Owner, spec: LaunchSpec, able: Capabilities) -> tuple[tuple[str, str], ...]:
    """The parts that the boot script can report. A machine with an end ends itself, if the marketplace lets it."""
    if not able.boot_script:
        return ()
    if owner.kind != "reservation" or owner.wanted_until is None or able.billing == "prepaid":
        return boot.parts_of(spec)
    if (why := able.missing.get(self_ending.CAPABILITY)) is not None:
        return tuple(sorted((*boot.parts_of(spec), (self_ending.PART, f"unsupported {why}"))))
    return boot.parts_of(replace(spec, self_ending=True))


def _offered(offer: Offer, disk_gb: float) -> Offered:
    return Offered(
        offer_id=offer.id,
        host=offer.host,
        conflict_keys=offer.conflict_keys,
        gpu_model=offer.gpu_model,
        num_gpus=offer.num_gpus,
        vram_gb=offer.vram_gb,
        location=offer.location,
        disk_gb=disk_gb,
        reliability_ppm=offer.reliability_ppm,
        verified=offer.verified,
        cuda_max=offer.cuda_max,
        host_gpus=offer.host_gpus,
        extras=tuple(sorted(offer.extras.items())),
    )


def _turn(
    tx: Tx, intent: Intent, offer: Offer, queued: Counter[AccountKey], usable_now: Callable[[AccountKey], bool]
) -> tuple[str, float]:
    """The account to rent with, and the seconds until its turn; infinite if none may send another create now.

    Healthy accounts come first, then those of the offer's region, then those with the earliest turn, then those
    configured first. An account whose turn is too late comes behind all others.
    Raises TurnTaken when no account is left that may rent the offer, because accounts were paused since the choice.
    """
    provider = offer.provider
    preferences = intent.regions.preferences(offer, intent.terms[provider])
    usable = [each for each in preferences if usable_now((provider, each))]
    if not usable:
        raise TurnTaken(f"every account of {provider} is paused")
    turns = []
    for order, account in enumerate(usable):
        key = (provider, account)
        suits, wait = intent.suits(key, queued[key]), intent.waits[key][queued[key]]
        if suits is not None:
            late = tx.now() + timedelta(seconds=wait) > intent.latest
            turns.append((late, suits, preferences[account], wait, order, account))
    if not turns:
        return usable[0], inf
    *_, wait, _, account = min(turns)
    return account, wait
