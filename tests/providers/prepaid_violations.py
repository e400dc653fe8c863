"""Adapters with one violation each of a rule about bookings: io.net's adapter with one call that breaks it."""

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

from gpuproxy.model.demands import LaunchSpec
from gpuproxy.model.errors import OutcomeUnknown, PriceMoved, ProviderError, ProviderUnavailable
from gpuproxy.model.leases import InstanceId
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import Offer
from gpuproxy.ports import Inventory, ListedInstance, ProviderSetup, Receipt
from gpuproxy.providers.ionet import DESCRIPTOR
from tests.providers.violations import Planted


class PrepaidPlanted(Planted):
    """The correct adapter. Each subclass changes one call."""

    connect = staticmethod(DESCRIPTOR.connect)

    async def extend(self, instance_id: InstanceId, hours: int) -> None:
        await self._good.extend(instance_id, hours)


class BooksAnHourTooMany(PrepaidPlanted):
    def __init__(self, setup: ProviderSetup) -> None:
        super().__init__(setup)
        self._short = DESCRIPTOR.connect(replace(setup, prepaid_hours=setup.prepaid_hours + 1))

    async def create(self, offer: Offer, spec: LaunchSpec, label: str) -> Receipt:
        receipt = await self._short.create(offer, spec, label)
        return replace(receipt, booked_until=receipt.booked_until and receipt.booked_until - timedelta(hours=1))


class ForgetsThePrice(PrepaidPlanted):
    """It books at any price."""

    async def create(self, offer: Offer, spec: LaunchSpec, label: str) -> Receipt:
        try:
            return await self._good.create(offer, spec, label)
        except PriceMoved:
            return await self._good.create(replace(offer, gpu_price=Micro(10**12)), spec, label)


class ExtendsByAnHourTooFew(PrepaidPlanted):
    async def extend(self, instance_id: InstanceId, hours: int) -> None:
        await self._good.extend(instance_id, hours - 1)


class ExtendsTwice(PrepaidPlanted):
    async def extend(self, instance_id: InstanceId, hours: int) -> None:
        try:
            await self._good.extend(instance_id, hours)
        except OutcomeUnknown:
            with suppress(ProviderError):
                await self._good.extend(instance_id, hours)
            raise


class KeepsWhatIsOver(PrepaidPlanted):
    """It shows a machine after the end of its booking."""

    def __init__(self, setup: ProviderSetup) -> None:
        super().__init__(setup)
        self._clock, self._seen = setup.clock, dict[InstanceId, ListedInstance]()

    async def get(self, instance_id: InstanceId) -> ListedInstance | None:
        found, before = await self._good.get(instance_id), self._seen.get(instance_id)
        if found is not None:
            self._seen[instance_id] = found
        elif before is not None and before.booking is not None and before.booking.until < self._clock.now():
            raise ProviderUnavailable("not found")
        return found

    async def list(self) -> Inventory:
        return await self._good.list()


VIOLATIONS: dict[Any, str] = {
    BooksAnHourTooMany: "a_booking_has_the_hours_that_are_set",
    ForgetsThePrice: "a_create_above_its_price_is_not_sent",
    ExtendsByAnHourTooFew: "an_extension_moves_the_end_by_its_hours",
    ExtendsTwice: "an_extension_is_bought_at_most_once_and_in_doubt_unknown",
    KeepsWhatIsOver: "a_machine_whose_booking_is_over_is_gone",
}
"""Each violation and the rule that it breaks."""
