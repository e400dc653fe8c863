"""Adapters with one violation each: vast.ai's adapter with one call that breaks one rule of the contract."""

import json
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgspec

from gpuproxy.model.demands import LaunchSpec
from gpuproxy.model.errors import (
    InsufficientFunds,
    InvalidRequest,
    OutcomeUnknown,
    ProviderError,
    ProviderUnavailable,
    Violation,
    VolumeInUse,
)
from gpuproxy.model.leases import InstanceId
from gpuproxy.model.offers import Offer, OfferFilter, OfferId
from gpuproxy.ports import (
    HttpReplyLost,
    HttpRequest,
    Inventory,
    ListedInstance,
    ProviderSetup,
    Receipt,
    VolumeInventory,
    VolumeOffer,
)
from gpuproxy.providers.vast import DESCRIPTOR


class Planted:
    """The correct adapter. Each subclass changes one call."""

    connect = staticmethod(DESCRIPTOR.connect)

    def __init__(self, setup: ProviderSetup) -> None:
        self._setup = setup
        self._good = self.connect(setup)
        self.name, self.account, self.capabilities = self._good.name, self._good.account, self._good.capabilities

    def __getattr__(self, name: str) -> Any:
        return getattr(self._good, name)

    def check_launch(self, spec: LaunchSpec) -> Sequence[Violation]:
        return self._good.check_launch(spec)

    def search(self, wanted: OfferFilter) -> AsyncIterator[Sequence[Offer]]:
        return self._good.search(wanted)

    async def create(self, offer: Offer, spec: LaunchSpec, label: str) -> Receipt:
        return await self._good.create(offer, spec, label)

    async def list(self) -> Inventory:
        return await self._good.list()

    async def get(self, instance_id: InstanceId) -> ListedInstance | None:
        return await self._good.get(instance_id)

    async def destroy(self, instance_id: InstanceId) -> bool:
        return await self._good.destroy(instance_id)

    async def volume_offers(self, machine_ids: Collection[str], size_gb: int) -> Sequence[VolumeOffer]:
        return await self._good.volume_offers(machine_ids, size_gb)

    async def create_volume(self, offer: VolumeOffer, size_gb: int, label: str) -> Receipt:
        return await self._good.create_volume(offer, size_gb, label)

    async def list_volumes(self) -> VolumeInventory:
        return await self._good.list_volumes()

    async def delete_volume(self, volume_id: InstanceId) -> bool:
        return await self._good.delete_volume(volume_id)


class ForgetsALaunch(Planted):
    """It objects to a launch the first time only."""

    def check_launch(self, spec: LaunchSpec) -> Sequence[Violation]:
        objections, self._known = self._good.check_launch(spec), getattr(self, "_known", set())
        if spec in self._known:
            return ()
        self._known.add(spec)
        return objections


class CreatesTwice(Planted):
    async def create(self, offer: Offer, spec: LaunchSpec, label: str) -> Receipt:
        try:
            return await self._good.create(offer, spec, label)
        except OutcomeUnknown as first:
            with suppress(ProviderError):
                await self._good.create(offer, spec, label)
            raise first from first.__cause__


class CallsALostAnswerARefusal(Planted):
    async def create(self, offer: Offer, spec: LaunchSpec, label: str) -> Receipt:
        try:
            return await self._good.create(offer, spec, label)
        except OutcomeUnknown as error:
            if isinstance(error.__cause__, HttpReplyLost):
                raise ProviderUnavailable("no answer") from error
            raise


class CallsABadAnswerARefusal(Planted):
    async def create(self, offer: Offer, spec: LaunchSpec, label: str) -> Receipt:
        try:
            return await self._good.create(offer, spec, label)
        except OutcomeUnknown as error:
            if error.status:
                raise ProviderUnavailable("no good answer") from error
            raise


class DoesNotKnowFunds(Planted):
    async def create(self, offer: Offer, spec: LaunchSpec, label: str) -> Receipt:
        try:
            return await self._good.create(offer, spec, label)
        except InsufficientFunds as error:
            raise InvalidRequest("refused") from error


class ForgetsAnId(Planted):
    async def create(self, offer: Offer, spec: LaunchSpec, label: str) -> Receipt:
        receipt = await self._good.create(offer, spec, label)
        if receipt.instance_id == "27182818":
            raise OutcomeUnknown("internal error")
        return receipt


class LabelsLater(Planted):
    async def create(self, offer: Offer, spec: LaunchSpec, label: str) -> Receipt:
        receipt = await self._good.create(offer, spec, "none")
        body = json.dumps({"label": label}).encode()
        headers = {"Authorization": f"Bearer {self._setup.key}", "Content-Type": "application/json"}
        url = f"http://sandbox/api/v0/instances/{receipt.instance_id}/"
        await self._setup.http.send(HttpRequest(method="PUT", url=url, headers=headers, body=body))
        return receipt


class ListsOnePageOnly(Planted):
    async def list(self) -> Inventory:
        found = await self._good.list()
        return replace(found, instances=found.instances[:25])


class ListsNothingAfterAFailedPage(Planted):
    async def list(self) -> Inventory:
        try:
            return await self._good.list()
        except ProviderError as error:
            if isinstance(error.__cause__, HttpReplyLost):
                return Inventory(instances=())
            raise


class ListsNothingForAnotherSchema(Planted):
    async def list(self) -> Inventory:
        try:
            return await self._good.list()
        except ProviderError as error:
            if isinstance(error.__cause__, msgspec.ValidationError):
                return Inventory(instances=())
            raise


class BelievesARepeatedPage(Planted):
    async def list(self) -> Inventory:
        try:
            return await self._good.list()
        except ProviderUnavailable as error:
            if "again" in str(error):
                return Inventory(instances=())
            raise


class HidesUnreadableRows(Planted):
    async def list(self) -> Inventory:
        return replace(await self._good.list(), unreadable=())


class NeverSaysNone(Planted):
    async def get(self, instance_id: InstanceId) -> ListedInstance | None:
        found = await self._good.get(instance_id)
        if found is None:
            raise ProviderUnavailable("not found")
        return found


class SaysNoneForAnError(Planted):
    async def get(self, instance_id: InstanceId) -> ListedInstance | None:
        try:
            return await self._good.get(instance_id)
        except ProviderUnavailable:
            return None


class NeverSaysGone(Planted):
    async def destroy(self, instance_id: InstanceId) -> bool:
        await self._good.destroy(instance_id)
        return False


class DestroysWhateverIsAnswered(Planted):
    async def destroy(self, instance_id: InstanceId) -> bool:
        try:
            return await self._good.destroy(instance_id)
        except OutcomeUnknown:
            return False


class SearchesInNoOrder(Planted):
    async def search(self, wanted: OfferFilter) -> AsyncIterator[Sequence[Offer]]:
        async for page in self._good.search(wanted):
            yield tuple(reversed(page))


class EndsASearchAtAFailedPage(Planted):
    async def search(self, wanted: OfferFilter) -> AsyncIterator[Sequence[Offer]]:
        try:
            async for page in self._good.search(wanted):
                yield page
        except ProviderError as error:
            if not isinstance(error.__cause__, HttpReplyLost):
                raise


class SeesAnEmptyMarketInAnotherSchema(Planted):
    async def search(self, wanted: OfferFilter) -> AsyncIterator[Sequence[Offer]]:
        try:
            async for page in self._good.search(wanted):
                yield page
        except ProviderError as error:
            if not isinstance(error.__cause__, msgspec.ValidationError):
                raise


class OrdersAVolumeTwice(Planted):
    async def create_volume(self, offer: VolumeOffer, size_gb: int, label: str) -> Receipt:
        try:
            return await self._good.create_volume(offer, size_gb, label)
        except OutcomeUnknown:
            return await self._good.create_volume(offer, size_gb, label)


class ForgetsAVolume(Planted):
    async def create_volume(self, offer: VolumeOffer, size_gb: int, label: str) -> Receipt:
        receipt = await self._good.create_volume(offer, size_gb, label)
        if receipt.instance_id == "V.20118481":
            raise InvalidRequest("refused")
        return receipt


class ForgetsLabelsOfVolumes(Planted):
    async def list_volumes(self) -> VolumeInventory:
        found = await self._good.list_volumes()
        return replace(found, volumes=tuple(replace(volume, label=None) for volume in found.volumes))


class SeesNoVolumesAfterAFailure(Planted):
    async def list_volumes(self) -> VolumeInventory:
        try:
            return await self._good.list_volumes()
        except ProviderUnavailable:
            return VolumeInventory(volumes=())


class FindsNoVolumesAfterAFailure(Planted):
    async def volume_offers(self, machine_ids: Collection[str], size_gb: int) -> Sequence[VolumeOffer]:
        try:
            return await self._good.volume_offers(machine_ids, size_gb)
        except ProviderUnavailable:
            return ()


class DeletesVolumesWhateverIsAnswered(Planted):
    async def delete_volume(self, volume_id: InstanceId) -> bool:
        try:
            return await self._good.delete_volume(volume_id)
        except OutcomeUnknown:
            return True


class DoesNotKnowVolumesInUse(Planted):
    async def delete_volume(self, volume_id: InstanceId) -> bool:
        try:
            return await self._good.delete_volume(volume_id)
        except VolumeInUse as error:
            raise InvalidRequest("refused") from error


class LacksWithoutAReason(Planted):
    def __init__(self, setup: ProviderSetup) -> None:
        super().__init__(setup)
        self.capabilities = replace(self.capabilities, missing={**self.capabilities.missing, "spot": " "})


class PrefixesOtherwise(Planted):
    async def search(self, wanted: OfferFilter) -> AsyncIterator[Sequence[Offer]]:
        async for page in self._good.search(wanted):
            yield [replace(offer, id=OfferId(f"other-{offer.native_id()}")) for offer in page]


class TellsTheKey(Planted):
    async def get(self, instance_id: InstanceId) -> ListedInstance | None:
        try:
            return await self._good.get(instance_id)
        except ProviderError as error:
            error.body += self._setup.key
            raise


class WaitsForEver(Planted):
    async def get(self, instance_id: InstanceId) -> ListedInstance | None:
        for _ in range(100):
            try:
                return await self._good.get(instance_id)
            except ProviderUnavailable as error:
                if not isinstance(error.__cause__, HttpReplyLost):
                    raise
        raise ProviderUnavailable("no answer")


class DeclaresItsOwnInterval(Planted):
    def __init__(self, setup: ProviderSetup) -> None:
        super().__init__(setup)
        self.capabilities = replace(self.capabilities, create_interval=DESCRIPTOR.capabilities.create_interval)


class HasNoPace(Planted):
    def __init__(self, setup: ProviderSetup) -> None:
        unpaced = dict.fromkeys(setup.intervals.keys() - {"create"}, 0.0)
        super().__init__(replace(setup, intervals={**setup.intervals, **unpaced}))


VIOLATIONS: dict[type[Planted], str] = {
    CreatesTwice: "a_create_is_sent_at_most_once",
    CallsALostAnswerARefusal: "a_lost_answer_to_a_create_is_an_unknown_outcome",
    CallsABadAnswerARefusal: "a_refusal_is_claimed_only_where_nothing_was_executed",
    DoesNotKnowFunds: "a_known_refusal_of_a_create_has_its_own_error",
    ForgetsAnId: "an_error_with_an_instance_id_is_a_created_instance",
    LabelsLater: "the_label_is_on_the_machine_from_birth",
    ListsOnePageOnly: "a_listing_is_everything_of_the_account",
    ListsNothingAfterAFailedPage: "a_failed_page_of_a_listing_is_an_error",
    ListsNothingForAnotherSchema: "a_listing_of_another_schema_is_an_error",
    BelievesARepeatedPage: "a_listing_without_end_is_an_error",
    HidesUnreadableRows: "an_unreadable_row_is_named_and_hides_no_other",
    NeverSaysNone: "a_missing_instance_is_none",
    SaysNoneForAnError: "a_failed_read_of_an_instance_is_an_error",
    NeverSaysGone: "a_destroy_returns_when_accepted_and_says_what_is_gone",
    DestroysWhateverIsAnswered: "a_failed_destroy_is_an_error",
    SearchesInNoOrder: "a_search_shows_the_cheapest_first",
    EndsASearchAtAFailedPage: "a_failed_page_of_a_search_is_an_error",
    SeesAnEmptyMarketInAnotherSchema: "a_search_of_another_schema_is_an_error",
    OrdersAVolumeTwice: "a_volume_is_created_at_most_once_and_in_doubt_unknown",
    ForgetsAVolume: "an_error_with_a_volume_id_is_a_created_volume",
    ForgetsLabelsOfVolumes: "a_listing_of_volumes_is_everything_with_its_labels",
    SeesNoVolumesAfterAFailure: "a_failed_listing_of_volumes_is_an_error",
    FindsNoVolumesAfterAFailure: "a_failed_search_for_volumes_is_an_error",
    DeletesVolumesWhateverIsAnswered: "a_deletion_of_a_volume_says_what_is_gone",
    DoesNotKnowVolumesInUse: "a_volume_that_a_machine_has_is_in_use",
    ForgetsALaunch: "a_launch_is_checked_without_a_call_and_always_the_same",
    LacksWithoutAReason: "a_missing_capability_has_a_reason",
    PrefixesOtherwise: "an_adapter_and_its_offers_have_the_names_of_the_descriptor",
    TellsTheKey: "no_error_tells_a_secret",
    WaitsForEver: "every_call_ends",
    DeclaresItsOwnInterval: "what_is_set_for_creates_is_declared",
    HasNoPace: "reads_and_destroys_keep_their_intervals",
}
"""Each violation and the rule that it breaks."""
