"""The rules about volumes. If one is broken, a volume can be paid for without being known, or its data can be lost.

An adapter whose marketplace has no volumes keeps them by raising NotSupported.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gpuproxy.conformance.bench import Bench
from gpuproxy.conformance.subject import Make, VolumeFacts
from gpuproxy.conformance.verdict import Broken, NotJudged, ended, must_fail, require
from gpuproxy.conformance.wire import BAD_ANSWER, FAILURES, NO_ANSWER, OTHER_SCHEMA
from gpuproxy.model.demands import VolumeMount
from gpuproxy.model.errors import NotSupported, OutcomeUnknown, ProviderError, Refused, VolumeInUse
from gpuproxy.model.leases import InstanceId
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import Offer, OfferId
from gpuproxy.ports import ListedVolume, Receipt, VolumeOffer

_GB = 10
_NO_MACHINE = "no-such-machine"
_NO_OFFER = VolumeOffer(id=OfferId("none-1"), machine_id=_NO_MACHINE, max_gb=_GB, price_month=Micro(0))


@dataclass(frozen=True, slots=True)
class _Site:
    """A bench, a volume offer of one host, and an offer of GPUs on the same host."""

    bench: Bench
    facts: VolumeFacts
    offer: VolumeOffer
    chunk: Offer

    async def made(self) -> InstanceId:
        """The id of a new volume. Raises Broken if it could not be created."""
        receipt = await self.create()
        if not isinstance(receipt, Receipt):
            raise Broken(f"creating a volume without a fault ended as {_named(receipt)}")
        return receipt.instance_id

    async def create(self) -> Receipt | ProviderError:
        """Create a volume with a new label."""
        return await ended(self.bench.provider.create_volume(self.offer, _GB, self.bench.lease_label()))

    async def listed(self) -> Mapping[InstanceId, ListedVolume]:
        """The volumes that the adapter lists."""
        await self.bench.clock.sleep(self.bench.provider.capabilities.listing_lag_seconds)
        found = await self.bench.provider.list_volumes()
        require(not found.unreadable, f"valid volumes are reported as unreadable: {found.unreadable}")
        return {volume.id: volume for volume in found.volumes}


async def a_volume_is_created_at_most_once_and_in_doubt_unknown(make: Make) -> None:
    """A volume is created with one request. Without a usable answer it may exist: OutcomeUnknown, never Refused."""
    for spoil in (None, *FAILURES, *OTHER_SCHEMA):
        site = await _site(make)
        if site is None:
            return
        if spoil is not None:
            site.bench.wire.spoil(spoil, which=site.facts.is_create, times=1)
        outcome = await site.create()
        when = "there is no fault" if spoil is None else spoil.value
        sent = sum(map(site.facts.is_create, site.bench.wire.requests))
        require(sent == 1, f"{sent} volumes were ordered when {when}")
        if spoil in NO_ANSWER:
            require(isinstance(outcome, OutcomeUnknown), f"when {when}, creating a volume ended as {_named(outcome)}")
        if spoil in BAD_ANSWER:
            require(not isinstance(outcome, Refused), f"when {when}, creating a volume ended as {_named(outcome)}")


async def an_error_with_a_volume_id_is_a_created_volume(make: Make) -> None:
    """If an error contains the id of a volume, the volume exists: a Receipt, or OutcomeUnknown with the id."""
    site = await _site(make)
    if site is None:
        return
    if site.facts.error_with_id is None:
        raise NotJudged("the subject has no such error")
    volume_id = site.facts.some_id
    site.bench.wire.spoil(site.facts.error_with_id(volume_id), which=site.facts.is_create, times=1)
    outcome = await site.create()
    if isinstance(outcome, Receipt):
        require(outcome.instance_id == volume_id, f"the receipt has the id {outcome.instance_id}, not {volume_id}")
        return
    told = isinstance(outcome, OutcomeUnknown) and volume_id.removeprefix("V.") in f"{outcome} {outcome.body}"
    require(told, f"an error with the id of a volume ended as {_named(outcome)}")


async def a_listing_of_volumes_is_everything_with_its_labels(make: Make) -> None:
    """Each volume of the account is listed with its label, its host and its size. Its id is no machine's."""
    site = await _site(make)
    if site is None:
        return
    made = {await site.made(), await site.made()}
    volumes, truth = await site.listed(), dict(site.facts.volumes())
    require({name: each.label for name, each in volumes.items()} == truth, f"{len(volumes)} of {len(truth)} are listed")
    require(made == set(truth), "a receipt has another id than the volume")
    for volume in volumes.values():
        right = volume.machine_id == site.offer.machine_id and volume.size_gb == _GB
        require(right, f"{volume.id} has {volume.size_gb} GB on {volume.machine_id}")
    require(not made & set(site.bench.subject.machines()), "a volume has the id of a machine")


async def a_failed_listing_of_volumes_is_an_error(make: Make) -> None:
    """A listing of volumes without a valid answer is an error and never an account without volumes."""
    site = await _site(make)
    if site is None:
        return
    await site.made()
    for spoil in (*FAILURES, *OTHER_SCHEMA):
        site.bench.wire.spoil(spoil)
        await must_fail(site.bench.provider.list_volumes(), spoil.value)


async def a_failed_search_for_volumes_is_an_error(make: Make) -> None:
    """A search for volumes is complete or an error. An unknown host has none."""
    site = await _site(make)
    if site is None:
        return
    none = await site.bench.provider.volume_offers([_NO_MACHINE], _GB)
    require(not none, f"a host that does not exist offers {len(none)} volumes")
    for spoil in (*FAILURES, *OTHER_SCHEMA):
        site.bench.wire.spoil(spoil)
        await must_fail(site.bench.provider.volume_offers([site.offer.machine_id], _GB), spoil.value)


async def a_deletion_of_a_volume_says_what_is_gone(make: Make) -> None:
    """The first deletion returns False, one of a volume that is gone True. Without a valid answer it is an error."""
    for spoil in (*FAILURES, *OTHER_SCHEMA):
        site = await _site(make)
        if site is None:
            return
        volume_id = await site.made()
        site.bench.wire.spoil(spoil)
        await must_fail(site.bench.provider.delete_volume(volume_id), spoil.value)
    site = await _site(make)
    if site is None:
        return
    volume_id = await site.made()
    first = await ended(site.bench.provider.delete_volume(volume_id))
    require(first is False, f"deleting an existing volume returned {first!r}, not False")
    require(volume_id not in site.facts.volumes(), "the volume still exists after its deletion was accepted")
    require(volume_id not in await site.listed(), "a deleted volume is still listed")
    again = await ended(site.bench.provider.delete_volume(volume_id))
    require(again is True, f"deleting a volume that is gone returned {again!r}, not True")


async def a_volume_that_a_machine_has_is_in_use(make: Make) -> None:
    """A machine gets its volume at birth. The listing then shows the machine, and a deletion raises VolumeInUse."""
    site = await _site(make)
    if site is None:
        return
    volume_id = await site.made()
    spec = replace(site.bench.spec, volume=VolumeMount(volume_id=volume_id, path="/data"))
    receipt = await ended(site.bench.provider.create(site.chunk, spec, site.bench.lease_label()))
    if not isinstance(receipt, Receipt):
        raise Broken(f"renting a machine with a volume ended as {_named(receipt)}")
    volume = (await site.listed())[volume_id]
    require(volume.used_by == (receipt.instance_id,), f"the volume is used by {volume.used_by}")
    require(volume.in_use, "a volume with a machine is not in use")
    refused = await ended(site.bench.provider.delete_volume(volume_id))
    require(isinstance(refused, VolumeInUse), f"deleting a volume in use ended as {_named(refused)}")
    require(volume_id in site.facts.volumes(), "a volume in use was deleted")


async def _site(make: Make) -> _Site | None:
    """A host with space for volumes and free GPUs. None: the marketplace has no volumes, and the adapter says so."""
    bench = Bench(make)
    facts = bench.subject.volumes
    if "volumes" in bench.provider.capabilities.missing:
        await _is_refused(bench)
        return None
    if facts is None:
        raise NotJudged("the subject says nothing about volumes")
    chunks = {chunk.machine_id: chunk for chunk in reversed(await bench.all_offers())}
    found = await bench.provider.volume_offers(chunks, 3 * _GB)
    if not found:
        raise NotJudged("no host of the stand-in has space for volumes")
    bench.wire.forget()
    return _Site(bench, facts, found[0], chunks[found[0].machine_id])


async def _is_refused(bench: Bench) -> None:
    """Require that every call about volumes raises NotSupported."""
    provider = bench.provider
    for call in (
        provider.volume_offers([_NO_MACHINE], _GB),
        provider.create_volume(_NO_OFFER, _GB, bench.lease_label()),
        provider.list_volumes(),
        provider.delete_volume(InstanceId("1")),
    ):
        outcome = await ended(call)
        require(isinstance(outcome, NotSupported), f"without volumes, a call about them ended as {_named(outcome)}")
    require(not bench.wire.requests, "a call about volumes was sent, although the capability is missing")


def _named(outcome: object) -> str:
    return f"{type(outcome).__name__}: {outcome}"
