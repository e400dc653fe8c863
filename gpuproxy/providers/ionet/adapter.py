"""The io.net adapter: one object for each account, for virtual machines (VMaaS).

The rule: a deploy and an extension are sent at most once, because io.net has no idempotency keys and books whole hours.
The only handle of a machine is its name, which is our label. Reads and destroys keep their intervals here. The caller
paces creates.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

import structlog

from gpuproxy.model.demands import LaunchSpec
from gpuproxy.model.errors import (
    Advice,
    AuthFailed,
    InvalidRequest,
    NoCapacity,
    NotSupported,
    OutcomeUnknown,
    PriceMoved,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    Scope,
    Violation,
)
from gpuproxy.model.leases import InstanceId
from gpuproxy.model.money import Micro, dollars
from gpuproxy.model.offers import Offer, OfferFilter
from gpuproxy.ports import (
    Inventory,
    ListedInstance,
    ProviderSetup,
    Receipt,
    Spend,
    VolumeInventory,
    VolumeOffer,
)
from gpuproxy.providers.ionet.api import IoNetApi
from gpuproxy.providers.ionet.capabilities import CAPABILITIES, INTERVALS, MISSING
from gpuproxy.providers.ionet.configurations import Configuration, configuration_of
from gpuproxy.providers.ionet.deployments import Accesses, walk
from gpuproxy.providers.ionet.errors import Reply, no_such_deployment, refusal_of, refusal_of_create, unknown
from gpuproxy.providers.ionet.instances import FAILED, Deployment, in_few_words, read_one
from gpuproxy.providers.ionet.requests import (
    LONGEST_BOOKING,
    deploy_body,
    deployment_path,
    launch_violations,
    price_query,
)
from gpuproxy.providers.ionet.wire import NAME, PREFIX, offers_of, read_hardware, read_quote
from gpuproxy.providers.secrecy import cut, secrets_of

log = structlog.get_logger(__name__)

_LIST_WAIT = 10.0
_LOOK_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each look for a new deployment, whose id the answer to a deploy does not tell."""
_LOOK_SECONDS = 30.0
_QUOTED_SECONDS = 3_600.0
_MOST_REMEMBERED = 4_096
_ENDING = "termination requested"

K = TypeVar("K")
V = TypeVar("V")


class IoNet:
    """The Provider of one io.net account."""

    name = NAME

    def __init__(self, setup: ProviderSetup) -> None:
        self.account = setup.account
        self.skipped_offers = 0
        """The number of hardware rows that could not be decoded since the start."""
        intervals = {name: setup.intervals.get(name, seconds) for name, seconds in INTERVALS.items()}
        self._api = IoNetApi(setup, intervals)
        self.capabilities = replace(
            CAPABILITIES,
            search_interval=intervals["search"],
            create_interval=intervals["create"],
            create_timeout=self._api.timeouts["create"],
            destroy_interval=intervals["destroy"],
        )
        self._setup = setup
        self._clock = setup.clock
        self._hours = min(max(1, setup.prepaid_hours), LONGEST_BOOKING)
        self._accesses = Accesses(self._api, setup.clock, self._discreet)
        self._quoted: OrderedDict[Configuration, tuple[float, Micro]] = OrderedDict()
        """Prices per hour that io.net asked for a booking because they differ from its list, and when."""
        self._created: OrderedDict[InstanceId, float] = OrderedDict()
        """When each new deployment was created: at first, io.net may not find it."""
        self._failures: OrderedDict[InstanceId, None] = OrderedDict()
        """The failed deployments whose events were logged."""

    def check_launch(self, spec: LaunchSpec) -> Sequence[Violation]:
        """io.net starts its own image with SSH: no environment, script or arguments."""
        return launch_violations(spec)

    async def search(self, wanted: OfferFilter) -> AsyncIterator[Sequence[Offer]]:
        """One page with everything that io.net rents out, cheapest first. The caller filters."""
        if wanted.offer_id is not None and _configuration(wanted.offer_id) is None:
            return
        reply = await self._api.read("search", "/hardware")
        found = await self._api.decoded("search", reply, read_hardware)
        if found.undecodable * 2 > found.rows:
            raise ProviderUnavailable(f"{NAME} sent {found.rows} rows, of which {found.undecodable} can't be read")
        if found.undecodable:
            self.skipped_offers += found.undecodable
            log.info("offers_skipped", provider=NAME, account=self.account, skipped=found.undecodable, of=found.rows)
        seen = str(int(reply.received_at.timestamp()))
        offers = offers_of(found, seen, self._fresh_quotes(), self._setup.marks)
        if offers:
            yield offers

    async def create(self, offer: Offer, spec: LaunchSpec, label: str) -> Receipt:
        """Confirm the price, and book a machine with one POST. The label is its name. The caller keeps the interval.

        The answer usually has no id. Then the name is looked for in the listing; OutcomeUnknown if it does not appear.
        """
        what = _configuration(offer.id)
        if what is None:
            raise InvalidRequest(f"{offer.id} is no offer of {NAME}", scope=Scope.OFFER)
        body = deploy_body(what, spec, label, self._hours)
        began, most = self._clock.monotonic(), self._api.timeouts["create"]
        paid = await self._confirmed_price(what, offer.gpu_price, within=most / 2)
        left = most - (self._clock.monotonic() - began) / self._clock.scale
        reply = await self._api.change(
            "create", "POST", "/deploy", body, what="a create", secrets=secrets_of(spec), within=max(left, most / 2)
        )
        until = reply.received_at + timedelta(hours=self._hours)
        made = await self._made(reply, label)
        _remember(self._created, made, self._clock.monotonic())
        return Receipt(instance_id=made, paid=paid, booked_until=until)

    async def list(self) -> Inventory:
        """All deployments that have not ended. Raises a ProviderError if a page is missing, invalid or repeated."""
        if (wait := self._api.wait("list")) > _LIST_WAIT:  # expiries and releases are waiting for this answer
            raise RateLimited(f"{NAME} allows the next listing in {wait:.0f} s", retry_after=wait)
        found = await walk(self._api, self._clock, self._discreet)
        live = [each.instance for each in found.deployments if not each.ended]
        await self._accesses.look(live)
        return Inventory(
            instances=tuple(map(self._accesses.on, live)),
            unreadable=in_few_words(found.troubles),
            sent_at=found.sent_at,
            ended=frozenset(each.instance.label for each in found.deployments if each.ended and each.instance.label),
        )

    async def get(self, instance_id: InstanceId) -> ListedInstance | None:
        """The deployment, with what was paid for it and without its name.

        None only if io.net says that it does not exist, and some time after its create, or that it has ended.
        """
        found = await self._read(instance_id)
        if found is None:
            lag = self._clock.monotonic() - self._created.get(instance_id, float("-inf"))
            if lag < self.capabilities.listing_lag_seconds:
                raise ProviderUnavailable(f"{NAME} does not find the new deployment {instance_id} yet")
            return None
        if found.status == FAILED:
            await self._log_failure(instance_id)
        return None if found.ended else self._accesses.on(found.instance)

    async def destroy(self, instance_id: InstanceId) -> bool:
        """False: accepted. True: io.net says that there is no such deployment any more.

        After OutcomeUnknown the call can be repeated: destroying twice does no harm.
        """
        try:
            reply = await self._api.change("destroy", "DELETE", deployment_path(instance_id), None, what="a destroy")
        except OutcomeUnknown as error:
            raise OutcomeUnknown(str(error), advice=Advice.RETRY_LATER) from error
        said = reply.said()
        if reply.accepted and not said.failed and isinstance(said.fields.get("status"), str):
            self._created.pop(instance_id, None)
            return False
        if no_such_deployment(reply, instance_id):
            return True
        refusal = refusal_of(reply, said)
        if (reply.accepted and not said.failed) or (reply.status in (404, 409, 410) and not _of_key(refusal)):
            return await self._is_gone_or_ending(reply, instance_id)
        raise refusal or unknown(reply, again=True)

    async def extend(self, instance_id: InstanceId, hours: int) -> None:
        """Book more hours with one POST. Raises a Refused, or OutcomeUnknown if they may have been bought."""
        if not 1 <= hours <= LONGEST_BOOKING:
            raise InvalidRequest(f"{NAME} extends a booking by 1 to {LONGEST_BOOKING} hours, not {hours}")
        path, most = f"{deployment_path(instance_id)}/extend", self._api.timeouts["create"]
        wait = self._api.wait("extend") / self._clock.scale
        if wait > most / 2:  # the caller takes it for executed or not `create_timeout` after its call
            raise RateLimited(f"{NAME} allows the next extension in {wait:.0f} s", retry_after=wait * self._clock.scale)
        reply = await self._api.change(
            "extend", "POST", path, {"duration_hours": hours}, what="an extension", within=most - wait
        )
        said = reply.said()
        if not reply.accepted or said.failed:
            raise refusal_of(reply, said) or unknown(reply, again=False)
        if (
            said.fields.get("id") != instance_id
            and not {"amount_paid", "compute_minutes_remaining"} & said.fields.keys()
        ):
            raise unknown(reply, again=False)

    async def used(self, instance_id: InstanceId) -> timedelta | None:
        """The minutes that the deployment was served; None before it has ended, and once io.net has forgotten it."""
        found = await self._read(instance_id)
        return found.served if found is not None and found.ended else None

    async def start(self, instance_id: InstanceId) -> None:
        """Not possible."""
        raise NotSupported(f"{MISSING['stop_start']}: {instance_id}")

    async def stop(self, instance_id: InstanceId) -> None:
        """Not possible."""
        raise NotSupported(f"{MISSING['stop_start']}: {instance_id}")

    async def relabel(self, instance_id: InstanceId, label: str) -> None:
        """Not possible."""
        raise NotSupported(f"{MISSING['container_key']}: {instance_id}, {label}")

    async def logs(self, instance_id: InstanceId, lines: int) -> Sequence[str]:
        """Not possible."""
        raise NotSupported(f"{MISSING['logs']}: {instance_id}, {lines} lines")

    async def add_ssh_key(self, instance_id: InstanceId, public_key: str) -> None:
        """Not possible."""
        raise NotSupported(f"{MISSING['ssh_keys']}: {instance_id}, {public_key}")

    async def charges(self, since: datetime, until: datetime) -> Mapping[InstanceId, Micro]:
        """Not possible."""
        raise NotSupported(f"{MISSING['charges']}: {since} to {until}")

    async def spend(self) -> Spend:
        """Not possible."""
        raise NotSupported(MISSING["credit"])

    async def volume_offers(self, machine_ids: Collection[str], size_gb: int) -> Sequence[VolumeOffer]:
        """Not possible."""
        raise NotSupported(f"{MISSING['volumes']}: {size_gb} GB on {len(machine_ids)} machines")

    async def create_volume(self, offer: VolumeOffer, size_gb: int, label: str) -> Receipt:
        """Not possible."""
        raise NotSupported(f"{MISSING['volumes']}: {label}, {size_gb} GB of {offer.id}")

    async def list_volumes(self) -> VolumeInventory:
        """Not possible."""
        raise NotSupported(MISSING["volumes"])

    async def delete_volume(self, volume_id: InstanceId) -> bool:
        """Not possible."""
        raise NotSupported(f"{MISSING['volumes']}: {volume_id}")

    async def _confirmed_price(self, what: Configuration, price: Micro, *, within: float) -> Micro:
        """What io.net asks for the booking. PriceMoved: more than `price` per hour. A price that rose is remembered."""
        reply = await self._api.read("create", f"/price?{price_query(what, self._hours)}", within=within)
        quote = await self._api.decoded("create", reply, read_quote)
        if not quote.available:
            raise NoCapacity(f"{NAME} has none of {what.cards} x {what.pool} free", scope=Scope.OFFER)
        if quote.total > (price + 1) * self._hours:
            rate = Micro(-(-quote.total // self._hours))
            _remember(self._quoted, what, (self._clock.monotonic(), rate))
            raise PriceMoved(
                f"{NAME} asks {dollars(quote.total)} for {self._hours} h, which is more than {dollars(price)} per hour"
            )
        return quote.total

    async def _made(self, reply: Reply, label: str) -> InstanceId:
        """The id of the deployment that was created. Raises a Refused or OutcomeUnknown."""
        said = reply.said()
        if (made := said.created_id(accepted=reply.accepted)) is not None:
            return made
        if not reply.accepted or said.failed:
            raise refusal_of_create(reply, said) or unknown(reply, again=False)
        latest = self._clock.monotonic() + _LOOK_SECONDS * max(1.0, self._clock.scale)
        for pause in _LOOK_PAUSES:
            await self._clock.sleep(pause)
            named = await self._named(label)
            if len(named) == 1:
                return named.pop()
            if named or self._clock.monotonic() > latest:
                break
        raise OutcomeUnknown(
            f"{NAME} accepted the create of {label} without telling its id, and does not list exactly one deployment "
            "with this name",
            status=reply.status,
            body=reply.excerpt(),
        )

    async def _named(self, label: str) -> set[InstanceId]:
        """The deployments with this name, ended ones only if no other has it. Empty if the listing fails."""
        try:
            found = await walk(self._api, self._clock, self._discreet)
        except ProviderError as error:
            log.info("lookup_failed", account=self.account, label=label, reason=error.reason)
            return set()
        named = [each for each in found.deployments if each.instance.label == label]
        live = {each.instance.id for each in named if not each.ended}
        return live or {each.instance.id for each in named}

    async def _read(self, instance_id: InstanceId) -> Deployment | None:
        """A single read. None only if io.net says that the deployment does not exist."""
        reply = await self._api.read("get", deployment_path(instance_id))
        if no_such_deployment(reply, instance_id):
            return None
        found = await self._api.decoded("get", reply, read_one, reply.received_at, self._discreet)
        if found.instance.id != instance_id:
            raise self._api.unread("get", reply)
        return found

    async def _is_gone_or_ending(self, reply: Reply, instance_id: InstanceId) -> bool:
        """What became of a destroy whose answer is not clear: the deployment itself tells."""
        try:
            found = await self._read(instance_id)
        except ProviderError as error:
            raise unknown(reply, again=True) from error
        if found is None or found.ended:
            return True
        if found.status == _ENDING:
            return False
        raise unknown(reply, again=True)

    async def _log_failure(self, instance_id: InstanceId) -> None:
        """Log once why a deployment failed, as far as its events tell."""
        if instance_id in self._failures:
            return
        try:
            events = (await self._accesses.read(instance_id)).events
        except ProviderError:
            events = ""
        _remember(self._failures, instance_id, None)
        log.warning("deployment_failed", account=self.account, contract=instance_id, events=events)

    def _fresh_quotes(self) -> Mapping[Configuration, Micro]:
        oldest = self._clock.monotonic() - _QUOTED_SECONDS
        return {what: rate for what, (at, rate) in self._quoted.items() if at >= oldest}

    def _discreet(self, text: str) -> str:
        return cut(text, (self._setup.key,))


def _configuration(offer_id: str) -> Configuration | None:
    prefix, _, native = offer_id.partition("-")
    return configuration_of(native) if prefix == PREFIX else None


def _of_key(error: ProviderError | None) -> bool:
    return isinstance(error, AuthFailed | RateLimited)


def _remember(store: OrderedDict[K, V], key: K, value: V) -> None:
    """Keep a value, and forget the oldest ones."""
    store[key] = value
    store.move_to_end(key)
    while len(store) > _MOST_REMEMBERED:
        store.popitem(last=False)
