"""Volumes as the reconciler sees them: like machines that run, have no GPUs and can't be entered.

So everything that is true of leases holds for volumes too: an unknown create is found or proven absent, a stray is
deleted, a meter runs while the volume exists, and a deletion is repeated until the volume is proven gone.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import NoReturn

from gpuproxy.model.demands import LaunchSpec
from gpuproxy.model.errors import NotSupported, Violation
from gpuproxy.model.leases import InstanceId
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import Offer, OfferFilter
from gpuproxy.ports import (
    InstanceStatus,
    Inventory,
    ListedInstance,
    ListedVolume,
    Provider,
    Receipt,
    Spend,
    VolumeInventory,
    VolumeOffer,
)

_WHY = "a volume is no machine"
_NOT_A_MACHINE = ("stop_start", "logs", "ssh", "ssh_keys", "ports", "charges")


class VolumeSide:
    """The volumes of one account, behind the interface of its machines."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self.name = provider.name
        self.account = provider.account
        missing = {**provider.capabilities.missing, **dict.fromkeys(_NOT_A_MACHINE, _WHY)}
        self.capabilities = replace(provider.capabilities, missing=missing)

    async def list(self) -> Inventory:
        """The volumes of the account."""
        found = await self._provider.list_volumes()
        return Inventory(
            instances=tuple(_as_instance(each) for each in found.volumes),
            unreadable=found.unreadable,
            sent_at=found.sent_at,
        )

    async def get(self, instance_id: InstanceId) -> ListedInstance | None:
        """One volume, from a listing of its own. Rows that can't be read may be the volume: then it is not absent."""
        found = await self.list()
        shown = next((each for each in found.instances if each.id == instance_id), None)
        if shown is None and found.unreadable:
            raise NotSupported(f"{len(found.unreadable)} volumes of {self.account} can't be read")
        return shown

    async def destroy(self, instance_id: InstanceId) -> bool:
        """Delete a volume and its data."""
        return await self._provider.delete_volume(instance_id)

    async def spend(self) -> Spend:
        """The account's credit."""
        return await self._provider.spend()

    def check_launch(self, spec: LaunchSpec) -> Sequence[Violation]:
        """Nothing is launched."""
        _refuse(spec)

    def search(self, wanted: OfferFilter) -> AsyncIterator[Sequence[Offer]]:
        """No offers."""
        _refuse(wanted)

    async def create(self, offer: Offer, spec: LaunchSpec, label: str) -> Receipt:
        """No machines."""
        _refuse(offer, spec, label)

    async def start(self, instance_id: InstanceId) -> None:
        """A volume does not run."""
        _refuse(instance_id)

    async def stop(self, instance_id: InstanceId) -> None:
        """A volume does not run."""
        _refuse(instance_id)

    async def relabel(self, instance_id: InstanceId, label: str) -> None:
        """A volume has no end."""
        _refuse(instance_id, label)

    async def logs(self, instance_id: InstanceId, lines: int) -> Sequence[str]:
        """A volume prints nothing."""
        _refuse(instance_id, lines)

    async def add_ssh_key(self, instance_id: InstanceId, public_key: str) -> None:
        """Nobody logs in."""
        _refuse(instance_id, public_key)

    async def charges(self, since: datetime, until: datetime) -> Mapping[InstanceId, Micro]:
        """Not read."""
        _refuse(since, until)

    async def volume_offers(self, machine_ids: Collection[str], size_gb: int) -> Sequence[VolumeOffer]:
        """As of the account."""
        return await self._provider.volume_offers(machine_ids, size_gb)

    async def create_volume(self, offer: VolumeOffer, size_gb: int, label: str) -> Receipt:
        """As of the account."""
        return await self._provider.create_volume(offer, size_gb, label)

    async def list_volumes(self) -> VolumeInventory:
        """As of the account."""
        return await self._provider.list_volumes()

    async def delete_volume(self, volume_id: InstanceId) -> bool:
        """As of the account."""
        return await self._provider.delete_volume(volume_id)


def _refuse(*_: object) -> NoReturn:
    raise NotSupported(_WHY)


def _as_instance(volume: ListedVolume) -> ListedInstance:
    return ListedInstance(
        id=volume.id,
        label=volume.label,
        status=InstanceStatus.RUNNING,
        raw_status="in use" if volume.in_use else "created",
        price=volume.price,
        stopped_price=volume.price,
        machine_id=volume.machine_id,
        created_at=volume.created_at,
        ends_at=volume.ends_at,
    )
