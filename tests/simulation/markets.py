"""Two marketplaces, one billed by use and one paid in advance, with several accounts each: callers, faults, crashes.

A story lasts for hours of virtual time, so that bookings end or are extended. The same seed gives the same story.
"""

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import Refusal
from gpuproxy.model.offers import ProviderName
from gpuproxy.model.strategies import STRATEGIES
from tests.simulation.audit import Violation
from tests.simulation.logs import errors_logged
from tests.simulation.markets_audit import MarketsAudit
from tests.simulation.report import hits_of
from tests.simulation.weather import args_of
from tests.virtual_time import VirtualClock, run_virtual
from tests.world import World

_VAST, _IONET = ProviderName("vast.ai"), ProviderName("io.net")
_CHOICES: tuple[frozenset[ProviderName], ...] = (
    frozenset(), frozenset({_VAST, _IONET}), frozenset({_VAST}), frozenset({_IONET})
)  # fmt: skip
"""The marketplaces that a request names; none: all."""
_QUIET = 6 * 3600.0
"""Seconds within which everything is at rest: a create without a trace is given up after its longest booking."""
_STEP, _RESTS = 60.0, 3
_OF_BOTH = (
    "SELECT reservation_id FROM leases WHERE instance_id IS NOT NULL GROUP BY reservation_id "
    "HAVING count(DISTINCT provider) > 1"
)
_READ = (
    "refuse_connection", "reset_before", "hang_before", "status_500_before", "status_503_before", "rate_limited",
    "malformed_json", "html_502", "truncated", "empty_body", "auth_error",
)  # fmt: skip
_DONE = ("reset_after", "hang_after", "status_500_after", "late_effect")
_FAULTS: dict[str, dict[str, tuple[str, ...]]] = {
    "vast.ai": {
        "create": (*_READ, *_DONE, "offer_gone", "no_capacity", "insufficient_credit", "never_ready"),
        "list": (*_READ, "empty_list", "missing_page"),
        "get": _READ,
        "destroy": (*_READ, *_DONE, "destroy_ignored"),
        "search": (*_READ, "empty_list"),
    },
    "io.net": {
        "create": (
            *_READ, *_DONE, "offer_gone", "no_capacity", "insufficient_credit", "deploy_body", "never_reachable",
            "host_fault", "dies_after_ready", "price_moved",
        ),
        "price": (*_READ, "price_moved"),
        "list": (*_READ, "empty_list", "missing_page", "unstable_pages", "status_words"),
        "get": (*_READ, "status_words"),
        "vms": _READ,
        "extend": (*_READ, *_DONE, "insufficient_credit"),
        "destroy": (*_READ, *_DONE, "destroy_ignored"),
        "search": (*_READ, "empty_list"),
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketsWeather:
    """Everything that is constant during a seed's story. Times in seconds."""

    seed: int
    faults: tuple[tuple[str, str, str], ...]
    """(marketplace, call, fault) that may be armed."""
    fault_rate: float
    crash_rate: float
    accounts: int
    prepaid_accounts: int
    paced: bool
    machines: int
    steps: int
    pauses: tuple[float, ...]
    """The longest time between two steps is drawn from these."""
    list_lag: float
    delay: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketsReport:
    """The result of one story."""

    seed: int
    machines: dict[str, int]
    """By marketplace."""
    both: int
    """Reservations with machines of both marketplaces."""
    extensions: int
    unknowns: int
    crashes: int
    faults: int
    seconds: float
    digest: str


def weather_of(seed: int) -> MarketsWeather:
    """The weather of a seed, always the same."""
    dice = random.Random(f"markets weather {seed}")
    everything = [
        (provider, call, fault)
        for provider, calls in _FAULTS.items()
        for call, faults in calls.items()
        for fault in faults
    ]
    chosen = [each for each in everything if dice.random() < dice.choice((0.1, 0.3, 0.6))]
    return MarketsWeather(
        seed=seed,
        faults=tuple(chosen),
        fault_rate=dice.choice((0.0, 0.4, 0.8, 1.5)),
        crash_rate=dice.choice((0.0, 0.0, 0.1, 0.25)),
        accounts=dice.choice((1, 2)),
        prepaid_accounts=dice.choice((1, 2)),
        paced=dice.random() < 0.3,
        machines=dice.choice((1, 2, 4)),
        steps=dice.randint(4, 12),
        pauses=dice.choice(((20.0,), (20.0, 300.0), (60.0, 1800.0))),
        list_lag=dice.choice((0.0, 0.0, 10.0, 40.0)),
        delay=dice.choice((0.0, 0.0, 0.05, 1.5)),
    )


def run(seed: int, *, tell: bool = False) -> MarketsReport:
    """Run the story of a seed. Raises Violation. `tell` prints what happens."""
    with errors_logged() as errors:
        try:
            return run_virtual(lambda clock: _Story(weather_of(seed), clock, tell=tell).run(errors))
        except Violation as violation:
            violation.add_note(f"seed {seed}")
            raise


class _Story:
    def __init__(self, weather: MarketsWeather, clock: VirtualClock, *, tell: bool) -> None:
        self.weather = weather
        self.clock = clock
        self.tell = tell
        self.dice = random.Random(f"markets story {weather.seed}")
        self.world = World(
            clock, paced=weather.paced, accounts=weather.accounts, prepaid_accounts=weather.prepaid_accounts,
            seed=weather.seed, machines=weather.machines, boot_time=(3.0, 15.0), list_lag=weather.list_lag,
        )  # fmt: skip
        self.world.delay = lambda: self.dice.uniform(0.0, weather.delay) if weather.delay else 0.0
        self.audit = MarketsAudit(self.world)
        self.calls: list[asyncio.Task[Any]] = []
        self.crashes = 0
        self.hits = hits_of(self.world)

    async def run(self, errors: Sequence[str]) -> MarketsReport:
        self.say("weather", self.weather)
        await self._live()
        for _ in range(self.weather.steps):
            await self._step()
            await self.world.sleep(self.dice.uniform(0.0, self.dice.choice(self.weather.pauses)))
            await self._alive_again()
            self.audit.safety()
        self.world.control("DELETE", "faults")
        self.world.life.spare()
        self.say("calm")
        await self._alive_again()
        await self._rest()
        self.audit.final()
        await self.world.engine.stop()
        if errors:
            raise Violation("broken", f"the program logged errors: {errors[:3]}")
        return self._report()

    async def _step(self) -> None:
        for _ in range(int(self.weather.fault_rate) + (self.dice.random() < self.weather.fault_rate % 1)):
            self._arm()
        if self.dice.random() < self.weather.crash_rate:
            self.world.life.die_after(self.dice.randint(1, 40))
        actions = {self._ask: 6, self._release: 2, self._destroy: 2, self._extend: 2, self._trouble: 1}
        await self.dice.choices(list(actions), list(actions.values()))[0]()

    def _arm(self) -> None:
        if not self.weather.faults:
            return
        provider, call, fault = self.dice.choice(self.weather.faults)
        name, args = args_of(fault, self.dice.choice((1.0, 20.0, 60.0)))
        self.world.arm(call, name, times=self.dice.choice((1, 1, 2, 4)), provider=provider, **args)
        self.say("fault", provider, call, fault)

    async def _ask(self) -> None:
        dice = self.dice
        providers = dice.choice(_CHOICES)
        wanted: dict[str, Any] = {
            "count": dice.choice((1, 2, 4, 8, 16)), "min_count": 1, "request_id": f"r{len(self.calls)}",
            "verified_only": False, "providers": providers, "max_price": 10.0, "strategy": dice.choice([*STRATEGIES]),
        }  # fmt: skip
        if (lease := dice.choice((None, 600.0, 5400.0, 9000.0))) is not None:
            wanted["lease"] = lease
        self.say("reserve", wanted)
        call = asyncio.create_task(self.world.reserve(seconds=dice.choice((5.0, 120.0)), **wanted))
        call.add_done_callback(self._answered)
        self.calls.append(call)

    def _answered(self, call: "asyncio.Task[Any]") -> None:
        if call.cancelled():
            return
        error = call.exception()
        self.say("answer", error if error is not None else call.result().reservation.id)
        if error is not None and not isinstance(error, Refusal):
            self.audit.break_with(Violation("broken", f"a request ended with {error!r}"))

    async def _release(self) -> None:
        if (reservation := self._reservation()) is None:
            return
        if await self._tried(self.world.engine.reservations.release(Caller(project="p1"), reservation)):
            self.audit.ended.add(reservation)

    async def _destroy(self) -> None:
        rows = self.audit.rows("SELECT provider, instance_id FROM leases WHERE instance_id IS NOT NULL ORDER BY id")
        if rows:
            row = self.dice.choice(rows)
            instances = self.world.engine.instances
            if await self._tried(instances.destroy(Caller(project="p1"), row["provider"], row["instance_id"])):
                self.audit.ended.add(row["instance_id"])

    async def _extend(self) -> None:
        if (reservation := self._reservation()) is not None:
            until = self.world.books_clock.now() + timedelta(seconds=self.dice.choice((600.0, 5400.0, 9000.0)))
            await self._tried(self.world.engine.reservations.extend(Caller(project="p1"), reservation, until))

    async def _trouble(self) -> None:
        mine = sorted(self.audit.alive())
        if mine:
            contract = self.dice.choice(mine)
            self.say("dies", contract)
            self.world.control("POST", f"instances/{contract}/kill", {"how": self.dice.choice(("container", "host"))})

    def _reservation(self) -> str | None:
        rows = self.audit.rows("SELECT id FROM reservations ORDER BY created_at, id")
        return self.dice.choice(rows)["id"] if rows else None

    async def _tried(self, work: Any) -> bool:
        """Whether a call succeeded. A refusal does not matter here, nor does a crash during the call."""
        try:
            await asyncio.create_task(work)
        except (Refusal, asyncio.CancelledError) as error:
            self.say("refused", repr(error))
            return False
        return True

    async def _alive_again(self) -> None:
        if self.world.life.dead:
            self.crashes += 1
            self.say("crashed")
            await self.world.kill()
            await self.world.sleep(self.dice.choice((0.0, 5.0, 90.0, 1200.0)))
            await self._live()

    async def _live(self) -> None:
        again = self.dice.random() < self.weather.crash_rate
        while True:
            try:
                die_after = self.dice.randint(1, 8) if again else None
                again = False
                return await asyncio.create_task(self.world.start(die_after=die_after))
            except asyncio.CancelledError:
                if not self.world.life.dead:
                    raise

    async def _rest(self) -> None:
        """Wait until the books and both markets agree. It must last."""
        began, rests = self.clock.monotonic(), 0
        while rests < _RESTS:
            if self.clock.monotonic() - began > _QUIET:
                raise Violation("leak", f"after {_QUIET:.0f} s of quiet: {self.audit.unrest() or 'it does not last'}")
            await self.world.sleep(_STEP)
            await self._alive_again()
            self.audit.safety()
            hangs = any(not call.done() for call in self.calls)
            rests = rests + 1 if not hangs and not self.audit.unrest() else 0

    def _report(self) -> MarketsReport:
        rows = self.audit.rows
        return MarketsReport(
            seed=self.weather.seed,
            machines=dict(Counter(row["provider"] for row in self.world.market["instances"])),
            both=len(rows(_OF_BOTH)),
            extensions=len(rows("SELECT 1 FROM bookings WHERE kind = 'extend' AND state = 'confirmed'")),
            unknowns=len(rows("SELECT 1 FROM events WHERE event = 'reply_lost'")),
            crashes=self.crashes,
            faults=self.hits.total(),
            seconds=self.clock.monotonic(),
            digest=hashlib.blake2b(repr(self.audit.digest()).encode(), digest_size=12).hexdigest(),
        )

    def say(self, *words: object) -> None:
        if self.tell:
            print(f"{self.clock.monotonic():9.2f}", *words, flush=True)  # noqa: T201
