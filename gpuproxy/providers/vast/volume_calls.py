"""The calls about volumes of one vast.ai account. Each endpoint keeps its own interval."""

from collections.abc import Collection
from urllib.parse import urlencode

from gpuproxy.model.errors import InvalidRequest, ProviderUnavailable
from gpuproxy.model.leases import InstanceId
from gpuproxy.ports import Receipt, VolumeInventory, VolumeOffer
from gpuproxy.providers.vast.api import VastApi
from gpuproxy.providers.vast.errors import volume_created, volume_deleted
from gpuproxy.providers.vast.instances import in_few_words
from gpuproxy.providers.vast.requests import SEARCH_CAP, numeric
from gpuproxy.providers.vast.volumes import (
    FoundVolumes,
    offers_body,
    read_volume_offers,
    read_volumes,
    volume_body,
)
from gpuproxy.providers.vast.wire import NAME
from gpuproxy.providers.vast.wire import volume_id as volume_id_of

VOLUME_ENDPOINTS = ("volume_search", "volume_create", "volume_list", "volume_delete")
"""They have one interval, which each of them keeps by itself."""
_LIST_QUERY = {"owner": "me", "type": "all_volume"}


class VolumeCalls:
    """Search, create, list and delete."""

    def __init__(self, api: VastApi) -> None:
        self._api = api

    async def offers(self, machine_ids: Collection[str], size_gb: int) -> tuple[VolumeOffer, ...]:
        """Space of this size on these machines, ordered by machine and id. Complete, or a ProviderError.

        An answer has at most SEARCH_CAP rows. If one is full, each half of its machines is searched again.
        """
        machines = numeric(machine_ids)
        most = SEARCH_CAP - 1  # a machine has one offer: fewer machines than rows, and no answer is full
        parts = [machines[at : at + most] for at in range(0, len(machines), most)]
        found: dict[str, VolumeOffer] = {}
        while parts:
            part = parts.pop()
            answer = await self._found(part, size_gb)
            wanted = {str(machine) for machine in part}
            if answer.full and len(part) > 1:
                parts += [part[: len(part) // 2], part[len(part) // 2 :]]
                continue
            if answer.full and not answer.machines <= wanted:
                raise ProviderUnavailable(f"{NAME} ignores the machine of a search for volumes")
            found |= {offer.id: offer for offer in answer.offers if offer.machine_id in wanted}
        return tuple(sorted(found.values(), key=lambda offer: (int(offer.machine_id), offer.id)))

    async def create(self, offer: VolumeOffer, size_gb: int, label: str) -> Receipt:
        """Rent a volume with one PUT; the body of the answer decides."""
        body = volume_body(offer, size_gb, label)
        request = self._api.request("volume_create", "PUT", "/api/v0/volumes/", body)
        return await self._api.change("volume_create", request, volume_created, repeatable=False)

    async def list(self) -> VolumeInventory:
        """All volumes of the account, of every type."""
        reply = await self._api.read("volume_list", f"/api/v0/volumes?{urlencode(_LIST_QUERY)}")
        page = await self._api.decoded("volume_list", reply, read_volumes)
        return VolumeInventory(
            volumes=tuple(page.volumes.values()), unreadable=in_few_words(page.troubles), sent_at=reply.sent_at
        )

    async def delete(self, volume_id: InstanceId) -> bool:
        """False: accepted. True: vast.ai says that there is no such volume. Deleting twice does no harm."""
        if volume_id_of(volume_id) != volume_id:
            raise InvalidRequest(f"{volume_id} is no volume of {NAME}")
        number = volume_id.removeprefix("V.")
        request = self._api.request("volume_delete", "DELETE", f"/api/v0/volumes/?id={number}", {})
        return await self._api.change("volume_delete", request, lambda reply, wait: volume_deleted(reply, wait, number))

    async def _found(self, machines: tuple[int, ...], size_gb: int) -> FoundVolumes:
        reply = await self._api.read("volume_search", "/api/v0/volumes/search/", offers_body(machines, size_gb))
        return await self._api.decoded("volume_search", reply, read_volume_offers, size_gb)
