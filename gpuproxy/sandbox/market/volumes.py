"""Local volumes: disk of one machine, rented by size, which outlives the instances that mount it.

A volume never leaves its machine. Instances name it in their launch and hold it until they are destroyed, stopped or
not; it is billed while it exists and its machine is online. Bills are exact, as those of instances.
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
"""Seconds for which a volume stays in use after its last instance was destroyed, as recorded."""


@dataclass(slots=True, kw_only=True)
class Volume:
    """`storage` is micro-dollars per GB and month."""

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
    """The last instance that had it is destroyed; until then it can't be deleted."""
    metered_us: int = 0
    existed_us: int = 0

    def billed(self, now: float, *, online: bool) -> int:
        """Micro-dollars up to now, rounded down."""
        return self.storage * self.size_gb * self._existed(now, online=online) // (MONTH_HOURS * HOUR_US)

    def hours(self, now: float, *, online: bool) -> float:
        """For how long it has been billed."""
        return self._existed(now, online=online) / HOUR_US

    def settle(self, now: float, *, online: bool) -> None:
        """Account for the time so far; called before anything changes that bills depend on."""
        self.existed_us = self._existed(now, online=online)
        self.metered_us = max(self.metered_us, microseconds(now))

    def _existed(self, now: float, *, online: bool) -> int:
        counts = online and self.deleted_at is None
        return self.existed_us + (max(0, microseconds(now) - self.metered_us) if counts else 0)


class Ledger(Protocol):
    """What volumes need of the market that they belong to."""

    next_contract_id: int
    changes: Changes

    @property
    def now(self) -> float:
        """The market's time."""

    @property
    def machines(self) -> Mapping[int, Machine]:
        """All of them, by id."""

    @property
    def instances(self) -> Mapping[int, Instance]:
        """Those that exist, by id."""

    def credit(self, account: str) -> int:
        """Micro-dollars left."""


class Volumes:
    """All volumes of a market, deleted ones included."""

    def __init__(self, ledger: Ledger) -> None:
        """`ledger` has its machines already."""
        self._ledger = ledger
        self._asks = {int(str(one.columns["avail_vol_ask_id"])): one for one in ledger.machines.values()}
        self.all: dict[int, Volume] = {}

    def ask(self, ask_id: int) -> Machine:
        """The machine that offers volumes under this id. Raises NoSuchAsk."""
        machine = self._asks.get(ask_id)
        if machine is None:
            raise NoSuchAsk
        return machine

    def create(self, account: str, ask_id: int, size_gb: int, name: str | None) -> Volume:
        """A new volume. Raises NoSuchAsk, NotRentable, NoCredit; then nothing happened."""
        machine = self.ask(ask_id)
        if not machine.online or size_gb > free_gb(machine):
            raise NotRentable
        if self._ledger.credit(account) <= 0:
            raise NoCredit
        volume = Volume(
            id=self._ledger.next_contract_id,
            account=account,
            machine_id=machine.id,
            size_gb=size_gb,
            name=name,
            storage=machine.storage,
            created_at=self._ledger.now,
            end_date=float(str(machine.columns["end_date"])),
            metered_us=microseconds(self._ledger.now),
        )
        self._ledger.next_contract_id += 1
        self.all[volume.id] = volume
        self._keep(volume)
        _use(machine, size_gb)
        return volume

    def delete(self, volume: Volume) -> None:
        """Gone for good, with its data. Raises VolumeInUse."""
        if self.users(volume.id) or self._ledger.now < volume.busy_until:
            raise VolumeInUse
        self._settle(volume)
        volume.deleted_at = self._ledger.now
        _use(self._ledger.machines[volume.machine_id], -volume.size_gb)

    def named(self, account: str, number: int) -> Volume:
        """The account's volume. Raises NoSuchVolume."""
        volume = self.all.get(number)
        if volume is None or volume.account != account or volume.deleted_at is not None:
            raise NoSuchVolume
        return volume

    def of(self, account: str) -> list[Volume]:
        """The account's volumes, oldest first, deleted ones included."""
        return [volume for volume in self.all.values() if volume.account == account]

    def users(self, number: int) -> list[int]:
        """The instances that have it, running or not."""
        return [one.id for one in self._ledger.instances.values() if number in one.launch.volumes]

    def check(self, account: str, machine_id: int, numbers: Collection[int], *, sharing: bool) -> None:
        """May an instance on this machine have these? Raises NoSuchVolume, ElsewhereVolume, VolumeInUse."""
        for number in numbers:
            if self.named(account, number).machine_id != machine_id:
                raise ElsewhereVolume
            if not sharing and self.users(number):
                raise VolumeInUse

    def released(self, instance: Instance) -> None:
        """The instance is destroyed; its volumes become free a little later."""
        for number in instance.launch.volumes:
            volume = self.all[number]
            volume.busy_until = self._ledger.now + RELEASED_AFTER
            self._keep(volume)

    def settle_on(self, machine_id: int) -> None:
        """Account for the time so far on a machine that goes offline or comes back."""
        for volume in self.all.values():
            if volume.machine_id == machine_id:
                self._settle(volume)

    def billed(self, volume: Volume) -> int:
        """Micro-dollars up to now."""
        return volume.billed(self._ledger.now, online=self._online(volume))

    def hours(self, volume: Volume) -> float:
        """For how long it has been billed."""
        return volume.hours(self._ledger.now, online=self._online(volume))

    def bill(self, account: str | None = None) -> int:
        """Micro-dollars of all volumes ever, of one account or all."""
        return sum(self.billed(one) for one in self.all.values() if account in (None, one.account))

    def restore(self, volumes: Iterable[Volume]) -> None:
        """Take up again what was kept."""
        for volume in volumes:
            self.all[volume.id] = volume
            if volume.deleted_at is None:
                _use(self._ledger.machines[volume.machine_id], volume.size_gb)

    def _online(self, volume: Volume) -> bool:
        return self._ledger.machines[volume.machine_id].online

    def _settle(self, volume: Volume) -> None:
        volume.settle(self._ledger.now, online=self._online(volume))
        self._keep(volume)

    def _keep(self, volume: Volume) -> None:
        self._ledger.changes.volumes.add(volume.id)


def free_gb(machine: Machine) -> float:
    """What is left of a machine's disk for volumes."""
    return float(str(machine.columns["avail_vol_size"]))


def _use(machine: Machine, size_gb: int) -> None:
    machine.columns["avail_vol_size"] = free_gb(machine) - size_gb
