"""A deployment on the sandbox's io.net market, on virtual time: the real adapter, engine and store."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from gpuproxy.model.bookings import BookingRecord
from gpuproxy.model.leases import Lease
from gpuproxy.model.reservations import ReservationView
from gpuproxy.store import bookings, leases
from tests.sums import Undone, check_sums
from tests.virtual_time import VirtualClock, run_virtual
from tests.world import CALM, World

T = TypeVar("T")


class IoNetWorld(World):
    """Made by `in_ionet_world`."""

    async def rent(self, request_id: str = "r1", **wanted: Any) -> ReservationView:
        """One machine with one GPU."""
        return await self.reserve(1, request_id=request_id, seconds=300, **wanted)

    def arm_ionet(self, call: str, fault: str, times: int = 1, **args: Any) -> None:
        """The next `times` such calls fail that way."""
        body = {"provider": "io.net", "call": call, "fault": fault, "times": times, "args": args}
        self.control("POST", "faults", body)

    async def lease(self) -> Lease:
        """The only lease."""
        (found,) = await self.leases()
        return found

    async def bookings(self) -> tuple[BookingRecord, ...]:
        """The bookings of the only lease."""
        lease = await self.lease()
        return await self.db.read(lambda tx: bookings.of_lease(tx, lease.id))

    async def cost(self) -> int:
        """What all leases have cost."""
        rows = await self.leases()
        return sum(await self.db.read(lambda tx: leases.costs(tx, rows)))

    def extended(self) -> int:
        """How many extensions reached the market."""
        return int(self.market["calls"].get("io.net", {}).get("extend", 0))

    async def sums_are_right(self) -> None:
        """All stored sums agree with their rows, and no meter runs."""
        assert await self.db.read(lambda tx: tx.fetch("SELECT 1 AS one FROM meters")) == []
        with suppress(Undone):
            await self.db.write(check_sums)


def in_ionet_world(
    story: Callable[[IoNetWorld], Awaitable[T]],
    *,
    hours: int = 1,
    settings: Mapping[str, Any] | None = None,
    shared: bool = False,
    **options: Any,
) -> T:
    """Run a story in a fresh world whose creates book `hours` hours; `options` are the sandbox's.

    `shared`: other servers may use the database too.
    """

    async def run(clock: VirtualClock) -> T:
        chosen = {**CALM, "prepaid_hours": hours, **(settings or {})}
        world = IoNetWorld(
            clock, paced=False, accounts=0, prepaid_accounts=1, seed=7, settings=chosen, **({"machines": 4} | options)
        )
        world.shared = shared
        await world.start()
        try:
            return await story(world)
        finally:
            await world.engine.stop()

    return run_virtual(run)
