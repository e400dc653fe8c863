"""A prepaid marketplace on virtual time: the example adapter of docs/examples/marketplace, paid in advance.

Machines are booked for whole hours and end with their booking. A destroy gives back the time after the first hour. A
listing may lack a machine, shows the end of each booking, and tells no payment. A single read tells the payment and no
label. `Market.on_extend` decides what becomes of the next extensions.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from gpuproxy.model.bookings import BookingRecord
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import (
    InsufficientFunds,
    InvalidRequest,
    OutcomeUnknown,
    ProviderUnavailable,
    RateLimited,
)
from gpuproxy.model.leases import InstanceId, Lease
from gpuproxy.model.money import Micro, micro
from gpuproxy.model.reservations import ReservationView
from gpuproxy.ports import (
    Booking,
    Clock,
    Database,
    Descriptor,
    HttpReplyLost,
    HttpRequest,
    HttpResponse,
    Inventory,
    ListedInstance,
    ProviderSetup,
    Receipt,
    Spend,
)
from gpuproxy.store import bookings, leases
from tests.moon import KEY, StandIn
from tests.mortal import MortalHttp
from tests.sums import Undone, check_sums
from tests.virtual_time import DAY_ONE, VirtualClock, run_virtual
from tests.world import CALM, InlineWorkers, World

# isort: split
import moon_marketplace as moon  # found beside the documentation only, by tests.moon

T = TypeVar("T")
HOUR = timedelta(hours=1)
P1 = Caller(project="p1")
MISSING = {name: why for name, why in moon.CAPABILITIES.missing.items() if name != "extend"}
CAPABILITIES = replace(
    moon.CAPABILITIES, missing=MISSING, billing="prepaid", refund_after=3600.0, listing_may_miss=True, late_seconds=None
)


class Market(StandIn):
    """The stand-in with bookings."""

    def __init__(self, clock: Clock, hours: int) -> None:
        super().__init__()
        self.clock = clock
        self.hours = hours
        self.on_extend: list[str] = []
        """What becomes of the next extensions: lost, funds, busy or never; ok after the last one.

        With "_executed" it is executed nevertheless.
        """
        self.on_create = ""
        """What becomes of creates: lost or lost_executed, or taken for the next one."""
        self.extend_wait = 0.0
        """For so many seconds the adapter waits before it sends an extension."""
        self.extended: list[datetime] = []
        """When an extension arrived, whatever became of it."""
        self.created: list[datetime] = []
        self.hidden = False
        """Listings lack all machines."""
        self.lists_prices = False
        self.read_factor = 1.0
        """By so much a single read shows another price than was paid."""
        self.reads_fail = False
        """Single reads get no answer."""
        self.listing_lag = timedelta(0)
        """For so long a listing shows the booking from before the last extension."""
        self.read_lag = timedelta(0)
        """For so long a single read shows the end from before the last extension, and with `paid_lags` the payment."""
        self.paid_lags = True
        self.ended: dict[str, dict[str, Any]] = {}
        self.credit = 1_000_000_000
        self.fee = 0
        """Micro-dollars that are charged with each booking, beside its price."""

    async def send(self, request: HttpRequest) -> HttpResponse:
        self._end_bookings()
        if request.method == "POST" and request.url.endswith("/extend"):
            return self._extend(request.url.split("/")[-2], json.loads(request.body or b"{}")["hours"])
        if request.method == "POST":
            self.created.append(self.clock.now())
            if self.on_create == "taken":
                self.on_create = ""
                return HttpResponse(status=409, headers={}, body=b'{"error": "taken"}')
            if self.on_create == "lost":
                raise HttpReplyLost("cut")
        if self.reads_fail and request.method == "GET" and "/machines/" in request.url:
            raise HttpReplyLost("cut")
        if request.method == "DELETE":
            self._refund(request.url.rpartition("/")[2])
        response = await super().send(request)
        if request.method == "POST":
            self._book(json.loads(response.body).get("machine_id", ""))
            if self.on_create == "lost_executed":
                raise HttpReplyLost("cut")
        return response

    def answer(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Any:
        status, said = super().answer(method, url, headers, body)
        if self.hidden and "machines" in said:
            return status, {"machines": [], "next": ""}
        return status, said

    def _book(self, machine_id: str) -> None:
        if machine_id in self.rented:
            row = self.rented[machine_id]
            now = self.clock.now()
            cost = self._cost(row, self.hours)
            row |= {"from": now.timestamp(), "until": (now + self.hours * HOUR).timestamp(), "paid": cost}
            row |= {"was_until": row["until"], "extended_at": 0.0}
            self.credit -= cost

    def _extend(self, machine_id: str, hours: int) -> HttpResponse:
        self.extended.append(self.clock.now())
        fate = self.on_extend.pop(0) if self.on_extend else "ok"
        refusals = {"funds": (402, "no_funds"), "busy": (503, "busy"), "never": (400, "never")}
        fate, executed, _ = fate.partition("_executed")
        row: Any = self.rented.get(machine_id)
        if row is None:
            return HttpResponse(status=404, headers={}, body=b'{"error": "no_such_machine"}')
        if fate == "ok" or executed:
            self._book_longer(row, hours)
        if fate == "lost":
            raise HttpReplyLost("cut")
        status, said = refusals.get(fate, (200, ""))
        return HttpResponse(status=status, headers={}, body=json.dumps({"error": said}).encode())

    def _book_longer(self, row: dict[str, Any], hours: int) -> None:
        cost = self._cost(row, hours)
        row |= {"was_until": row["until"], "was_paid": row["paid"]}
        row |= {"until": row["until"] + hours * 3600, "paid": row["paid"] + cost}
        row["extended_at"] = self.clock.now().timestamp()
        self.credit -= cost

    def _cost(self, row: Mapping[str, Any], hours: int) -> int:
        return int(micro(str(row["usd_per_hour"]))) * hours + self.fee

    def _refund(self, machine_id: str) -> None:
        row: Any = self.rented.get(machine_id)
        if row is not None:
            self.ended[machine_id] = row
            total, used = row["until"] - row["from"], self.clock.now().timestamp() - row["from"]
            left = max(0.0, total - max(3600.0, used))
            row["refund"] = int(row["paid"] * left / total)
            self.credit += row["refund"]

    def _end_bookings(self) -> None:
        now = self.clock.now().timestamp()
        for machine_id, row in list(self.rented.items()):
            if float(str(row["until"])) <= now:
                self.ended[machine_id] = self.rented.pop(machine_id)  # type: ignore[assignment]

    @property
    def machine(self) -> dict[str, Any]:
        """The only machine that exists."""
        (row,) = self.rented.values()
        return row


class PrepaidMoon(moon.Moon):
    """The example adapter, for the market above."""

    def __init__(self, setup: ProviderSetup, market: Market) -> None:
        super().__init__(setup)
        self.capabilities = replace(CAPABILITIES, create_interval=0.0)
        self._market = market

    async def create(self, offer: Any, spec: Any, label: str) -> Receipt:
        receipt = await super().create(offer, spec, label)
        return replace(receipt, booked_until=self._setup.clock.now() + self._market.hours * HOUR)

    async def list(self) -> Inventory:
        rows = [row async for page in self._pages("list", "/machines", "machines") for row in page]
        return Inventory(instances=tuple(self._shown(row, listed=True) for row in rows))

    async def get(self, instance_id: InstanceId) -> ListedInstance | None:
        if await super().get(instance_id) is None:
            return None
        response = await self._read("get", f"/machines/{instance_id}")
        return self._shown(moon._object(response)["machine"], listed=False)  # type: ignore[arg-type]

    async def extend(self, instance_id: InstanceId, hours: int) -> None:
        body = {"hours": hours}
        request = self._request("call", "POST", f"/machines/{instance_id}/extend", body)
        await self._setup.clock.sleep(self._market.extend_wait)
        try:
            response = await self._setup.http.send(request)
        except HttpReplyLost as error:
            raise OutcomeUnknown("the answer to an extension was lost") from error
        if response.status != 200:
            kinds: dict[int, Any] = {402: InsufficientFunds, 503: ProviderUnavailable, 429: RateLimited}
            raise kinds.get(response.status, InvalidRequest)(f"refused with {response.status}")

    async def spend(self) -> Spend:
        return Spend(credit=Micro(self._market.credit))

    def _shown(self, row: Any, *, listed: bool) -> ListedInstance:
        now = self._setup.clock.now()
        lag = self._market.listing_lag if listed else self._market.read_lag
        lags = now.timestamp() - row["extended_at"] < lag.total_seconds()
        until = row["was_until"] if lags else row["until"]
        paid = Micro(row["was_paid"] if lags and not listed and self._market.paid_lags else row["paid"])
        minutes = (until - now.timestamp()) // 60
        booking = Booking(until=now + timedelta(minutes=minutes), paid=None if listed else paid)
        shown = moon._instance(row)
        rate = self._market.read_factor * row["paid"] / ((row["until"] - row["from"]) / 3600)
        shown = replace(
            shown, price=Micro(int(rate)) if not listed else shown.price if self._market.lists_prices else None
        )
        return replace(shown, label=shown.label if listed else None, booking=booking)


class PrepaidWorld(World):
    """A deployment on the prepaid market. Made by `in_prepaid_world`."""

    market_: Market

    def _provider(self, marketplace: Descriptor, number: int, key: str, db: Database | None = None) -> Any:
        setup = ProviderSetup(
            account=f"{marketplace.prefix}-{number}",
            key=KEY,
            base_url="http://moon",
            http=MortalHttp(self.market_, self.life, self.delay, self._hear, self._hear_answer),
            clock=self.books_clock,
            workers=InlineWorkers(),
            intervals=dict.fromkeys(("search", "create", "list", "get", "destroy"), 0.0),
            prepaid_hours=self.settings.prepaid_hours,
        )
        return PrepaidMoon(setup, self.market_)

    async def rent(self, **wanted: Any) -> ReservationView:
        """One machine with two GPUs."""
        return await self.reserve(2, request_id=wanted.pop("request_id", "r1"), **wanted)

    async def lease(self) -> Lease:
        """The only lease."""
        (found,) = await self.leases()
        return found

    async def bookings(self) -> tuple[BookingRecord, ...]:
        """The bookings of the only lease."""
        lease = await self.lease()
        return await self.db.read(lambda tx: bookings.of_lease(tx, lease.id))

    async def books_agree_with_market(self) -> None:
        """What the market holds is exactly what the books call live, no meter runs, and all sums are right."""
        live = {str(lease.instance_id) for lease in await self.live() if lease.instance_id is not None}
        assert live == set(self.market_.rented)
        assert await self.db.read(lambda tx: tx.fetch("SELECT 1 AS one FROM meters")) == []
        with suppress(Undone):
            await self.db.write(check_sums)

    async def cost(self) -> int:
        """What the only lease has cost."""
        lease = await self.lease()
        return await self.db.read(lambda tx: leases.cost(tx, lease.id))


def in_prepaid_world(
    story: Callable[[PrepaidWorld], Awaitable[T]],
    *,
    hours: int = 1,
    settings: Mapping[str, Any] | None = None,
    start: datetime = DAY_ONE,
) -> T:
    """Run a story in a fresh world whose creates book `hours` hours."""

    async def run(clock: VirtualClock) -> T:
        chosen = {**CALM, "prepaid_hours": hours, **(settings or {})}
        world = PrepaidWorld(clock, paced=False, accounts=1, seed=7, settings=chosen, machines=4)
        world.market_ = Market(clock, hours)
        await world.start()
        try:
            return await story(world)
        finally:
            await world.engine.stop()

    return run_virtual(run, start=start)
