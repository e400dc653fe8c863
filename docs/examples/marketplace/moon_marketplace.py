"""An adapter to start from: moon.example, a marketplace that does not exist, with a plain JSON API.

It keeps every rule of the conformance suite. Errors tell a status and nothing of the answer, so that they tell no
secret. Nothing is sent twice: the engine decides what is tried again.
"""

import json
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

from gpuproxy.model.demands import LaunchSpec
from gpuproxy.model.errors import (
    AuthFailed,
    InsufficientFunds,
    NotSupported,
    OfferGone,
    OutcomeUnknown,
    ProviderUnavailable,
    RateLimited,
    Refused,
    Violation,
)
from gpuproxy.model.gpus import gpu_name
from gpuproxy.model.leases import InstanceId
from gpuproxy.model.money import Micro, micro
from gpuproxy.model.offers import HostKey, Offer, OfferFilter, OfferId, ProviderName
from gpuproxy.ports import (
    Capabilities,
    Descriptor,
    HttpNotSent,
    HttpReplyLost,
    HttpRequest,
    HttpResponse,
    InstanceStatus,
    Inventory,
    ListedInstance,
    PacedCall,
    ProviderSetup,
    Receipt,
    Spend,
    VolumeInventory,
    VolumeOffer,
)
from gpuproxy.ports.pacing import Pace

T = TypeVar("T")
Row = Mapping[str, object]

NAME = ProviderName("moon.example")
PREFIX = "moon"
BASE_URL = "https://api.moon.example"
CALLS = (
    PacedCall(name="search", seconds=1.0, what="searches"),
    PacedCall(name="create", seconds=1.0, what="creates"),  # paced by the engine, by `create_interval`
    PacedCall(name="list", seconds=0.5, what="listings"),
    PacedCall(name="get", seconds=0.5, what="single reads"),
    PacedCall(name="destroy", seconds=0.5, what="destroys"),
)
CAPABILITIES = Capabilities(
    missing={
        "stop_start": "a machine of moon.example runs until it is destroyed",
        "logs": "moon.example keeps no logs",
        "ssh": "machines of moon.example have no SSH",
        "ssh_keys": "machines of moon.example have no SSH",
        "charges": "moon.example does not say what a machine cost",
        "volumes": "moon.example has no volumes",
        "volume_sharing": "moon.example has no volumes",
        "hold_gpu": "moon.example has no volumes, and so no machine that waits for one",
        "spot": "moon.example has no interruptible machines",
        "extend": "a machine of moon.example runs until it is destroyed",
        "container_key": "a machine of moon.example can't read its own label",
    },
    create_interval=1.0,
    listing_lag_seconds=5.0,
    late_seconds=60.0,
)
_MOST_PAGES = 1_000
_TIMEOUT = 30.0
_REFUSALS: Mapping[tuple[int, str], type[Refused]] = {
    (409, "taken"): OfferGone,
    (402, "no_funds"): InsufficientFunds,
    (401, "bad_key"): AuthFailed,
    (429, "slow_down"): RateLimited,
}
"""What moon.example says before it has done anything. Everything else leaves a create in doubt."""


class Moon:
    """One account."""

    name = NAME

    def __init__(self, setup: ProviderSetup) -> None:
        self.account = setup.account
        self.capabilities = replace(
            CAPABILITIES,
            create_interval=setup.intervals.get("create", CAPABILITIES.create_interval),
            create_timeout=setup.timeouts.get("create", CAPABILITIES.create_timeout),
        )
        self._setup = setup
        self._url = (setup.base_url or BASE_URL).rstrip("/")
        self._paces = {
            call.name: Pace(setup.clock, setup.intervals.get(call.name, call.seconds))
            for call in CALLS
            if call.name != "create"
        }

    def check_launch(self, spec: LaunchSpec) -> Sequence[Violation]:
        """moon.example starts the image and nothing else."""
        if spec.onstart:
            return (Violation("onstart", f"can't run on {NAME}, which starts only the image's own command"),)
        return ()

    async def search(self, wanted: OfferFilter) -> AsyncIterator[Sequence[Offer]]:
        """All offers: moon.example can't filter, and the caller does."""
        del wanted
        async for rows in self._pages("search", "/offers", "offers"):
            yield [_read(_offer, row) for row in rows]

    async def create(self, offer: Offer, spec: LaunchSpec, label: str) -> Receipt:
        """One POST. An answer that is no known refusal and has no id leaves the outcome unknown."""
        body = {
            "offer": offer.native_id(),
            "label": label,
            "image": spec.image,
            "disk_gb": spec.disk_gb,
            "env": dict((*spec.env, *spec.secret_env)),
        }
        try:
            response = await self._setup.http.send(self._request("create", "POST", "/machines", body))
        except HttpNotSent as error:
            raise ProviderUnavailable(f"{NAME} can't be reached") from error
        except HttpReplyLost as error:
            raise OutcomeUnknown("the answer to a create was lost") from error
        said = _object(response)
        if isinstance(made := said.get("machine_id"), str) and made:
            return Receipt(instance_id=InstanceId(made))
        if refusal := _refusal(response, said):
            raise refusal
        raise OutcomeUnknown(f"{NAME} answered a create with {response.status}", status=response.status)

    async def list(self) -> Inventory:
        """Every page, or an error."""
        instances: dict[InstanceId, ListedInstance] = {}
        unreadable: list[str] = []
        async for rows in self._pages("list", "/machines", "machines"):
            for row in rows:
                try:
                    found = _instance(row)
                except (KeyError, TypeError, ValueError):
                    unreadable.append(f"row {len(instances) + len(unreadable) + 1}")
                else:
                    instances[found.id] = found
        return Inventory(instances=tuple(instances.values()), unreadable=tuple(unreadable))

    async def get(self, instance_id: InstanceId) -> ListedInstance | None:
        """None when moon.example says so in its own words; a bare 404 may be a wrong address."""
        response = await self._read("get", f"/machines/{instance_id}")
        said = _object(response)
        if _is_gone(response, said):
            return None
        if response.status != 200:
            raise _refusal(response, said) or _useless(response)
        machine = said.get("machine")
        if not isinstance(machine, dict):
            raise _useless(response)
        return _read(_instance, machine)

    async def destroy(self, instance_id: InstanceId) -> bool:
        """True when moon.example says that there is none. OutcomeUnknown may be tried again."""
        await self._paces["destroy"].turn()
        try:
            response = await self._setup.http.send(self._request("destroy", "DELETE", f"/machines/{instance_id}"))
        except HttpNotSent as error:
            raise ProviderUnavailable(f"{NAME} can't be reached") from error
        except HttpReplyLost as error:
            raise OutcomeUnknown("the answer to a destroy was lost") from error
        said = _object(response)
        if response.status == 200 and said.get("destroyed") is True:
            return False
        if _is_gone(response, said):
            return True
        raise _refusal(response, said) or OutcomeUnknown(f"{NAME} answered a destroy with {response.status}")

    async def start(self, instance_id: InstanceId) -> None:
        """Not possible."""
        raise NotSupported(f"{CAPABILITIES.missing['stop_start']}: {instance_id}")

    async def stop(self, instance_id: InstanceId) -> None:
        """Not possible."""
        raise NotSupported(f"{CAPABILITIES.missing['stop_start']}: {instance_id}")

    async def relabel(self, instance_id: InstanceId, label: str) -> None:
        """Not possible."""
        raise NotSupported(f"{CAPABILITIES.missing['container_key']}: {instance_id}, {label}")

    async def extend(self, instance_id: InstanceId, hours: int) -> None:
        """Not possible."""
        raise NotSupported(f"{CAPABILITIES.missing['extend']}: {instance_id}, {hours} hours")

    async def used(self, instance_id: InstanceId) -> timedelta | None:
        """Not possible: nothing is paid in advance."""
        raise NotSupported(f"{CAPABILITIES.missing['extend']}: {instance_id}")

    async def logs(self, instance_id: InstanceId, lines: int) -> Sequence[str]:
        """Not possible."""
        raise NotSupported(f"{CAPABILITIES.missing['logs']}: {instance_id}, {lines} lines")

    async def add_ssh_key(self, instance_id: InstanceId, public_key: str) -> None:
        """Not possible."""
        raise NotSupported(f"{CAPABILITIES.missing['ssh_keys']}: {instance_id}, {public_key}")

    async def charges(self, since: datetime, until: datetime) -> Mapping[InstanceId, Micro]:
        """Not possible."""
        raise NotSupported(f"{CAPABILITIES.missing['charges']}: {since} to {until}")

    async def spend(self) -> Spend:
        """The credit."""
        response = await self._read("get", "/account")
        if response.status != 200:
            raise _refusal(response, _object(response)) or _useless(response)
        return _read(lambda said: Spend(credit=micro(str(said["credit_usd"]))), _object(response))

    async def volume_offers(self, machine_ids: Collection[str], size_gb: int) -> Sequence[VolumeOffer]:
        """Not possible."""
        raise NotSupported(f"{CAPABILITIES.missing['volumes']}: {size_gb} GB on {len(machine_ids)} machines")

    async def create_volume(self, offer: VolumeOffer, size_gb: int, label: str) -> Receipt:
        """Not possible."""
        raise NotSupported(f"{CAPABILITIES.missing['volumes']}: {label}, {size_gb} GB of {offer.id}")

    async def list_volumes(self) -> VolumeInventory:
        """Not possible."""
        raise NotSupported(CAPABILITIES.missing["volumes"])

    async def delete_volume(self, volume_id: InstanceId) -> bool:
        """Not possible."""
        raise NotSupported(f"{CAPABILITIES.missing['volumes']}: {volume_id}")

    async def _pages(self, call: str, path: str, what: str) -> AsyncIterator[Sequence[Row]]:
        """The rows of each page. Ends, whatever is answered: each page must go on where the one before ended."""
        after = ""
        for _ in range(_MOST_PAGES):
            response = await self._read(call, f"{path}?after={after}")
            said = _object(response)
            if response.status != 200:
                raise _refusal(response, said) or _useless(response)
            rows, following = said.get(what), said.get("next", 0)
            if not isinstance(rows, list) or not isinstance(following, str) or (following and following <= after):
                raise _useless(response)
            yield rows
            if not following:
                return
            after = following
        raise ProviderUnavailable(f"{NAME} has more than {_MOST_PAGES} pages of {what}")

    async def _read(self, call: str, path: str) -> HttpResponse:
        await self._paces[call].turn()
        try:
            return await self._setup.http.send(self._request(call, "GET", path))
        except (HttpNotSent, HttpReplyLost) as error:
            raise ProviderUnavailable(f"{NAME} did not answer") from error

    def _request(self, call: str, method: str, path: str, body: Mapping[str, object] | None = None) -> HttpRequest:
        timeouts = self._setup.timeouts
        return HttpRequest(
            method=method,
            url=self._url + path,
            headers={"Authorization": f"Bearer {self._setup.key}", "Content-Type": "application/json"},
            body=None if body is None else json.dumps(body).encode(),
            timeout=timeouts.get(call if call in ("search", "create") else "call", _TIMEOUT),
        )


def _object(response: HttpResponse) -> Mapping[str, object]:
    """The answer; an empty one where it is no JSON object."""
    try:
        said = json.loads(response.body)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _refusal(response: HttpResponse, said: Mapping[str, object]) -> Refused | None:
    kind = _REFUSALS.get((response.status, str(said.get("error"))))
    return None if kind is None else kind(f"{NAME} refused: {response.status} {said['error']}", status=response.status)


def _is_gone(response: HttpResponse, said: Mapping[str, object]) -> bool:
    return response.status == 404 and said.get("error") == "no_such_machine"


def _useless(response: HttpResponse) -> ProviderUnavailable:
    return ProviderUnavailable(f"{NAME} gave no answer that can be read: {response.status}", status=response.status)


def _read(decode: Callable[[Row], T], row: Row) -> T:
    """A row that must be there. Raises ProviderUnavailable where it can't be read."""
    try:
        return decode(row)
    except (KeyError, TypeError, ValueError) as error:
        raise ProviderUnavailable(f"{NAME} sent a row that can't be read") from error


def _offer(row: Row) -> Offer:
    machine = str(row["machine"])
    return Offer(
        id=OfferId(f"{PREFIX}-{row['id']}"),
        provider=NAME,
        host=HostKey(f"{NAME}/{machine}"),
        machine_id=machine,
        gpu_model=gpu_name(str(row["gpu"])),
        num_gpus=int(str(row["gpus"])),
        vram_gb=int(str(row["vram_gb"])),
        gpu_price=micro(str(row["usd_per_hour"])),
        disk_price_month=Micro(0),
        max_disk_gb=1000.0,
        reliability_ppm=990_000,
        verified=True,
        conflict_keys=(machine,),
    )


def _instance(row: Row) -> ListedInstance:
    status = str(row["status"])
    return ListedInstance(
        id=InstanceId(str(row["machine_id"])),
        label=str(row["label"]),
        status=InstanceStatus.RUNNING if status == "running" else InstanceStatus.UNSURE,
        raw_status=status,
        price=micro(str(row["usd_per_hour"])),
        gpu_model=gpu_name(str(row["gpu"])),
        num_gpus=int(str(row["gpus"])),
        machine_id=str(row["machine"]),
    )


DESCRIPTOR = Descriptor(name=NAME, prefix=PREFIX, env="MOON", connect=Moon, capabilities=CAPABILITIES, calls=CALLS)
