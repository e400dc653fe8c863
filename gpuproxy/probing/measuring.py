"""The measurements of one probe, one after the other.

What a listing shows is read from the passes of the account's watch, which reconciles the same machines. If another
server supervises the account since, the probe makes listings of its own. A time is an upper bound: the machine may have
been there before the listing that showed it first. What could not be measured says why, and the next measurement is
tried.
"""

import re
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from gpuproxy.instances.machines import Machines
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import NoCapacity, ProviderError, Refusal
from gpuproxy.model.leases import RENTED, InstanceId, Lease, LeaseState
from gpuproxy.model.offers import HIGHEST_PRICE, Offer, OfferFilter
from gpuproxy.model.probes import QUANTITIES, Measurement, Outcome
from gpuproxy.ports import InstanceStatus, ListedInstance
from gpuproxy.probing.ground import DISK_GB, Ground
from gpuproxy.probing.renting import NotRented, ProbeRenting
from gpuproxy.reconcile.labels import plain
from gpuproxy.reconcile.listings import Listing
from gpuproxy.reconcile.observe import AccountWatch

_POLL = 2.0
_LISTED, _READY, _AT_REST, _FREED, _STARTED, _LOG = 300.0, 900.0, 300.0, 120.0, 180.0, 60.0
"""The longest waits, in seconds."""
_READ = re.compile(r"gpuproxy-probe: own_read=(\d+)")
_READ_WORDS = {"0": "yes", "1": "no"}
_LINES = 200
T = TypeVar("T")
Record = Callable[[Measurement], Awaitable[None]]
Tell = Callable[[str], Awaitable[None]]


class Stopped(Exception):
    """The probe was stopped, or its time is up. The text says which."""


@dataclass(slots=True, kw_only=True)
class Measuring:
    """Measures with the machines that it rents."""

    renting: ProbeRenting
    machines: Machines
    watch: AccountWatch
    caller: Caller
    ground: Ground
    own_read: str
    """The command of the marketplace's descriptor."""
    inapplicable: Collection[str]
    """The names of what is not measured here."""
    until: datetime
    record: Record
    tell: Tell
    """Called with what is done now."""
    first: Lease | None = None
    """The first machine, once it was rented."""

    async def run(self) -> None:
        """Measure everything that is applicable. Raises Stopped, and NotRented if there is no first machine."""
        volume = await self._volume()
        await self.tell("renting the first machine")
        onstart = f"( {self.own_read}\n)\necho gpuproxy-probe: own_read=$?\n" if self.own_read else ""
        self.first = await self.renting.machine(self.ground.first, onstart=onstart, volume=volume)
        first = self.first
        await self._listed(first)
        is_ready = await self._ready(first)
        if is_ready:
            await self._container_key(first)
        await self._second(volume)
        if "stop_start" in self.renting.provider.capabilities.missing:
            return
        if not is_ready:
            await self._not("the first machine did not get ready", "stop_latency", "stop_frees_gpus", "chunk_binding")
        elif await self._stop(first):
            await self._binding(first)

    # -- renting

    async def _volume(self) -> Lease | None:
        """The volume, once it exists; None without one."""
        missing = self.renting.provider.capabilities.missing
        if self.ground.volume is None:
            if "volumes" not in missing:
                await self._not("no cheap host has two chunks of one size and space for a volume", "volume_sharing")
            return None
        await self.tell("renting a volume")
        try:
            lease = await self.renting.volume(self.ground.volume)
            return await self._wait(_LISTED, lambda: self._existing(lease))
        except (NotRented, TimeoutError) as error:
            await self._not(f"there is no volume: {_text(error, 'its create was not answered')}", "volume_sharing")
            return None

    async def _existing(self, lease: Lease) -> Lease | None:
        now = await self.renting.read(lease.id)
        return now if now.instance_id is not None else None

    async def _second(self, volume: Lease | None) -> None:
        """A second machine with the volume of the first one, created stopped."""
        missing = self.renting.provider.capabilities.missing
        if "stop_start" in missing or "volumes" in missing:
            return
        if self.ground.second is None:
            await self._not("no cheap host has two chunks of one size", "volume_sharing", "create_stopped")
            return
        await self.tell("renting a second machine, stopped, with the volume of the first one")
        try:
            second = await self.renting.machine(self.ground.second, volume=volume, stopped=True)
            if volume is not None:
                await self._word("volume_sharing", "yes")
        except NotRented as error:
            if volume is None or not error.volume_in_use:
                await self._not(f"the second machine was not rented: {error}", "volume_sharing", "create_stopped")
                return
            await self._word("volume_sharing", "no", str(error))
            try:
                second = await self.renting.machine(self.ground.second, stopped=True)
            except NotRented as again:
                await self._not(f"the second machine was not rented: {again}", "create_stopped")
                return
        await self._created_stopped(second)

    # -- measurements

    async def _listed(self, lease: Lease) -> None:
        """From the create to the first listing that shows the machine, and its label."""
        await self.tell("waiting until a listing shows the first machine")
        seen_at: datetime | None = None
        label_at: datetime | None = None

        async def shown() -> bool | None:
            nonlocal seen_at, label_at
            row = await self._look(lease)
            if row is not None:
                now = self.renting.context.clock.now()
                seen_at = seen_at or now
                label_at = now if row.label == lease.label else None
            return True if label_at is not None else None

        with suppress(TimeoutError):
            await self._wait(_LISTED, shown)
        was_answered, lease = lease.instance_id is not None, await self.renting.read(lease.id)
        sent, answered = lease.creation.call_started_at, lease.started_at
        if seen_at is None:
            why = f"no listing showed the machine within {_LISTED:.0f} s"
            await self._not(why, "create_answer", "create_to_listed", "listing_lag", "label_lag")
            raise Stopped(f"{why}. The server goes on looking for it")
        if sent is not None:
            await self._seconds("create_to_listed", sent, seen_at)
        if sent is None or answered is None or not was_answered:
            await self._not("the create was answered without a machine", "create_answer", "listing_lag", "label_lag")
            return
        await self._seconds("create_answer", sent, answered)
        await self._seconds("listing_lag", answered, seen_at)
        if label_at is None:
            await self._not(f"no listing showed the label within {_LISTED:.0f} s", "label_lag")
        else:
            await self._seconds("label_lag", answered, label_at)

    async def _ready(self, lease: Lease) -> bool:
        await self.tell("waiting until the first machine is ready")

        async def ready() -> Lease | None:
            await self.watch.look_quietly()
            now = await self.renting.read(lease.id)
            if now.state not in RENTED:
                raise NotRented(f"the machine was released: {now.reason} {now.observed.status_message}".strip())
            return now if now.observed.ready_at is not None else None

        try:
            found = await self._wait(_READY, ready)
        except (TimeoutError, NotRented) as error:
            why = _text(error, f"the machine was not ready within {_READY:.0f} s")
            await self._not(why, "create_to_ready", "container_key")
            return False
        if found.creation.call_started_at is not None and found.observed.ready_at is not None:
            await self._seconds("create_to_ready", found.creation.call_started_at, found.observed.ready_at)
        return True

    async def _container_key(self, lease: Lease) -> None:
        provider = self.renting.provider
        if "container_key" in self.inapplicable:
            return
        await self.tell("reading the log of the first machine")

        async def read() -> str | None:
            try:
                lines = await provider.logs(InstanceId(lease.instance_id or ""), _LINES)
            except ProviderError:
                return None
            found = _READ.search("\n".join(lines))
            return None if found is None else found[1]

        try:
            code = await self._wait(_LOG, read, every=5.0)
        except TimeoutError:
            await self._not("the machine's log does not have the answer", "container_key")
            return
        if code in _READ_WORDS:
            await self._word("container_key", _READ_WORDS[code])
        else:
            await self._not(f"the command in the machine ended with code {code}", "container_key")

    async def _created_stopped(self, lease: Lease) -> None:
        """Whether a machine that was created stopped is at rest without having run."""
        await self.tell("waiting until the second machine is at rest")
        asked_at = lease.pending.stop_at

        async def judged() -> str | None:
            row, now = await self._look(lease), await self.renting.read(lease.id)
            ran = now.observed.ready_at is not None or now.pending.stop_at != asked_at  # it was stopped again
            if ran or (row is not None and row.status is InstanceStatus.RUNNING):
                return "no"
            return "yes" if row is not None and row.at_rest else None

        try:
            await self._word("create_stopped", await self._wait(_AT_REST, judged))
        except TimeoutError:
            await self._not(f"it was neither running nor at rest within {_AT_REST:.0f} s", "create_stopped")

    async def _stop(self, lease: Lease) -> bool:
        """Stop the first machine. True once it is at rest."""
        await self.tell("stopping the first machine")
        contract = InstanceId((await self.renting.read(lease.id)).instance_id or "")
        sent = self.renting.context.clock.now()
        try:
            await self.machines.stop(self.caller, lease.provider, contract)
        except Refusal as error:
            await self._not(error.message, "stop_latency", "stop_frees_gpus", "chunk_binding")
            return False
        provider = self.renting.provider

        async def at_rest() -> bool | None:
            with suppress(ProviderError):
                row = await provider.get(contract)
                return True if row is not None and row.at_rest else None
            return None

        try:
            await self._wait(_AT_REST, at_rest)
        except TimeoutError:
            why = f"the machine was not at rest within {_AT_REST:.0f} s"
            await self._not(why, "stop_latency", "stop_frees_gpus", "chunk_binding")
            return False
        await self._seconds("stop_latency", sent, self.renting.context.clock.now())

        async def recorded() -> bool | None:
            return True if (await self.renting.read(lease.id)).state is LeaseState.PARKED else None

        with suppress(TimeoutError):  # before that, nobody rents its GPUs, and another server may do the recording
            await self._wait(_AT_REST, recorded)
        return True

    async def _binding(self, first: Lease) -> None:
        """Whether the GPUs of the stopped machine are on offer, and whether it starts while they are rented."""
        await self.tell("waiting until the GPUs of the stopped machine are on offer")
        own = frozenset(self.ground.first.conflict_keys)
        if not own:
            await self._not("the marketplace does not say which GPUs an offer has", "stop_frees_gpus", "chunk_binding")
            return

        async def offered() -> Offer | None:
            return next((each for each in await self._on_host() if own == frozenset(each.conflict_keys)), None)

        try:
            again = await self._wait(_FREED, offered, every=_POLL * 3)
        except TimeoutError:
            await self._word("stop_frees_gpus", "no", f"they were not on offer within {_FREED:.0f} s")
            await self._not("the GPUs of the stopped machine could not be rented", "chunk_binding")
            return
        await self._word("stop_frees_gpus", "yes")
        if self.ground.second is None:
            await self._not("no cheap host has two chunks of one size", "chunk_binding")
            return
        await self.tell("renting the GPUs of the stopped machine, and starting it")
        try:
            await self.renting.machine(again)
        except NotRented as error:
            await self._not(f"the GPUs of the stopped machine were not rented: {error}", "chunk_binding")
            return
        others = [each for each in await self._on_host() if not own & set(each.conflict_keys)]
        if not others:
            await self._not("the host has no other free GPUs any more", "chunk_binding")
            return
        await self._started(first)

    async def _started(self, lease: Lease) -> None:
        contract = (await self.renting.read(lease.id)).instance_id or InstanceId("")
        try:
            await self.machines.start(self.caller, lease.provider, contract)
        except Refusal as error:
            if error.reason is NoCapacity.reason:
                await self._word("chunk_binding", "yes", "the start was refused although other GPUs were free")
            else:
                await self._not(error.message, "chunk_binding")
            return

        async def running() -> bool | None:
            row = await self._look(lease)
            return True if row is not None and row.status is InstanceStatus.RUNNING else None

        try:
            await self._wait(_STARTED, running)
        except TimeoutError:
            await self._not(f"the start was accepted, but it did not run within {_STARTED:.0f} s", "chunk_binding")
        else:
            await self._word("chunk_binding", "no", "it started on other GPUs of the host")

    async def _on_host(self) -> list[Offer]:
        """What is on offer on the host now, in chunks of the same size; [] if the search failed."""
        first = self.ground.first
        wanted = OfferFilter(
            providers=frozenset({first.provider}), machine_ids=frozenset({first.machine_id}),
            num_gpus=first.num_gpus, max_price=HIGHEST_PRICE, verified_only=False, disk_gb=DISK_GB,
        )  # fmt: skip
        try:
            found = [each async for page in self.renting.provider.search(wanted) for each in page]
        except ProviderError:
            return []
        return [each for each in found if not wanted.rejects(each)]

    # -- waiting and recording

    async def listing(self) -> Listing | None:
        """A new listing of the account; None if it failed."""
        await self.watch.look_quietly()
        if self.watch.claim.is_held():
            return self.watch.listing
        context, began = self.renting.context, self.renting.context.clock.now()
        try:
            found = await self.renting.provider.list()
        except ProviderError:
            return None
        return Listing(began, [plain(each, context.signer) for each in found.instances], found.unreadable)

    async def _look(self, lease: Lease) -> ListedInstance | None:
        """The row of the lease's machine in a new listing; None if the listing failed or does not show it."""
        listing, now = await self.listing(), await self.renting.read(lease.id)
        shown = None if listing is None else listing.shown(now)
        return shown if listing is not None and shown in listing.instances else None

    async def _wait(self, seconds: float, look: Callable[[], Awaitable[T | None]], *, every: float = _POLL) -> T:
        """What `look` returns first. Raises TimeoutError after `seconds`, and Stopped."""
        clock = self.renting.context.clock
        ends = clock.now() + timedelta(seconds=seconds)
        while True:
            await self.require_going_on()
            if (found := await look()) is not None:
                return found
            if clock.now() >= ends:
                raise TimeoutError
            await clock.sleep(every)

    async def require_going_on(self) -> None:
        """Raise Stopped if the probe was stopped or its time is up."""
        if self.renting.stop.is_set():
            raise Stopped("the probe was stopped")
        if self.renting.context.clock.now() >= self.until:
            raise Stopped("the time of the probe is up")

    async def _seconds(self, name: str, since: datetime, until: datetime) -> None:
        await self._note(name, "measured", value=f"{max(0.0, (until - since).total_seconds()):.1f}")

    async def _word(self, name: str, word: str, why: str = "") -> None:
        await self._note(name, "measured", value=word, why=why)

    async def _not(self, why: str, *names: str) -> None:
        for name in names:
            await self._note(name, "not_measured", why=why)

    async def _note(self, name: str, outcome: Outcome, *, value: str = "", why: str = "") -> None:
        if name in self.inapplicable:
            return  # it is recorded as not applicable
        unit, now = QUANTITIES[name].unit, self.renting.context.clock.now()
        await self.record(Measurement(name=name, outcome=outcome, value=value, unit=unit, why=why, at=now))


def _text(error: Exception, otherwise: str) -> str:
    return str(error) or otherwise
