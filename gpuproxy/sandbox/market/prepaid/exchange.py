"""The prepaid market: hosts, deployments and accounts, and how they change with time.

It is synchronous and does no I/O. The time is the last argument of `advance`, and the same seed always gives the same
behaviour.
"""

import hashlib
import heapq
import random
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count

from gpuproxy.sandbox.market.port_table import PortTable
from gpuproxy.sandbox.market.prepaid.bookings import ENDED, HOUR, Booking, Container, Event, Flaws, Order, Stage
from gpuproxy.sandbox.market.prepaid.hardware import HardwareId, Host, Row, hosts, rows
from gpuproxy.sandbox.market.prepaid.ways_in import WaysIn
from gpuproxy.sandbox.market.refusals import NoCredit

WAYS_TO_BREAK = ("never_ready", "never_reachable", "host_fault", "no_ssh")
_GIVE_UP = 3600.0  # seconds after which a deployment that never starts has failed
_SETTLES = (3.0, 12.0)  # seconds of running until the addresses are known
_TEARDOWN = (4.0, 15.0)
_HOST_MESSAGE = "Provisioning failed: the host did not come up. Please try other hardware."
_CRASHED = "The machine stopped unexpectedly."


class NoSuchHardware(Exception):
    """There is no such configuration."""


class NoCapacity(Exception):
    """The configuration exists, but no host has so many free GPUs."""


class NameTaken(Exception):
    """The client chose an id that a deployment has."""


class Over(Exception):
    """The deployment has ended or is ending."""


@dataclass(slots=True)
class PrepaidChanges:
    """The ids of everything that has changed since the market was last saved."""

    bookings: set[str] = field(default_factory=set)
    hosts: set[str] = field(default_factory=set)
    rows: set[str] = field(default_factory=set)

    def clear(self) -> None:
        """Forget all changes, after they have been saved."""
        self.bookings.clear()
        self.hosts.clear()
        self.rows.clear()

    def __bool__(self) -> bool:
        return bool(self.bookings or self.hosts or self.rows)


class PrepaidMarket:
    """One simulated market for all accounts."""

    def __init__(
        self,
        accounts: Sequence[str],
        *,
        now: float,
        seed: int = 7,
        boot_time: tuple[float, float] = (20.0, 60.0),
        credit: int = 100_000_000_000,
        port_table: PortTable | None = None,
    ) -> None:
        """`credit` is in micro-dollars."""
        self.now = now
        self.accounts = tuple(accounts)
        self.rows: list[Row] = rows()
        self.hosts: dict[str, Host] = {host.id: host for host in hosts(seed)}
        self.bookings: dict[str, Booking] = {}
        self.changes = PrepaidChanges()
        self._seed = seed
        self._boot_time = boot_time
        self._credit = credit
        self._ways_in = WaysIn(port_table or PortTable())
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_numbers = count()

    def advance(self, now: float) -> None:
        """Advance the time to `now`; due events run in order, each at its own time. The time never goes back."""
        while self._timers and self._timers[0][0] <= now:
            when, _, happen = heapq.heappop(self._timers)
            self.now = max(self.now, when)
            happen()
        self.now = max(self.now, now)

    # -- calls of accounts

    def row(self, kind: HardwareId, cards: int, location: str | None) -> Row:
        """The configuration; for no location, that of the country with the most room. Raises NoSuchHardware."""
        found = [
            row
            for row in self.rows
            if row.kind.id == kind
            and type(row.kind.id) is type(kind)
            and row.cards == cards
            and location in (None, row.location)
        ]
        if not found:
            raise NoSuchHardware
        return max(found, key=self.room)

    def room(self, row: Row) -> int:
        """How many workers of a configuration could be booked at once."""
        if not row.bookable:
            return 0
        return sum(host.free // row.cards for host in self._hosts_of(row))

    def book(self, account: str, order: Order, flaws: Flaws | None = None) -> Booking:
        """Pay for a deployment, and request it.

        Raises NoSuchHardware, NoCapacity, NameTaken or NoCredit without any change.
        """
        row = self.row(order.kind, order.cards, order.location)
        flaws = flaws or Flaws()
        chosen = self._chosen(row, order.workers)
        if order.id is not None and order.id in self.bookings:
            raise NameTaken
        cost = round(row.cost(order.hours, order.workers) * flaws.price_factor)
        if cost > self.credit(account):
            raise NoCredit
        number = len(self.bookings) + 1
        broken = next((host.broken for host in chosen if host.broken), "")
        if broken and not flaws.kind:
            flaws = Flaws(kind=broken, dies_after=flaws.dies_after, model=flaws.model)
        rng = random.Random(f"{self._seed}:booking:{number}")
        booking = Booking(
            id=order.id or self._uuid(number),
            number=number,
            account=account,
            order=order,
            model=flaws.model or row.kind.name,
            location=row.location,
            hosts=[host.id for host in chosen],
            price=row.price * order.workers,
            hours=order.hours,
            paid=cost,
            requested_at=self.now,
            starts_at=None if flaws.kind in ("never_ready", "host_fault") else self.now + rng.uniform(*self._boot_time),
            settles=rng.uniform(*_SETTLES),
            flaws=flaws,
        )
        if booking.starts_at is None:
            late = _GIVE_UP if flaws.kind == "never_ready" else rng.uniform(*self._boot_time)
            booking.fails_at = self.now + late
        for host in chosen:
            host.rented += order.cards
        self.bookings[booking.id] = booking
        self._ways_in.give(booking)
        self._changed(booking)
        return booking

    def extend(self, booking: Booking, hours: int) -> None:
        """Pay for more hours at today's price. Raises Over or NoCredit without any change."""
        if booking.stage in ENDED or booking.stage is Stage.ENDING:
            raise Over
        order = booking.order
        try:
            cost = self.row(order.kind, order.cards, booking.location).cost(hours, order.workers)
        except NoSuchHardware:
            cost = round(booking.price * hours * 1_000_000)
        if cost > self.credit(booking.account):
            raise NoCredit
        booking.paid += cost
        booking.hours += hours
        if booking.ends_at is not None:
            booking.ends_at += hours * HOUR
        self._changed(booking)

    def terminate(self, booking: Booking) -> None:
        """Request the end of a deployment; it is gone some seconds later. Raises Over if it has ended.

        For a virtual machine, all but the first hour and the used time is refunded. For containers, nothing is.
        """
        if booking.stage in ENDED:
            raise Over
        if booking.stage is Stage.ENDING:
            return
        used = booking.used(self.now)
        booking.stopped_at = self.now
        booking.refunded = booking.refund(used) if booking.order.product == "vm" else 0
        booking.gone_at = self.now + random.Random(f"{self._seed}:end:{booking.number}").uniform(*_TEARDOWN)
        self._enter(booking, Stage.ENDING, "Termination requested.")

    def redeploy(self, booking: Booking, container: Container) -> None:
        """Run another container on the same hosts; it is not reachable for a while. Raises Over."""
        if booking.stage in ENDED or booking.stage is Stage.ENDING:
            raise Over
        booking.order = replace(booking.order, container=container)
        if booking.started_at is not None:
            booking.settled = False
            booking.settles += self.now - booking.started_at
        self._changed(booking)

    def of(self, account: str) -> list[Booking]:
        """The deployments of an account, oldest first, also ended ones."""
        return [booking for booking in self.bookings.values() if booking.account == account]

    def credit(self, account: str) -> int:
        """The remaining credit of an account, in micro-dollars."""
        return self._credit - sum(booking.billed for booking in self.of(account))

    def bill(self) -> int:
        """What all accounts have paid in micro-dollars, without refunds."""
        return sum(booking.billed for booking in self.bookings.values())

    # -- events

    def occupy(self, host: Host, gpus: int) -> int:
        """Let other customers take up to `gpus` GPUs; returns how many they got."""
        taken = min(gpus, host.free)
        host.strangers += taken
        self.changes.hosts.add(host.id)
        return taken

    def vacate(self, host: Host) -> None:
        """Let all other customers leave."""
        host.strangers = 0
        self.changes.hosts.add(host.id)

    def change_host(
        self, host: Host, *, online: bool | None = None, dead: bool | None = None, broken: str | None = None
    ) -> None:
        """Disconnect a host, let its GPUs fail, or break it for new deployments; None: no change."""
        host.online = host.online if online is None else online
        host.dead = host.dead if dead is None else dead
        host.broken = host.broken if broken is None else broken
        self.changes.hosts.add(host.id)
        for booking in self.bookings.values():
            if host.id in booking.hosts and booking.stage not in ENDED:
                self.update_ports(booking)

    def crash(self, booking: Booking) -> None:
        """Let a deployment fail by itself."""
        if booking.stage not in ENDED:
            self._fail(booking, _CRASHED)

    def move_end(self, booking: Booking, seconds: float) -> None:
        """Let the time of a running deployment be over in so many seconds."""
        booking.ends_at = self.now + seconds
        self._changed(booking)

    def mute(self, booking: Booking, until: float) -> None:
        """Let no address of a deployment answer until then; 0: they answer again."""
        booking.muted_until = until
        self._changed(booking)

    def reprice(self, row_id: str, price: float) -> None:
        """Set the price of all rows with this id, in USD per hour. Raises KeyError."""
        found = [row for row in self.rows if row.id == row_id]
        if not found:
            raise KeyError(row_id)
        for row in found:
            row.price = price
        self.changes.rows.add(row_id)

    def update_ports(self, booking: Booking) -> None:
        """Let the right addresses of a deployment answer."""
        here = [self.hosts[host] for host in booking.hosts]
        self._ways_in.update(booking, here, self.now)

    def ssh_addresses(self, booking: Booking) -> list[int]:
        """The ports at which SSH answers now."""
        return self._ways_in.ssh_ports(booking)

    def lets_in(self, port: int, public_key: str) -> bool:
        """True if SSH answers at a port and the owner of a public key can log in there. Comments don't count."""
        for booking in self.bookings.values():
            if port in self.ssh_addresses(booking):
                keys = booking.order.ssh_keys.values()
                return any(key.split()[:2] == public_key.split()[:2] for key in keys)
        return False

    # -- for the journal

    def restore(self, bookings: Iterable[Booking], hosts: Iterable[Host], prices: Mapping[str, float]) -> None:
        """Restore a saved market. Ports get new numbers if the old ones are in use."""
        for host in hosts:
            if host.id in self.hosts:
                self.hosts[host.id] = host
                host.rented = 0
        for row in self.rows:
            row.price = prices.get(row.id, row.price)
        for booking in bookings:
            self.bookings[booking.id] = booking
            if booking.stage in ENDED:
                continue
            for name in booking.hosts:
                self.hosts[name].rented += booking.order.cards
            self._ways_in.give_again(booking)
            self.update_ports(booking)
            self._follow(booking)

    # -- internal

    def _hosts_of(self, row: Row) -> list[Host]:
        return [host for host in self.hosts.values() if (host.kind, host.location) == (row.kind.id, row.location)]

    def _chosen(self, row: Row, workers: int) -> list[Host]:
        """The host of each worker, fullest first. Raises NoCapacity."""
        if self.room(row) < workers:
            raise NoCapacity
        chosen: list[Host] = []
        for host in sorted(self._hosts_of(row), key=lambda host: (host.free, host.id)):
            chosen += [host] * (host.free // row.cards)
        return chosen[:workers]

    def _uuid(self, number: int) -> str:
        digest = hashlib.sha256(f"{self._seed}:booking:{number}".encode()).digest()
        return str(uuid.UUID(bytes=digest[:16], version=4))

    def _changed(self, booking: Booking) -> None:
        self.changes.bookings.add(booking.id)
        self.update_ports(booking)
        self._follow(booking)

    def _follow(self, booking: Booking) -> None:
        when = _next(booking)
        if when is not None:
            happen: Callable[[], None] = partial(self._happen, booking)
            heapq.heappush(self._timers, (max(when, self.now), next(self._timer_numbers), happen))

    def _happen(self, booking: Booking) -> None:
        """Do what is due for a deployment. Timers of changed plans come too early and find nothing."""
        when = _next(booking)
        if when is None or when > self.now:
            return
        match booking.stage:
            case Stage.ENDING:
                self._end(booking, Stage.DESTROYED, "Destroyed.")
            case _ if booking.fails_at is not None and booking.fails_at <= self.now:
                self._fail(booking, booking.flaws.message or _HOST_MESSAGE)
            case Stage.LOADING:
                booking.started_at = self.now
                booking.ends_at = self.now + booking.hours * HOUR
                if booking.flaws.dies_after is not None:
                    booking.fails_at = self.now + booking.settles + booking.flaws.dies_after
                self._enter(booking, Stage.RUNNING, "Running.")
            case _ if booking.ends_at is not None and booking.ends_at <= self.now:
                self._end(booking, Stage.COMPLETED, "The booked time is over.")
            case _:
                booking.settled = booking.settled or _settles_at(booking) <= self.now
                booking.muted_until = 0.0 if booking.muted_until <= self.now else booking.muted_until
                self._changed(booking)

    def _fail(self, booking: Booking, message: str) -> None:
        if booking.started_at is None:
            booking.refunded = booking.paid
        elif booking.order.product == "vm":
            booking.refunded = booking.refund(booking.used(self.now))
        self._end(booking, Stage.FAILED, message)

    def _end(self, booking: Booking, stage: Stage, message: str) -> None:
        booking.ended_at = self.now
        for host in booking.hosts:
            self.hosts[host].rented -= booking.order.cards
        self._enter(booking, stage, message)
        self._ways_in.take_back(booking)

    def _enter(self, booking: Booking, stage: Stage, message: str) -> None:
        booking.stage = stage
        booking.events.append(Event(at=self.now, message=message))
        self._changed(booking)


def _settles_at(booking: Booking) -> float:
    """When the addresses of a running deployment are known."""
    if booking.flaws.kind == "never_reachable" or booking.started_at is None:
        return float("inf")
    return booking.started_at + booking.settles


def _next(booking: Booking) -> float | None:
    """When a deployment changes next by itself; None: never."""
    match booking.stage:
        case Stage.LOADING:
            times = [booking.starts_at, booking.fails_at]
        case Stage.RUNNING:
            settles = None if booking.settled else _settles_at(booking)
            times = [booking.ends_at, booking.fails_at, settles, booking.muted_until or None]
        case Stage.ENDING:
            times = [booking.gone_at]
        case _:
            times = []
    return min((when for when in times if when is not None), default=None)
