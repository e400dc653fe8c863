"""The second story of a seed: callers who wait until their machines are ready, on a market where some are not.

There are two cases. Either one cause makes every machine fail; then only few machines may be rented. Or at most one
host is bad and the market has only the faults of the real one; then every reservation must be filled.
"""

import asyncio
import hashlib
import json
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from gpuproxy.model.demands import LaunchSpec
from gpuproxy.model.errors import Refusal, Unavailable
from gpuproxy.model.leases import LeaseState
from gpuproxy.model.reservations import ReservationView
from tests import databases
from tests.simulation.audit import Violation, no_working_machine_was_given_up
from tests.simulation.logs import errors_logged
from tests.simulation.verdicts import Verdicts
from tests.simulation.weather import spec_of
from tests.virtual_time import VirtualClock, run_virtual
from tests.world import World, plain_label

CAUSES = ("image", "host_fault", "never_ready", "no_ssh", "wrong_gpu", "other_name", "price")
"""What makes every machine fail alike."""
PASSING = (
    ("create", "shy_row", {}), ("create", "other_name", {}), ("create", "other_name", {"flip": True}),
    ("create", "rate_limited", {"retry_after": 7}), ("create", "rate_limited", {"form": "threshold"}),
    ("create", "offer_gone", {}), ("create", "no_capacity", {}),
    ("list", "hang_before", {"seconds": 40}), ("list", "status_503_before", {}), ("list", "endless_list", {}),
    ("list", "slow_pages", {"seconds": 10}), ("list", "malformed_json", {}), ("list", "empty_list", {}),
    ("list", "odd_row", {"kind": "undecodable"}), ("list", "odd_row", {"kind": "no_id"}),
    ("list", "odd_row", {"kind": "wrong_types", "whose": "mine"}),
    ("get", "status_500_before", {}), ("search", "truncated", {}),
)  # fmt: skip
"""What passes, and keeps no reservation from being filled."""
_IMAGE = "example/broken"
_PATIENCE = 7200.0
_LIMIT = 5_000_000
"""Micro-dollars per GPU-hour, as `World.reserve` demands."""
_REPEATS = 200
"""Of a call that was told to come again later, with the same request id."""
_READY = (60, 300, 900)
_QUIET, _LOOKS = 1200.0, 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """The result of one seed's patient callers."""

    cause: str
    """Why every machine failed; empty where none had to."""
    asked: int
    """GPUs, of all callers."""
    rented: int
    """GPUs that ever existed at the market."""
    filled: int
    """Reservations with all their GPUs ready, or as many as the market had left."""
    callers: int
    worst: float
    """The highest number of GPUs rented for each GPU that was asked for, of any reservation."""
    digest: str


@dataclass(slots=True)
class _Ask:
    count: int
    view: ReservationView | None = None
    refusal: Refusal | None = None
    labels: tuple[tuple[str, str], ...] = field(default=())
    spec: LaunchSpec = field(default_factory=LaunchSpec)


def run(seed: int) -> Patience:
    """Run the story. Raises Violation."""
    with errors_logged() as errors:
        try:
            return run_virtual(lambda clock: _Story(seed, clock).run(errors))
        except Violation as violation:
            violation.add_note(f"seed {seed}, patience")
            raise


def cause_of(seed: int) -> str:
    """Why every machine of the seed's story fails; empty where at most one host is bad."""
    return _cause(_dice(seed), seed)


def _dice(seed: int) -> random.Random:
    return random.Random(f"patience {seed}")


def _cause(dice: random.Random, seed: int) -> str:
    return dice.choice(CAUSES) if seed % 3 == 0 else ""


class _Story:
    def __init__(self, seed: int, clock: VirtualClock) -> None:
        self.dice = dice = _dice(seed)
        self.cause = _cause(dice, seed)
        self.world = World(
            clock, paced=dice.random() < 0.3, accounts=dice.choice((1, 2)), seed=seed, machines=30,
            boot_time=(3.0, 45.0), misreport_share=dice.choice((0.0, 0.25, 1.0)),
            list_lag=dice.choice((0.0, 0.0, 20.0)), one_address_share=dice.choice((0.0, 0.5, 1.0)),
            portless_share=dice.choice((0.0, 0.0, 0.5)),
        )  # fmt: skip
        self.world.settings = self.world.settings.model_copy(update={"catalog_refresh_interval": 150.0})
        self.asks: list[_Ask] = []
        self.verdicts = Verdicts(self.world)

    async def run(self, errors: list[str]) -> Patience:
        await self.world.start()
        self._spoil()
        callers = [self._call(number) for number in range(self.dice.choice((1, 1, 2, 3)))]
        disturbing = asyncio.create_task(self._disturb())
        await asyncio.gather(*callers)
        disturbing.cancel()
        self.world.control("DELETE", "faults")
        await self._rest()
        self._check()
        await self.world.engine.stop()
        if errors:
            raise Violation("broken", f"the program logged errors: {errors[:3]}")
        return self._report()

    async def _rest(self) -> None:
        """Wait until nothing is being released any more, up to a limit. The check reports what has not ended."""
        for _ in range(_LOOKS):
            await self.world.sleep(_QUIET / _LOOKS)
            if not self._rows("SELECT id FROM leases WHERE state IN ('requested', 'unknown', 'releasing')"):
                return

    def _spoil(self) -> None:
        """Make every machine fail in the same way, or one host bad."""
        control, machines = self.world.control, sorted(self.world.sandbox.market.machines)
        match self.cause:
            case "":
                how = self.dice.choice(("never_ready", "host_fault", "no_ssh"))
                control("POST", f"machines/{self.dice.choice(machines)}/break", {"how": how})
            case "image":
                control("POST", "images", {"image": _IMAGE, "message": "manifest unknown: manifest unknown"})
            case "wrong_gpu":
                self.world.arm("create", "wrong_gpu", times=0, gpu_name="GTX 1050", gpu_ram=4096)
            case "other_name":
                self.world.arm("create", "other_name", times=0, seconds=1e9, gpu_name="GTX 1050")
            case "price":
                self.world.arm("create", "price_moved", times=0, factor=1000)
            case how:
                for machine in machines:
                    control("POST", f"machines/{machine}/break", {"how": how})

    async def _disturb(self) -> None:
        """Repeat temporary faults again and again."""
        while True:
            call, fault, args = self.dice.choice(PASSING)
            if self.cause not in ("wrong_gpu", "other_name", "price") or call != "create":
                times = self.dice.choice((1, 2, 5))
                if call != "search" or not self._is_armed(call):  # else the market could not be read for many minutes
                    self.world.arm(call, fault, times=times, **args)
            await self.world.sleep(self.dice.uniform(1, 120))

    async def _call(self, number: int) -> None:
        count = self.dice.choice((1, 2, 3, 4, 6))
        ask = _Ask(count, labels=(("ask", str(number)),), spec=self._spec())
        self.asks.append(ask)
        wanted: dict[str, Any] = {
            "wait_for": "ready", "request_id": f"r{number}", "verified_only": False, "labels": ask.labels,
            "ready_timeout": timedelta(seconds=self.dice.choice(_READY)), "spec": ask.spec,
            "project": self.dice.choice(("p1", "p2")), "min_count": 1,
            "strategy": self.dice.choice(("lowest_price", "least_connections", "round_robin")),
        }  # fmt: skip
        await self.world.sleep(self.dice.uniform(0, 30))
        for _ in range(_REPEATS):
            try:
                ask.view = await self.world.reserve(ask.count, seconds=_PATIENCE, **wanted)
            except Unavailable as refusal:
                ask.refusal = refusal
                await self.world.sleep(refusal.retry_after)
            except Refusal as refusal:
                ask.refusal = refusal
                return
            else:
                return

    def _spec(self) -> LaunchSpec:
        """An entry point without ports works also where nothing answers, so that cause does not concern it."""
        spec = spec_of(self.dice, ("ssh", "ssh", "jupyter", "entrypoint"), _IMAGE)
        silent = self.cause == "no_ssh" and spec.run_mode == "entrypoint" and not spec.ports
        return replace(spec, run_mode="ssh") if silent else spec

    # -- what must be true

    def _check(self) -> None:
        no_working_machine_was_given_up(self.verdicts)
        rented = self._rented()
        for number, ask in enumerate(self.asks):
            if rented[str(number)] > 2 * ask.count:
                raise Violation("broken", f"{rented[str(number)]} GPUs were rented for {ask.count} ({self.cause})")
            if not self.cause and not self._is_filled(ask) and self._could_be_filled(ask):
                raise Violation("broken", f"a reservation of {ask.count} was not filled: {_told(ask)}")
            if self.cause and self._is_filled(ask):
                raise Violation("broken", f"a reservation was filled in spite of {self.cause}: {_told(ask)}")
        alive, owned = set(self.world.alive()), set(self._owned())
        if alive != owned:
            raise Violation("leak", f"alive but not owned {alive - owned}, owned but not alive {owned - alive}")
        if self.cause and alive:
            raise Violation("leak", f"{len(alive)} machines that can't work are kept")

    def _is_filled(self, ask: _Ask) -> bool:
        leases = ask.view.leases if ask.view is not None else ()
        return sum(lease.offered.num_gpus for lease in leases if lease.state is LeaseState.ACTIVE) == ask.count

    def _could_be_filled(self, ask: _Ask) -> bool:
        """Whether as many single GPUs are free, at the price and on hosts that work, as the answer lacks.

        Only a host with direct ports can map what a caller requests.
        """
        leases = ask.view.leases if ask.view is not None else ()
        had = sum(lease.offered.num_gpus for lease in leases if lease.state is LeaseState.ACTIVE)
        free = sum(
            chunk.gpus == 1
            and chunk.rentable
            and chunk.price <= _LIMIT
            and not chunk.machine.broken
            and (chunk.machine.direct_ports > 0 or not ask.spec.ports)
            for chunk in self.world.sandbox.market.chunks.values()
        )
        return free >= ask.count - had

    def _is_armed(self, call: str) -> bool:
        return any(fault.call == call for fault in self.world.sandbox.faults._armed)

    def _rented(self) -> Counter[str]:
        """GPUs that ever existed at the market, by the caller in whose name they were rented."""
        whose = {
            row["label"]: dict(_pairs(row["labels"]))["ask"]
            for row in self._rows(
                "SELECT l.label, r.labels FROM leases l JOIN reservations r ON r.id = l.reservation_id"
            )
        }
        rented: Counter[str] = Counter()
        for instance in self.world.market["instances"]:
            rented[whose[plain_label(instance["label"])]] += instance["num_gpus"]
        return rented

    def _owned(self) -> list[str]:
        rows = self._rows("SELECT instance_id FROM leases WHERE state IN ('starting', 'active', 'parked')")
        return [row["instance_id"] for row in rows]

    def _rows(self, sql: str) -> list[Any]:
        return databases.named(self.world.db, sql)

    def _report(self) -> Patience:
        rented = self._rented()
        events = [tuple(row.values()) for row in self._rows("SELECT * FROM events ORDER BY seq")]
        return Patience(
            cause=self.cause,
            asked=sum(ask.count for ask in self.asks),
            rented=rented.total(),
            filled=sum(self._is_filled(ask) or not (self.cause or self._could_be_filled(ask)) for ask in self.asks),
            callers=len(self.asks),
            worst=max(rented[str(number)] / ask.count for number, ask in enumerate(self.asks)),
            digest=hashlib.blake2b(repr(events).encode(), digest_size=12).hexdigest(),
        )


def _pairs(raw: str) -> list[tuple[str, str]]:
    return [(key, value) for key, value in json.loads(raw)]


def _told(ask: _Ask) -> str:
    if ask.view is None:
        return repr(ask.refusal)
    leases = [(lease.state.value, lease.reason, lease.offered.host) for lease in ask.view.leases]
    return f"{ask.view.reservation.message} {leases}"
