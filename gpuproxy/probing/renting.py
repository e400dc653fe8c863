"""Renting for a probe: the intent is committed before each create, and the price of the longest life is held before it.

Everything that a probe rents belongs to one reservation, which is not concluded before the probe ends. So if the
process dies, recovery releases everything, as for any call whose process has died. If that takes too long, the machines
expire.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from gpuproxy.loadbalancer.exclusions import Exclusions
from gpuproxy.model.demands import Caller, LaunchSpec, VolumeMount
from gpuproxy.model.errors import ClaimLost, Conflict, FailedPrecondition, Taken, TurnTaken
from gpuproxy.model.leases import Lease, LeaseId, LeaseState, ReservationId
from gpuproxy.model.money import Micro, dollars
from gpuproxy.model.offers import AccountKey, Offer, OfferFilter
from gpuproxy.model.probes import WANTED_SECONDS
from gpuproxy.model.reasons import Reason
from gpuproxy.model.reservations import Reservation
from gpuproxy.outcomes import spending
from gpuproxy.ports import Provider, Random, Tx, VolumeOffer
from gpuproxy.probing.ground import DISK_GB, VOLUME_GB, held, machine_ceiling
from gpuproxy.rental import intents
from gpuproxy.rental.rounds import RentalContext
from gpuproxy.rental.volumes import create_volume, volume_ceiling, volume_lease
from gpuproxy.runtime.claims import HeldClaim
from gpuproxy.runtime.persist import write_until_committed
from gpuproxy.store import leases, reservations

LABEL = "gpuproxy.probe"
"""The label of the reservation of a probe; its value is the marketplace."""
MOUNT = "/gpuproxy-probe"
_TURN_SECONDS = 300.0
"""The longest wait for a turn of the account."""


class NotRented(Exception):
    """Nothing was rented. The text says why."""

    def __init__(self, why: str, *, volume_in_use: bool = False) -> None:
        super().__init__(why)
        self.volume_in_use = volume_in_use
        """The marketplace does not give the volume to another machine."""


def ledger(account: AccountKey, caller: Caller, gpus: int, random: Random, now: datetime) -> Reservation:
    """The reservation that will have everything of a probe, at most `gpus` GPUs at a time."""
    return Reservation(
        id=ReservationId(f"res-{random.token(8)}"),
        project=caller.project,
        request_id="",
        fingerprint="",
        count=gpus,
        least=0,
        keep=False,
        strategy="",
        labels=((LABEL, account[0]),),
        created_at=now,
        expires_at=now + timedelta(seconds=WANTED_SECONDS),
        version=1,
        replace_unready=False,
        ready_timeout_s=WANTED_SECONDS,
        key_id=caller.key_id,
    )


@dataclass(slots=True)
class ProbeRenting:
    """Rents for one probe with one account."""

    context: RentalContext
    provider: Provider
    reservation: Reservation
    claim: HeldClaim
    budget: Micro
    stop: asyncio.Event
    held: int = 0
    """Micro-dollars that are held for what was rented, or may have been."""

    @property
    def account(self) -> AccountKey:
        """The account that everything is rented with."""
        return self.provider.name, self.provider.account

    async def begin(self, *, before: Callable[[Tx], None], after: Callable[[Tx], None]) -> None:
        """Store the reservation, without machines, and claim it. The same unit does `before` and `after`."""

        def write(tx: Tx) -> None:
            before(tx)
            reservations.insert(tx, self.reservation)
            self.claim.take(tx, self.claim.made_at)
            after(tx)

        await self.context.db.write(write)

    async def volume(self, offer: VolumeOffer) -> Lease:
        """Rent a volume. Raises NotRented."""
        most = self._hold(volume_ceiling(offer, VOLUME_GB))
        context, latest = self.context, self._latest()
        lease = await self._intended(lambda tx: self._intend_volume(tx, offer), most)
        why = await create_volume(context.db, context.clock, self.provider, offer, lease, latest, self.claim.require)
        return await self._rented(lease, most, why)

    async def machine(
        self, offer: Offer, *, onstart: str = "", volume: Lease | None = None, stopped: bool = False
    ) -> Lease:
        """Rent a machine, with a volume or without one. Raises NotRented; the offer may be gone, for example."""
        most = self._hold(machine_ceiling(offer))
        spec, latest = self._spec(onstart, volume, stopped=stopped), self._latest()
        async with self.context.chooser.lock:
            lease = await self._intended(lambda tx: self._intend_machine(tx, offer, spec, latest), most)
        if lease.state is LeaseState.REQUESTED:
            attempt = self.context.attempts.of(lease, offer, spec, latest, self.claim.require)
            await attempt.run(self.stop, Exclusions())
        return await self._rented(lease, most, "")

    def _latest(self) -> datetime:
        return self.context.clock.now() + timedelta(seconds=_TURN_SECONDS)

    async def _intended(self, unit: Callable[[Tx], Lease], most: Micro) -> Lease:
        try:
            return await self.context.db.write(unit)
        except (ClaimLost, Conflict, FailedPrecondition, Taken, TurnTaken) as error:  # a limit may refuse it
            self.held -= most
            raise NotRented(str(error)) from error

    def _intend_volume(self, tx: Tx, offer: VolumeOffer) -> Lease:
        self.claim.require(tx)
        tx.before_spending()
        reservation = reservations.get(tx, self.reservation.id)
        if reservation.closing:
            raise Conflict(f"reservation {reservation.id} takes no more volumes")
        attempt = 1 + max((each.attempt for each in leases.of_reservation(tx, reservation.id)), default=0)
        label = self.context.signer.label(reservation.id.removeprefix("res-"), attempt)
        lease = volume_lease(reservation, self.account, offer, VOLUME_GB, attempt=attempt, label=label, at=tx.now())
        leases.insert(tx, lease)
        spending.admit_creates(tx, [lease], self.context.limits.hold_ahead)
        return lease

    def _intend_machine(self, tx: Tx, offer: Offer, spec: LaunchSpec, latest: datetime) -> Lease:
        self.claim.require(tx)
        context, key = self.context, self.account
        price = machine_ceiling(offer) / offer.num_gpus / 1_000_000
        intent = intents.Intent(
            owner=reservations.get(tx, self.reservation.id).as_owner,
            insert=None,
            read=lambda tx: reservations.get(tx, self.reservation.id).as_owner,
            picks=(offer,),
            wanted=OfferFilter(max_price=price, num_gpus=offer.num_gpus, disk_gb=DISK_GB),
            spec=spec,
            terms={key[0]: {key[1]: self.provider.capabilities}},
            waits={key: context.accounts.waits(key, self.reservation.project, 1)},
            latest=latest,
            prepaid_hours=context.limits.prepaid_hours,
            max_unknown=context.limits.max_unknown,
            admit=partial(spending.admit_creates, horizon=context.limits.hold_ahead),
        )
        (lease,) = intents.write(tx, intent, context.signer)
        return lease

    async def _rented(self, lease: Lease, most: Micro, why: str) -> Lease:
        """The lease after its create. What is held for one that was surely not rented is given back."""
        lease = await self.read(lease.id)
        if lease.state not in (LeaseState.FAILED, LeaseState.RELEASED) or lease.instance_id is not None:
            return lease
        self.held -= most
        text = why or lease.observed.status_message or lease.reason.meaning.outcome or lease.reason
        raise NotRented(text, volume_in_use=lease.reason is Reason.VOLUME_IN_USE)

    def _hold(self, ceiling: Micro) -> Micro:
        """Hold the price of the longest life. Raises NotRented if the budget does not have it."""
        most = held(ceiling, self.provider.capabilities, self.context.limits.prepaid_hours)
        if self.held + most > self.budget:
            left = dollars(Micro(max(0, self.budget - self.held)))
            raise NotRented(f"It could cost {dollars(most)}, and {left} of the budget is left.")
        self.held += most
        return most

    def _spec(self, onstart: str, volume: Lease | None, *, stopped: bool) -> LaunchSpec:
        mount = None if volume is None else VolumeMount(volume_id=volume.instance_id or "", path=MOUNT)
        keys = (self.context.check_key,) if self.context.check_key else ()
        spec = LaunchSpec(disk_gb=DISK_GB, onstart=onstart, volume=mount, stopped=stopped, ssh_public_keys=keys)
        return spec if not self.provider.check_launch(spec) else replace(spec, onstart="")

    async def read(self, lease_id: LeaseId) -> Lease:
        """The lease now."""
        return await self.context.db.read(lambda tx: leases.get(tx, lease_id))

    async def write(self, unit: Callable[[Tx], None]) -> None:
        """A unit that must not be lost."""
        await write_until_committed(self.context.db, self.context.clock, unit, self.reservation.id)
