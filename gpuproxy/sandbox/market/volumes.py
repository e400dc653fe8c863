"""Local volumes: rented disk space on one machine that outlives the instances that mount it.

A volume never leaves its machine. An instance names it in its launch and uses it until it is destroyed, also while it
is stopped. A volume is billed while it exists and its machine is online. Bills are exact, like those of instances.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from gpuproxy.sandbox.market.changes import Changes
from gpuproxy.sandbox.market.instances import HOUR_US, MONTH_HOURS, Instance, microseconds
from gpuproxy.sandbox.market.machines import Machine
from gpuproxy.sandbox.market.refusals import (
    ElsewhereVolume,
    NoCredit,
    NoSuchAsk,
    NoSuchVolume,
    NotRentable,
    VolumeInUse,
)

RELEASED_AFTER = 30.0
"""Seconds for which a volume stays in use after its last instance was destroyed (recorded value)."""


@dataclass(slots=True, kw_only=True)
class Volume:
    """One volume. `storage` is in micro-dollars per GB and month."""

    id: int
    account: str
    machine_id: int
    size_gb: int
    name: str | None
    storage: int
    created_at: float
    end_date: float
    deleted_at: float | None = None
    busy_until: float = 0.0
    """After its last instance was destroyed, the volume can't be deleted until then."""
    metered_us: int = 0
    existed_us: int = 0
    nonce: str = ""
    """The nonce that a boot script wrote to it; "": none."""
    has_data: bool = False
    """A workload has run with it."""
    most_writers: int = 0
    """The most running instances that mounted it at any moment."""
    most_workloads: int = 0
    """The most instances with it whose user's command ran at any moment."""

    def billed(self, now: float, *, online: bool) -> int:
        """The cost up to now in micro-dollars, rounded down."""
        return self.storage * self.size_gb * self._existed(now, online=online) // (MONTH_HOURS * HOUR_US)

    def hours(self, now: float, *, online: bool) -> float:
        """The billed time in hours."""
        return self._existed(now, online=online) / HOUR_US

    def accrue(self, now: float, *, online: bool) -> None:
        """Add the time since the last call to the bill. Call this before a change that affects the bill."""
        self.existed_us = self._existed(now, online=online)
        self.metered_us = max(self.metered_us, microseconds(now))

    def _existed(self, now: float, *, online: bool) -> int:
        counts = online and self.deleted_at is None
        return self.existed_us + (max(0, microseconds(now) - self.metered_us) if counts else 0)


class MarketView(Protocol):
    """The part of the market that volumes use."""

    next_contract_id: int
    changes: Changes

    @property
    def now(self) -> float:
        """The market's time, in epoch seconds."""

    @property
    def machines(self) -> Mapping[int, Machine]:
        """All machines by id."""

    @property
    def instances(self) -> Mapping[int, Instance]:
        """The existing instances by id."""

    def credit(self, account: str) -> int:
        """The remaining credit of an account, in micro-dollars."""


class Volumes:
    """All volumes of a market, including deleted ones."""

    def __init__(self, market: MarketView) -> None:
        """`market` has its machines already."""
        self._market = market
        self._asks = {int(str(one.columns["avail_vol_ask_id"])): one for one in market.machines.values()}
        self.all: dict[int, Volume] = {}

    def ask(self, ask_id: int) -> Machine:
        """The machine with this volume offer. Raises NoSuchAsk."""
        machine = self._asks.get(ask_id)
        if machine is None:
            raise NoSuchAsk
        return machine

    def create(self, account: str, ask_id: int, size_gb: int, name: str | None) -> Volume:
        """Create a volume. Raises NoSuchAsk, NotRentable or NoCredit without any change."""
        machine = self.ask(ask_id)
        if not machine.online or size_gb > free_gb(machine):
            raise NotRentable
        if self._market.credit(account) <= 0:
            raise NoCredit
        volume = Volume(
            id=self._market.next_contract_id,
            account=account,
            machine_id=machine.id,
            size_gb=size_gb,
            name=name,
            storage=machine.storage,
            created_at=self._market.now,
            end_date=float(str(machine.columns["end_date"])),
            metered_us=microseconds(self._market.now),
        )
        self._market.next_contract_id += 1
        self.all[volume.id] = volume
        self._keep(volume)
        _use(machine, size_gb)
        return volume

    def delete(self, volume: Volume) -> None:
        """Delete a volume and its data. Raises VolumeInUse."""
        if self.users(volume.id) or self._market.now < volume.busy_until:
            raise VolumeInUse
        self._accrue(volume)
        volume.deleted_at = self._market.now
        _use(self._market.machines[volume.machine_id], -volume.size_gb)

    def named(self, account: str, number: int) -> Volume:
        """The volume of an account with this id. Raises NoSuchVolume."""
        volume = self.all.get(number)
        if volume is None or volume.account != account or volume.deleted_at is not None:
            raise NoSuchVolume
        return volume

    def of(self, account: str) -> list[Volume]:
        """All volumes of an account, oldest first, including deleted ones."""
        return [volume for volume in self.all.values() if volume.account == account]

    def users(self, number: int) -> list[int]:
        """The ids of the instances that use a volume, running or not."""
        return [one.id for one in self._market.instances.values() if number in one.launch.volumes]

    def check(self, account: str, machine_id: int, numbers: Collection[int], *, sharing: bool) -> None:
        """Check that an instance on this machine may mount these volumes.

        Raises NoSuchVolume, ElsewhereVolume or, without `sharing`, VolumeInUse. A volume is also in use for a while
        after its last instance was destroyed.
        """
        for number in numbers:
            volume = self.named(account, number)
            if volume.machine_id != machine_id:
                raise ElsewhereVolume
            if not sharing and (self.users(number) or self._market.now < volume.busy_until):
                raise VolumeInUse

    def released(self, instance: Instance) -> None:
        """Free the volumes of a destroyed instance, after RELEASED_AFTER seconds."""
        for number in instance.launch.volumes:
            volume = self.all[number]
            volume.busy_until = self._market.now + RELEASED_AFTER
            self._keep(volume)

    def accrue_on(self, machine_id: int) -> None:
        """Add the time so far to the bills of a machine's volumes, before it goes offline or online."""
        for volume in self.all.values():
            if volume.machine_id == machine_id:
                self._accrue(volume)

    def billed(self, volume: Volume) -> int:
        """The cost of a volume up to now, in micro-dollars."""
        return volume.billed(self._market.now, online=self._online(volume))

    def hours(self, volume: Volume) -> float:
        """The billed time of a volume, in hours."""
        return volume.hours(self._market.now, online=self._online(volume))

    def bill(self, account: str | None = None) -> int:
        """The cost of all volumes ever, of one account or of all for None, in micro-dollars."""
        return sum(self.billed(one) for one in self.all.values() if account in (None, one.account))

    def restore(self, volumes: Iterable[Volume]) -> None:
        """Restore saved volumes."""
        for volume in volumes:
            self.all[volume.id] = volume
            if volume.deleted_at is None:
                _use(self._market.machines[volume.machine_id], volume.size_gb)

    def _online(self, volume: Volume) -> bool:
        return self._market.machines[volume.machine_id].online

    def _accrue(self, volume: Volume) -> None:
        volume.accrue(self._market.now, online=self._online(volume))
        self._keep(volume)

    def _keep(self, volume: Volume) -> None:
        self._market.changes.volumes.add(volume.id)


def free_gb(machine: Machine) -> float:
    """The free disk space of a machine for volumes, in GB."""
    return float(str(machine.columns["avail_vol_size"]))


def _use(machine: Machine, size_gb: int) -> None:
    machine.columns["avail_vol_size"] = free_gb(machine) - size_gb
