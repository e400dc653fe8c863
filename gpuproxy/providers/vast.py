"""The vast.ai adapter: one object per account, speaking the wire described in the project's facts on vast.ai.

The rule: a create goes onto the wire once, and every read that is not exactly what was asked for is an error. Reads
and destroys wait for their turn here; creates are paced by the caller, who may run in many processes.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from math import isfinite
from typing import TypeVar
from urllib.parse import quote, urlencode

import msgspec
import structlog

from gpuproxy.model.demands import LaunchSpec
from gpuproxy.model.errors import Advice, OutcomeUnknown, ProviderUnavailable, RateLimited, Refused
from gpuproxy.model.leases import InstanceId
from gpuproxy.model.money import Micro, micro
from gpuproxy.model.offers import Offer, OfferFilter
from gpuproxy.pacing import Pace, Window
from gpuproxy.ports import (
    Capabilities,
    HttpNotSent,
    HttpReplyLost,
    HttpRequest,
    Instance,
    Inventory,
    Provider,
    ProviderSetup,
    Receipt,
    Spend,
)
from gpuproxy.providers.secrecy import cut, secrets_of
from gpuproxy.providers.vast_errors import (
    LONGEST_QUOTA,
    LONGEST_RETRY_AFTER,
    Reply,
    created,
    destroyed,
    no_such_instance,
    switched,
    unread,
)
from gpuproxy.providers.vast_requests import (
    SEARCH_CAP,
    Stretch,
    charges_query,
    create_body,
    is_log_address,
    native_id,
    next_stretch,
    search_body,
)
from gpuproxy.providers.vast_wire import (
    NAME,
    Charge,
    ChargesPage,
    Found,
    ListPage,
    LogAddress,
    OneInstance,
    Unreadable,
    User,
    by_instance,
    charge_of,
    read_instance,
    read_search,
)

T = TypeVar("T")

log = structlog.get_logger(__name__)

BASE_URL = "https://console.vast.ai"
INTERVALS: Mapping[str, float] = {
    "search": 6.0,  # ten a minute, at once or spread
    "list": 1.0,
    "get": 2.0,
    "destroy": 3.0,
    "create": 4.5,
    "user": 1.0,
    "manage": 1.0,
    "charges": 1.0,
}
"""Seconds between two calls, as documented."""
_SEARCH_BURST = 10
_MOST_SECRETS = 4096
_MARGIN = 1.02  # two calls may travel at different speeds
_LONGEST_WAIT = 120.0
_LIST_WAIT = 10.0
_TIMEOUTS: Mapping[str, float] = {"search": 60.0, "create": 30.0, "call": 30.0}
_LOG_LOOKS, _LOG_SECONDS, _LOG_BYTES = 20, 1.0, 4 * 1024 * 1024
_INLINE_BYTES = 262_144  # decoded on the loop; more goes to the workers
_LIST_QUERY = {"order_by": '[{"col":"id","dir":"asc"}]', "limit": "25"}

_MISSING = {
    "volumes": "volumes of vast.ai can't be used through this service yet",
    "volume_sharing": "nobody has shown that two machines of vast.ai can share a volume",
    "spot": "interruptible machines are not rented: vast.ai may take them away without notice",
    "extend": "a machine of vast.ai runs until it is destroyed or its host's offer ends; there is nothing to buy",
}


def connect(setup: ProviderSetup) -> Provider:
    """The entry point of the group `gpuproxy.providers`."""
    return VastAi(setup)


class VastAi:
    """One account."""

    name = NAME

    def __init__(self, setup: ProviderSetup) -> None:
        self.account = setup.account
        self.skipped_offers = 0
        """Rows of searches that could not be decoded, since the start."""
        intervals = {name: setup.intervals.get(name, seconds) for name, seconds in INTERVALS.items()}
        self._intervals = intervals
        self._timeouts = {**_TIMEOUTS, **setup.timeouts}
        self.capabilities = Capabilities(
            missing=_MISSING,
            billing="metered",
            search_page=SEARCH_CAP,
            create_interval=intervals["create"],
            create_timeout=self._timeouts["create"],
            destroy_interval=intervals["destroy"],
            settle_seconds=60.0,
            late_seconds=300.0,
        )
        self._setup = setup
        self._base_url = (setup.base_url or BASE_URL).rstrip("/")
        self._turns: dict[str, Pace | Window] = {
            name: Pace(setup.clock, seconds * _MARGIN) for name, seconds in intervals.items() if name != "create"
        }
        self._secrets: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        """Of launches, by label."""
        self._turns["search"] = Window(setup.clock, _SEARCH_BURST, _SEARCH_BURST * intervals["search"] * _MARGIN)

    async def search(self, wanted: OfferFilter) -> AsyncIterator[Sequence[Offer]]:
        """Pages of rentable offers, cheapest first. A limit or a fault in the middle ends it with an error."""
        if wanted.offer_id is not None and native_id(wanted.offer_id) is None:
            return
        seen: set[str] = set()
        stretch: Stretch | None = Stretch()
        while stretch is not None:
            found = await self._found(search_body(wanted, stretch))
            fresh = [offer for offer in found.offers if offer.id not in seen]
            seen.update(offer.id for offer in fresh)
            if fresh:
                yield fresh
            stretch = next_stretch(stretch, found)

    async def create(self, offer: Offer, spec: LaunchSpec, label: str) -> Receipt:
        """Rent `offer`: one PUT, judged by its body. The caller keeps `capabilities.create_interval`."""
        secrets = self._kept_secret(label, spec)
        path = f"/api/v0/asks/{quote(offer.native_id(), safe='')}/"
        request = self._request("create", "PUT", path, create_body(spec, label))
        try:
            reply = await self._sent(request, secrets)
        except HttpNotSent as error:
            raise ProviderUnavailable(f"{NAME} can't be reached: {error}") from error
        except HttpReplyLost as error:
            raise OutcomeUnknown(f"the answer to a create was lost: {error}") from error
        return created(reply)

    async def list(self) -> Inventory:
        """Everything of the account: all pages, each of the right form, as many rows as are claimed, or an error."""
        instances: dict[InstanceId, Instance] = {}
        tokens: set[str] = set()
        query = _LIST_QUERY
        if (wait := self._turns["list"].wait()) > _LIST_WAIT:  # ends and releases are waiting for this answer
            raise RateLimited(f"{NAME} allows no list for another {wait:.0f} s", retry_after=wait)
        while True:
            reply = await self._read("list", f"/api/v1/instances/?{urlencode(query)}")
            page, rows = self._list_page(reply)
            before = len(instances)
            instances |= {row.id: self._discreet(row) for row in rows}
            token = page.next_token
            if token is None:
                if (page.total_instances or 0) > len(instances):
                    raise ProviderUnavailable(f"{NAME} claims {page.total_instances} instances, lists {len(instances)}")
                return Inventory(instances=tuple(instances.values()))
            if token in tokens or len(instances) == before:
                raise ProviderUnavailable(f"{NAME} lists the same page again")
            tokens.add(token)
            query = {**_LIST_QUERY, "after_token": token}

    async def get(self, instance_id: InstanceId) -> Instance | None:
        """None when vast.ai says in so many words that there is no such instance."""
        reply = await self._read("get", f"{_path(instance_id)}?owner=me")
        if no_such_instance(reply):
            return None
        try:
            instance = read_instance(self._decoded("get", reply, OneInstance).instances)
        except Unreadable as error:
            raise self._unread("get", reply) from error
        if instance is not None and instance.id != instance_id:
            raise self._unread("get", reply)
        return None if instance is None else self._discreet(instance)

    async def destroy(self, instance_id: InstanceId) -> bool:
        """True: vast.ai says that there is none. OutcomeUnknown may be tried again: destroying twice does no harm."""
        return await self._told("destroy", self._request("destroy", "DELETE", _path(instance_id), {}), destroyed)

    async def start(self, instance_id: InstanceId) -> None:
        """Return when accepted. NoCapacity: vast.ai has queued the start until the GPUs are free."""
        await self._switch(instance_id, "running")

    async def stop(self, instance_id: InstanceId) -> None:
        """Return when accepted; a queued start is forgotten."""
        await self._switch(instance_id, "stopped")

    async def logs(self, instance_id: InstanceId, lines: int) -> Sequence[str]:
        """The host brings its log to an address of its own, which is asked without our key until it is there."""
        body = {"tail": str(lines)}
        await self._turn("manage")
        path = f"/api/v0/instances/request_logs/{quote(instance_id, safe='')}/"
        try:
            reply = await self._sent(self._request("manage", "PUT", path, body))
            address = self._decoded("manage", reply, LogAddress)
            if not address.success or not is_log_address(address.result_url, self._base_url):
                raise self._unread("manage", reply)
            for _ in range(_LOG_LOOKS):
                request = HttpRequest(
                    method="GET", url=address.result_url, timeout=self._timeouts["call"], max_bytes=_LOG_BYTES
                )
                response = await self._setup.http.send(request)
                if response.status == 200:
                    return response.body.decode("utf-8", "replace").splitlines()[-lines:]
                await self._setup.clock.sleep(_LOG_SECONDS)
        except (HttpNotSent, HttpReplyLost) as error:
            raise ProviderUnavailable(f"{NAME} did not give the log: {error}") from error
        raise ProviderUnavailable(f"{NAME} has not brought the log of {instance_id} after {_LOG_LOOKS} looks")

    async def charges(self, since: datetime, until: datetime) -> Mapping[InstanceId, Micro]:
        """By whole days, so that everything of an instance that began and ended within them is there."""
        charges: dict[Charge, None] = {}
        odd: set[str] = set()
        rows = 0
        query = charges_query(since, until)
        tokens: set[str] = set()
        while True:
            reply = await self._read("charges", f"/api/v0/charges/?{urlencode(query)}")
            page = self._decoded("charges", reply, ChargesPage)
            if not page.success:
                raise ProviderUnavailable(f"{NAME} gave no charges")
            rows += len(page.results)
            for source, charge in map(charge_of, page.results):
                if charge is None:
                    odd.add(source)
                else:
                    charges[charge] = None  # a row that is listed twice is one charge
            token = None if page.next_token is None else str(page.next_token)
            if token is None:
                break
            if token in tokens:
                raise ProviderUnavailable(f"{NAME} lists the same charges again")
            tokens.add(token)
            query = {**query, "after_token": token}
        if page.total is not None and rows != page.total:
            raise ProviderUnavailable(f"{NAME} claims {page.total} charges, lists {rows}")
        return by_instance(charges, odd)

    async def spend(self) -> Spend:
        """What is left to spend, and whose it is."""
        reply = await self._read("user", "/api/v0/users/current/")
        user = self._decoded("user", reply, User)
        if not isfinite(user.credit):
            raise self._unread("user", reply)
        return Spend(credit=micro(user.credit), owner="" if user.id is None else str(user.id))

    async def _switch(self, instance_id: InstanceId, state: str) -> None:
        """A change of state; OutcomeUnknown may be tried again: the second one changes nothing."""
        await self._told("manage", self._request("manage", "PUT", _path(instance_id), {"state": state}), switched)

    async def _told(self, endpoint: str, request: HttpRequest, judge: Callable[[Reply, float], T]) -> T:
        """A call that may be repeated: return when `judge` takes its answer for an acceptance."""
        await self._turn(endpoint)
        try:
            reply = await self._sent(request)
        except HttpNotSent as error:
            raise ProviderUnavailable(f"{NAME} can't be reached: {error}") from error
        except HttpReplyLost as error:
            raise OutcomeUnknown(f"the answer was lost: {error}", advice=Advice.RETRY_LATER) from error
        try:
            return judge(reply, self._intervals[endpoint])
        except RateLimited as error:
            self._heed(endpoint, error, reply)
            raise

    def _kept_secret(self, label: str, spec: LaunchSpec) -> tuple[str, ...]:
        """The secrets of a launch, remembered for as long as its machine may echo them."""
        secrets = secrets_of(spec)
        if secrets:
            self._secrets[label] = secrets
        while len(self._secrets) > _MOST_SECRETS:
            self._secrets.popitem(last=False)
        return secrets

    def _discreet(self, instance: Instance) -> Instance:
        """A machine's status may show how it was started."""
        said = cut(instance.status_message, (self._setup.key, *self._secrets.get(instance.label or "", ())))
        return instance if said == instance.status_message else replace(instance, status_message=said)

    async def _found(self, body: Mapping[str, object]) -> Found:
        reply = await self._read("search", "/api/v0/bundles/", body)
        if reply.response.status != 200:
            raise self._unread("search", reply)
        try:
            raw, marks = reply.response.body, self._setup.marks
            if len(raw) <= _INLINE_BYTES:
                found = read_search(raw, marks)
            else:
                found = await self._setup.workers.run(read_search, raw, marks)
        except Unreadable as error:
            raise self._unread("search", reply) from error
        if found.undecodable * 2 > found.rows:
            raise ProviderUnavailable(f"{NAME} sent {found.rows} offers, of which {found.undecodable} can't be read")
        if found.undecodable:
            self.skipped_offers += found.undecodable
            log.info("offers_skipped", provider=NAME, account=self.account, skipped=found.undecodable, of=found.rows)
        return found

    def _list_page(self, reply: Reply) -> tuple[ListPage, Sequence[Instance]]:
        page = self._decoded("list", reply, ListPage)
        try:
            rows = [read_instance(row) for row in page.instances]
        except Unreadable as error:
            raise self._unread("list", reply) from error
        present = [row for row in rows if row is not None]
        if not page.success or len(present) < len(rows):
            raise self._unread("list", reply)
        return page, present

    def _decoded(self, endpoint: str, reply: Reply, kind: type[T]) -> T:
        if reply.response.status != 200:
            raise self._unread(endpoint, reply)
        try:
            return msgspec.json.decode(reply.response.body, type=kind, strict=False)
        except Unreadable as error:
            raise self._unread(endpoint, reply) from error

    async def _read(self, endpoint: str, path: str, body: Mapping[str, object] | None = None) -> Reply:
        """The answer to a question; a question with a body is a POST."""
        await self._turn(endpoint)
        patience = LONGEST_QUOTA if endpoint == "search" else LONGEST_RETRY_AFTER
        try:
            return await self._sent(
                self._request(endpoint, "GET" if body is None else "POST", path, body), patience=patience
            )
        except (HttpNotSent, HttpReplyLost) as error:
            raise ProviderUnavailable(f"{NAME} did not answer: {error}") from error

    async def _turn(self, endpoint: str) -> None:
        turns = self._turns[endpoint]
        if (wait := turns.wait()) > _LONGEST_WAIT:
            raise RateLimited(f"{NAME} allows no {endpoint} for another {wait:.0f} s", retry_after=wait)
        await turns.turn()

    def _unread(self, endpoint: str, reply: Reply) -> Refused:
        """The error that a useless answer to a read is; a limit is heeded from now on."""
        error = unread(reply, wait=self._intervals[endpoint])
        if isinstance(error, RateLimited):
            self._heed(endpoint, error, reply)
        return error

    def _heed(self, endpoint: str, limited: RateLimited, reply: Reply) -> None:
        turns = self._turns[endpoint]
        if isinstance(turns, Pace):  # first: a hold counts back from the interval
            turns.interval = max(turns.interval, (reply.named_interval() or 0.0) * _MARGIN)
        turns.hold(limited.retry_after or 0.0)

    def _request(self, endpoint: str, method: str, path: str, body: Mapping[str, object] | None) -> HttpRequest:
        headers = {"Authorization": f"Bearer {self._setup.key}", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        return HttpRequest(
            method=method,
            url=self._base_url + path,
            headers=headers,
            body=None if body is None else msgspec.json.encode(body),
            timeout=self._timeouts.get(endpoint, self._timeouts["call"]),
        )

    async def _sent(
        self, request: HttpRequest, secrets: Sequence[str] = (), *, patience: float = LONGEST_RETRY_AFTER
    ) -> Reply:
        """The only place that sends. Raises what the Http port raises."""
        response = await self._setup.http.send(request)
        received_at = self._setup.clock.now()
        return Reply(response=response, received_at=received_at, secrets=(self._setup.key, *secrets), patience=patience)


def _path(instance_id: InstanceId) -> str:
    return f"/api/v0/instances/{quote(instance_id, safe='')}/"
