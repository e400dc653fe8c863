"""Reading all deployments of an account, and how to reach their machines.

The rule: every page is read, because the pages have no order. A row that is listed twice counts once, and one that is
missed is no proof of anything. Addresses are asked for only until they are known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from gpuproxy.model.errors import ProviderError, ProviderUnavailable
from gpuproxy.model.leases import InstanceId
from gpuproxy.ports import Clock, InstanceStatus, ListedInstance
from gpuproxy.providers.ionet.api import IoNetApi
from gpuproxy.providers.ionet.instances import Access, Deployment, Discretion, read_access, read_page
from gpuproxy.providers.ionet.requests import PAGE, deployment_path, page_query
from gpuproxy.providers.ionet.wire import NAME

log = structlog.get_logger(__name__)

_MOST_PAGES, _MOST_SECONDS = 200, 120.0
"""Maximum pages of a listing, and maximum seconds, waits between the pages included."""
_ACCESS_SECONDS = 5.0
"""How long one listing may ask for addresses; the rest is asked by the next one."""
_EAGER_SECONDS, _PATIENT_INTERVAL = 900.0, 60.0
"""A machine without an address is asked about by every listing at first, later only once a minute."""
_NO_ACCESS = Access()


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """All pages of a listing. `sent_at` is the time of the first request."""

    deployments: Sequence[Deployment]
    troubles: Sequence[str]
    sent_at: float


async def walk(api: IoNetApi, clock: Clock, discreet: Discretion) -> Walk:
    """Read every page, and once more if rows were repeated in place of others.

    Raises a ProviderError if a page fails, if the pages have no end, or if they repeat the first one.
    """
    latest = clock.monotonic() + _MOST_SECONDS * max(1.0, clock.scale)
    first = await _pass(api, clock, discreet, latest)
    if first.is_complete:
        return first.walk()
    second = await _pass(api, clock, discreet, latest)
    second.deployments = first.deployments | second.deployments
    if not second.is_complete and not (first.has_turned and second.has_turned):
        raise ProviderUnavailable(f"{NAME} lists the same page again")
    return replace(second.walk(), sent_at=first.sent_at)


@dataclass(slots=True, kw_only=True)
class _Pass:
    """One pass over the pages."""

    deployments: dict[InstanceId, Deployment]
    troubles: list[str]
    sent_at: float
    lost: int = 0
    total: int = 0
    has_turned: bool = True
    """False if there were several pages, and only the first had something new."""

    @property
    def is_complete(self) -> bool:
        """True if as many deployments were listed as io.net claims."""
        return len(self.deployments) + self.lost >= self.total

    def walk(self) -> Walk:
        """What was read."""
        return Walk(deployments=tuple(self.deployments.values()), troubles=self.troubles, sent_at=self.sent_at)


async def _pass(api: IoNetApi, clock: Clock, discreet: Discretion, latest: float) -> _Pass:
    found = _Pass(deployments={}, troubles=[], sent_at=clock.monotonic())
    rows = 0
    for number in range(1, _MOST_PAGES + 1):
        left = latest - clock.monotonic() - api.wait("list")
        if left <= 0:
            raise ProviderUnavailable(f"{NAME} has not listed all deployments within {_MOST_SECONDS:.0f} s")
        reply = await api.read("list", f"/deployments?{page_query(number)}", within=left / clock.scale)
        found.sent_at = reply.sent_at if number == 1 else found.sent_at
        page = await api.decoded("list", reply, read_page, number, reply.received_at, discreet)
        before = len(found.deployments)
        found.deployments |= {each.instance.id: each for each in page.deployments}
        found.troubles += page.troubles
        found.lost += page.lost
        found.total = page.total
        rows += page.rows
        is_new = len(found.deployments) > before or page.lost > 0
        found.has_turned = number == 1 or is_new or (found.has_turned and number > 2)
        if page.rows < PAGE and rows >= page.total:
            return found
        if page.rows == 0:
            raise ProviderUnavailable(f"{NAME} claims {page.total} deployments, lists {rows}")
        if not is_new:
            raise ProviderUnavailable(f"{NAME} lists the same page again")
    raise ProviderUnavailable(f"{NAME} lists too many deployments: more than {_MOST_PAGES} pages")


class Accesses:
    """How to reach the machines of one account, as far as that is known."""

    def __init__(self, api: IoNetApi, clock: Clock, discreet: Discretion) -> None:
        self._api = api
        self._clock = clock
        self._discreet = discreet
        self._known: dict[InstanceId, Access] = {}
        self._first_at: dict[InstanceId, float] = {}
        self._last_at: dict[InstanceId, float] = {}

    async def look(self, instances: Sequence[ListedInstance]) -> None:
        """Ask about running machines whose address is not known. A failure is left to the next listing."""
        running = [each.id for each in instances if each.status is InstanceStatus.RUNNING]
        self._forget({each.id for each in instances})
        began = self._clock.monotonic()
        for instance_id in sorted(filter(self._is_due, running), key=lambda each: self._last_at.get(each, -1.0)):
            if self._clock.monotonic() - began > _ACCESS_SECONDS * max(1.0, self._clock.scale):
                return
            self._first_at.setdefault(instance_id, self._clock.monotonic())
            self._last_at[instance_id] = self._clock.monotonic()
            try:
                self._known[instance_id] = await self.read(instance_id)
            except ProviderError as error:
                log.debug("access_unread", contract=instance_id, reason=error.reason)
                return

    async def read(self, instance_id: InstanceId) -> Access:
        """Ask for one machine. Raises a ProviderError."""
        reply = await self._api.read("access", f"{deployment_path(instance_id)}/vms?{page_query(1)}")
        return await self._api.decoded("access", reply, read_access, self._discreet)

    def on(self, instance: ListedInstance) -> ListedInstance:
        """The instance with its addresses, and with the ssh command of io.net or its events as the message."""
        access = self._known.get(instance.id, _NO_ACCESS)
        return replace(instance, ssh=access.ssh, ports=access.ports, status_message=access.command or access.events)

    def _is_due(self, instance_id: InstanceId) -> bool:
        if self._known.get(instance_id, _NO_ACCESS).complete:
            return False
        now, first = self._clock.monotonic(), self._first_at.get(instance_id)
        eager = first is None or now - first < _EAGER_SECONDS
        return eager or now - self._last_at[instance_id] >= _PATIENT_INTERVAL

    def _forget(self, listed: set[InstanceId]) -> None:
        """Forget machines that a listing does not show; one that was missed is asked about again."""
        kept: Mapping[InstanceId, Access] = {each: access for each, access in self._known.items() if each in listed}
        self._known = dict(kept)
        self._first_at = {each: at for each, at in self._first_at.items() if each in listed}
        self._last_at = {each: at for each, at in self._last_at.items() if each in listed}
