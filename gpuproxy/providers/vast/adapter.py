"""The vast.ai adapter: one object for each account.

The rule: a create is sent at most once, and a read without exactly the requested content is an error. Reads and
destroys keep their intervals here. The caller paces creates, because it may run in several processes.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import chain, islice
from urllib.parse import quote, urlencode

import structlog

from gpuproxy.model.demands import LaunchSpec
from gpuproxy.model.errors import NotSupported, OutcomeUnknown, ProviderUnavailable, RateLimited, Violation
from gpuproxy.model.leases import InstanceId
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import Offer, OfferFilter
from gpuproxy.ports import (
    Capabilities,
    HttpNotSent,
    HttpReplyLost,
    HttpRequest,
    Inventory,
    ListedInstance,
    PacedCall,
    ProviderSetup,
    Receipt,
    Spend,
    VolumeInventory,
    VolumeOffer,
)
from gpuproxy.providers.secrecy import MOST_SECRETS, cut, secrets_of
from gpuproxy.providers.vast.account import Charge, by_instance, read_charges, read_spend
from gpuproxy.providers.vast.api import MARGIN, TIMEOUTS, Pages, VastApi
from gpuproxy.providers.vast.errors import created, destroyed, key_added, no_such_instance, switched
from gpuproxy.providers.vast.instances import Discretion, in_few_words, read_listing, read_log_address, read_one
from gpuproxy.providers.vast.requests import (
    SEARCH_CAP,
    Stretch,
    can_find,
    charges_query,
    create_body,
    is_log_address,
    launch_violations,
    left_out,
    next_stretch,
    search_body,
)
from gpuproxy.providers.vast.status import GPU_FAILURE
from gpuproxy.providers.vast.volume_calls import VOLUME_ENDPOINTS, VolumeCalls
from gpuproxy.providers.vast.wire import NAME, Found, read_search

log = structlog.get_logger(__name__)

BASE_URL = "https://console.vast.ai"
CALLS = (
    PacedCall(name="search", seconds=6.0, what="searches"),  # ten a minute, at once or spread
    PacedCall(name="create", seconds=4.5, what="creates"),
    PacedCall(name="list", seconds=1.0, what="listings"),
    PacedCall(name="get", seconds=2.0, what="single reads"),
    PacedCall(name="destroy", seconds=3.0, what="destroys"),
    PacedCall(name="manage", seconds=1.0, what="starts, stops and log reads"),
    PacedCall(name="volumes", seconds=5.5, what="volume calls"),  # of one kind: search, create, list, delete
)
_UNLISTED = {"user": 1.0, "charges": 1.0, "ssh_key": 1.0}
INTERVALS: Mapping[str, float] = {call.name: call.seconds for call in CALLS} | _UNLISTED
"""Minimum seconds between two calls, as vast.ai documents them."""
_MOST_STRETCHES = 2_000
"""Maximum requests of one search: 128,000 offers, 64 at a time."""
_MOST_SECRETS = 4096
_LIST_WAIT = 10.0
_LIST_ROWS = 25
"""Rows on a page of a listing; the maximum that vast.ai allows."""
_LIST_PAGES, _LIST_SECONDS = 200, 60.0
"""Maximum pages of a listing, and maximum seconds, in addition to the intervals between the pages."""
_CHARGES_PAGES, _CHARGES_SECONDS = 200, 300.0
_LOG_LOOKS, _LOG_SECONDS, _LOG_BYTES = 20, 1.0, 4 * 1024 * 1024
_LIST_QUERY = {"order_by": '[{"col":"id","dir":"asc"}]', "limit": str(_LIST_ROWS)}

_NO_CONTAINER_KEY = "a machine of this account can't read its own label, as a probe has shown"
_MISSING = {
    "hold_gpu": "a container of vast.ai can't read its own label, so a running standby would not know when it is "
    "promoted",
    "spot": "interruptible machines are not rented, because vast.ai may stop them without notice",
    "extend": "a machine of vast.ai runs until it is destroyed or its offer ends; its time can't be extended",
}


def missing(container_key: bool | None) -> Mapping[str, str]:
    """The missing capabilities. `container_key`: what a probe measured; without a measurement, a container can."""
    return _MISSING if container_key is not False else {**_MISSING, "container_key": _NO_CONTAINER_KEY}


OWN_READ = """\
[ -n "$CONTAINER_API_KEY" ] || exit 2
python3 - <<'gpuproxy' 2>/dev/null
import json, os, sys, time, urllib.error, urllib.request
def refused():
    number = os.environ["CONTAINER_ID"]
    url = os.environ.get("GPUPROXY_BOOT_API", "https://console.vast.ai") + "/api/v0/instances/" + number + "/"
    asked = urllib.request.Request(url, headers={"Authorization": "Bearer " + os.environ["CONTAINER_API_KEY"]})
    try:
        row = json.load(urllib.request.urlopen(asked, timeout=20))["instances"]
    except urllib.error.HTTPError as error:
        return json.load(error)["error"] == "auth_error" or sys.exit(3)
    sys.exit(0 if str(row["id"]) == number and row["label"] else 3)
try:
    refused()
    time.sleep(float(os.environ.get("GPUPROXY_BOOT_MINUTE", "60")) / 6)
    refused()
except Exception:
    sys.exit(3)
sys.exit(10)
gpuproxy
code=$?
case $code in 10) exit 1 ;; 1) exit 3 ;; *) exit $code ;; esac"""
"""For the descriptor. It sends the same request as the watchdog (boot/sh/ending.sh), and believes two refusals only.

vast.ai documents that this key may start, stop and destroy its instance, and nothing about reads. 401, 403 and 404 can
have other causes than the key, so only `auth_error` in the body is a refusal. A broken Python also exits with 1.
"""


CAPABILITIES = Capabilities(
    missing=missing(None),
    billing="metered",
    boot_script=True,
    search_page=SEARCH_CAP,
    search_interval=INTERVALS["search"],
    create_interval=INTERVALS["create"],
    create_timeout=TIMEOUTS["create"],
    destroy_interval=INTERVALS["destroy"],
    listing_lag_seconds=60.0,
    # Observed: the first rows of a good machine show stopped or exited for up to 40 s before they show running.
    verdict_seconds=120.0,
    late_seconds=300.0,
    gpu_failure=GPU_FAILURE,
)
"""The capabilities of an account with default settings."""


class VastAi:
    """The Provider of one vast.ai account."""

    name = NAME

    def __init__(self, setup: ProviderSetup) -> None:
        self.account = setup.account
        self.skipped_offers = 0
        """The number of search rows that could not be decoded since the start."""
        intervals = {name: setup.intervals.get(name, seconds) for name, seconds in INTERVALS.items()}
        paced = intervals | dict.fromkeys(VOLUME_ENDPOINTS, intervals["volumes"])
        self._api = VastApi(setup, (setup.base_url or BASE_URL).rstrip("/"), paced)
        self._volumes = VolumeCalls(self._api)
        self.capabilities = replace(
            CAPABILITIES,
            missing=missing(setup.container_key),
            search_interval=intervals["search"],
            create_interval=intervals["create"],
            create_timeout=self._api.timeouts["create"],
            destroy_interval=intervals["destroy"],
        )
        self._setup = setup
        self._secrets: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        """The secrets of launches, by label, without the end that a label may carry and that changes."""

    def check_launch(self, spec: LaunchSpec) -> Sequence[Violation]:
        """A start script must fit vast.ai's limit, and needs a run mode with a shell."""
        return launch_violations(spec)

    async def search(self, wanted: OfferFilter) -> AsyncIterator[Sequence[Offer]]:
        """Pages of rentable offers, cheapest first. Raises a ProviderError if a page fails, also after other pages."""
        if not can_find(wanted):
            return
        seen: set[str] = set()
        stretch = Stretch()
        for _ in range(_MOST_STRETCHES):
            found = await self._found(search_body(wanted, stretch))
            fresh = [offer for offer in found.offers if offer.id not in seen]
            seen.update(offer.id for offer in fresh)
            if fresh:
                yield fresh
            following = next_stretch(stretch, found)
            if following is None:
                return
            stretch = following
        raise ProviderUnavailable(f"{NAME} lists too many offers: more than {_MOST_STRETCHES} pages")

    async def create(self, offer: Offer, spec: LaunchSpec, label: str) -> Receipt:
        """Rent `offer` with one PUT; the body of the answer decides. The caller keeps the create interval."""
        secrets = self._kept_secret(label, spec)
        path = f"/api/v0/asks/{quote(offer.native_id(), safe='')}/"
        request = self._api.request("create", "PUT", path, create_body(spec, label))
        try:
            reply = await self._api.sent(request, secrets)
        except HttpNotSent as error:
            raise ProviderUnavailable(f"{NAME} can't be reached: {error}") from error
        except HttpReplyLost as error:
            raise OutcomeUnknown(f"the answer to a create was lost: {error}") from error
        return replace(created(reply, mounts=spec.volume is not None), left_out=left_out(spec))

    async def list(self) -> Inventory:
        """All instances of the account. Raises a ProviderError if a page is missing, invalid or too short."""
        if (wait := self._api.wait("list")) > _LIST_WAIT:  # expiries and releases are waiting for this answer
            raise RateLimited(f"{NAME} allows the next listing in {wait:.0f} s", retry_after=wait)
        pages = Pages(self._setup.clock, "instances", most=_LIST_PAGES, seconds=_LIST_SECONDS)
        instances: dict[InstanceId, ListedInstance] = {}
        troubles: list[str] = []
        rows = lost = 0
        sent_at: float | None = None
        query = _LIST_QUERY
        while True:
            left = pages.real_seconds_left(self._api.wait("list"))
            reply = await self._api.read("list", f"/api/v1/instances/?{urlencode(query)}", within=left)
            sent_at = reply.sent_at if sent_at is None else sent_at
            page = await self._api.decoded("list", reply, read_listing, pages.number, self._discretion())
            before = len(instances)
            instances |= page.instances
            troubles += page.troubles
            rows += page.rows
            lost += page.lost
            if page.next_token is None:
                if page.total > rows:
                    raise ProviderUnavailable(f"{NAME} claims {page.total} instances, lists {rows}")
                if page.total > len(instances) + lost:  # a repeated row may have replaced one that is missing
                    troubles.append(f"{rows - lost - len(instances)} rows repeat an instance")
                return Inventory(
                    instances=tuple(instances.values()), unreadable=in_few_words(troubles), sent_at=sent_at
                )
            if len(instances) == before and not page.lost:
                raise ProviderUnavailable(f"{NAME} lists the same page again")
            pages.turn_to(page.next_token)
            turns = min(_LIST_PAGES, -(-page.total // _LIST_ROWS))
            pages.allow(_LIST_SECONDS + turns * self._api.intervals["list"] * MARGIN)
            query = {**_LIST_QUERY, "after_token": page.next_token}

    async def get(self, instance_id: InstanceId) -> ListedInstance | None:
        """The instance. None only if vast.ai says explicitly that it does not exist."""
        reply = await self._api.read("get", f"{_path(instance_id)}?owner=me")
        if no_such_instance(reply, instance_id):
            return None
        instance = (await self._api.decoded("get", reply, read_one, self._discretion())).instance
        if instance is not None and instance.id != instance_id:
            raise self._api.unread("get", reply)
        return instance

    async def destroy(self, instance_id: InstanceId) -> bool:
        """False: accepted. True: vast.ai says that there is no such instance.

        After OutcomeUnknown the call can be repeated: destroying twice does no harm.
        """
        request = self._api.request("destroy", "DELETE", _path(instance_id), {})
        return await self._api.change("destroy", request, lambda reply, wait: destroyed(reply, wait, instance_id))

    async def start(self, instance_id: InstanceId) -> None:
        """Start the instance; returns when accepted. NoCapacity: vast.ai queued the start until its GPUs are free."""
        await self._switch(instance_id, "running")

    async def relabel(self, instance_id: InstanceId, label: str) -> None:
        """Change the label; returns when accepted. After OutcomeUnknown the call can be repeated without harm."""
        request = self._api.request("manage", "PUT", _path(instance_id), {"label": label})
        await self._api.change("manage", request, switched)

    async def stop(self, instance_id: InstanceId) -> None:
        """Stop the instance, and cancel a queued start; returns when accepted."""
        await self._switch(instance_id, "stopped")

    async def extend(self, instance_id: InstanceId, hours: int) -> None:
        """Not possible: machines are billed by use."""
        raise NotSupported(f"{_MISSING['extend']}: {instance_id}, {hours} hours")

    async def used(self, instance_id: InstanceId) -> timedelta | None:
        """Not possible: machines are billed by use."""
        raise NotSupported(f"{_MISSING['extend']}: {instance_id}")

    async def logs(self, instance_id: InstanceId, lines: int) -> Sequence[str]:
        """The last `lines` lines. The host uploads its log to a URL, which is polled without the API key."""
        body = {"tail": str(lines)}
        await self._api.turn("manage")
        path = f"/api/v0/instances/request_logs/{quote(instance_id, safe='')}/"
        try:
            reply = await self._api.sent(self._api.request("manage", "PUT", path, body))
            address = await self._api.decoded("manage", reply, read_log_address)
            if not is_log_address(address, self._api.base_url):
                raise self._api.unread("manage", reply)
            for _ in range(_LOG_LOOKS):
                request = HttpRequest(
                    method="GET", url=address, timeout=self._api.timeouts["call"], max_bytes=_LOG_BYTES
                )
                response = await self._setup.http.send(request)
                if response.status == 200:
                    return response.body.decode("utf-8", "replace").splitlines()[-lines:]
                await self._setup.clock.sleep(_LOG_SECONDS)
        except (HttpNotSent, HttpReplyLost) as error:
            raise ProviderUnavailable(f"the log could not be read from {NAME}: {error}") from error
        raise ProviderUnavailable(f"{NAME} did not provide the log of {instance_id} after {_LOG_LOOKS} reads")

    async def add_ssh_key(self, instance_id: InstanceId, public_key: str) -> None:
        """Register a key with vast.ai, which installs it again whenever the host renews the machine's keys."""
        request = self._api.request("ssh_key", "POST", f"{_path(instance_id)}ssh/", {"ssh_key": public_key})
        await self._api.change("ssh_key", request, key_added)

    async def charges(self, since: datetime, until: datetime) -> Mapping[InstanceId, Micro]:
        """Micro-dollars by instance, for whole days, so that instances within the period are complete."""
        charges: dict[Charge, None] = {}
        odd: set[str] = set()
        rows = 0
        first = query = charges_query(since, until)
        pages = Pages(self._setup.clock, "charges", most=_CHARGES_PAGES, seconds=_CHARGES_SECONDS)
        while True:
            left = pages.real_seconds_left(self._api.wait("charges"))
            reply = await self._api.read("charges", f"/api/v0/charges/?{urlencode(query)}", within=left)
            page = await self._api.decoded("charges", reply, read_charges)
            rows += page.rows
            charges |= dict.fromkeys(page.charges)  # a row that is listed twice counts once
            odd |= set(page.odd)
            if page.next_token is None:
                break
            pages.turn_to(page.next_token)
            query = {**first, "after_token": page.next_token}
        if page.total is not None and rows != page.total:
            raise ProviderUnavailable(f"{NAME} claims {page.total} charges, lists {rows}")
        return await self._setup.workers.run(by_instance, charges, odd)

    async def spend(self) -> Spend:
        """The credit of the account, and its owner."""
        return await self._api.decoded("user", await self._api.read("user", "/api/v0/users/current/"), read_spend)

    async def volume_offers(self, machine_ids: Collection[str], size_gb: int) -> Sequence[VolumeOffer]:
        """Space of this size on these machines. Complete or a ProviderError; ids that are no numbers find nothing."""
        return await self._volumes.offers(machine_ids, size_gb)

    async def create_volume(self, offer: VolumeOffer, size_gb: int, label: str) -> Receipt:
        """Rent a volume, whose name is the label with "_" for "-". The request is sent at most once."""
        return await self._volumes.create(offer, size_gb, label)

    async def list_volumes(self) -> VolumeInventory:
        """All volumes of the account."""
        return await self._volumes.list()

    async def delete_volume(self, volume_id: InstanceId) -> bool:
        """False: accepted. True: vast.ai says that there is no such volume. VolumeInUse: an instance has it."""
        return await self._volumes.delete(volume_id)

    async def _switch(self, instance_id: InstanceId, state: str) -> None:
        """Ask vast.ai to start or stop an instance. After OutcomeUnknown the call can be repeated without harm."""
        request = self._api.request("manage", "PUT", _path(instance_id), {"state": state})
        await self._api.change("manage", request, switched)

    def _kept_secret(self, label: str, spec: LaunchSpec) -> tuple[str, ...]:
        """The secrets of a launch. They are kept, because the machine's status messages may repeat them."""
        secrets = secrets_of(spec)
        if secrets:
            self._secrets[label.partition(".")[0]] = secrets
        while len(self._secrets) > _MOST_SECRETS:
            self._secrets.popitem(last=False)
        return secrets

    def _discretion(self) -> Discretion:
        """A function that removes secrets from a machine's status message, which may show the launch command.

        It removes the secrets of the machine's own launch, or those of all launches if the label is not known. It can
        be used in a thread.
        """
        of_all = tuple(islice(chain.from_iterable(self._secrets.values()), MOST_SECRETS + 1))

        def discreet(label: str | None, text: str) -> str:
            secrets = of_all if label is None else self._secrets.get(label.partition(".")[0], ())
            return cut(text, (self._setup.key, *secrets))

        return discreet

    async def _found(self, body: Mapping[str, object]) -> Found:
        reply = await self._api.read("search", "/api/v0/bundles/", body)
        found = await self._api.decoded("search", reply, read_search, self._setup.marks)
        if found.undecodable * 2 > found.rows:
            raise ProviderUnavailable(f"{NAME} sent {found.rows} offers, of which {found.undecodable} can't be read")
        if found.undecodable:
            self.skipped_offers += found.undecodable
            log.info("offers_skipped", provider=NAME, account=self.account, skipped=found.undecodable, of=found.rows)
        return found


def _path(instance_id: InstanceId) -> str:
    return f"/api/v0/instances/{quote(instance_id, safe='')}/"
