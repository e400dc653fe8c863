"""The Provider of an account whose key was removed while it still had machines. Every call fails, nothing is sent."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NoReturn

from gpuproxy.model.demands import LaunchSpec
from gpuproxy.model.errors import AuthFailed, Violation
from gpuproxy.model.leases import InstanceId
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import Offer, OfferFilter, ProviderName
from gpuproxy.ports import Capabilities, Inventory, ListedInstance, Receipt, Spend, VolumeInventory, VolumeOffer


class Keyless:
    """An account without a key."""

    def __init__(self, name: ProviderName, account: str, capabilities: Capabilities) -> None:
        self.name = name
        self.account = account
        self.capabilities = capabilities

    def check_launch(self, spec: LaunchSpec) -> Sequence[Violation]:
        """Nothing is launched, so nothing is refused."""
        del spec
        return ()

    async def search(self, wanted: OfferFilter) -> AsyncIterator[Sequence[Offer]]:
        """Raises AuthFailed, as every call does."""
        self._fail(wanted)
        yield ()

    async def create(self, offer: Offer, spec: LaunchSpec, label: str) -> Receipt:
        """Raises AuthFailed."""
        self._fail(offer, spec, label)

    async def list(self) -> Inventory:
        """Raises AuthFailed."""
        self._fail()

    async def get(self, instance_id: InstanceId) -> ListedInstance | None:
        """Raises AuthFailed."""
        self._fail(instance_id)

    async def destroy(self, instance_id: InstanceId) -> bool:
        """Raises AuthFailed."""
        self._fail(instance_id)

    async def start(self, instance_id: InstanceId) -> None:
        """Raises AuthFailed."""
        self._fail(instance_id)

    async def stop(self, instance_id: InstanceId) -> None:
        """Raises AuthFailed."""
        self._fail(instance_id)

    async def relabel(self, instance_id: InstanceId, label: str) -> None:
        """Raises AuthFailed."""
        self._fail(instance_id, label)

    async def extend(self, instance_id: InstanceId, hours: int) -> None:
        """Raises AuthFailed."""
        self._fail(instance_id, hours)

    async def used(self, instance_id: InstanceId) -> timedelta | None:
        """Raises AuthFailed."""
        self._fail(instance_id)

    async def logs(self, instance_id: InstanceId, lines: int) -> Sequence[str]:
        """Raises AuthFailed."""
        self._fail(instance_id, lines)

    async def add_ssh_key(self, instance_id: InstanceId, public_key: str) -> None:
        """Raises AuthFailed."""
        self._fail(instance_id, public_key)

    async def charges(self, since: datetime, until: datetime) -> Mapping[InstanceId, Micro]:
        """Raises AuthFailed."""
        self._fail(since, until)

    async def spend(self) -> Spend:
        """Raises AuthFailed."""
        self._fail()

    async def volume_offers(self, machine_ids: Collection[str], size_gb: int) -> Sequence[VolumeOffer]:
        """Raises AuthFailed."""
        self._fail(machine_ids, size_gb)

    async def create_volume(self, offer: VolumeOffer, size_gb: int, label: str) -> Receipt:
        """Raises AuthFailed."""
        self._fail(offer, size_gb, label)

    async def list_volumes(self) -> VolumeInventory:
        """Raises AuthFailed."""
        self._fail()

    async def delete_volume(self, volume_id: InstanceId) -> bool:
        """Raises AuthFailed."""
        self._fail(volume_id)

    def _fail(self, *_: object) -> NoReturn:
        raise AuthFailed(f"no key of {self.name} account {self.account} is configured")
