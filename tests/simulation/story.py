"""One seed's story: callers, faults and crashes in a random order, then a quiet time, then the final checks.

All randomness comes from the seed, and all time is virtual. So the same seed gives the same story to the last event,
which `Report.digest` shows.
"""

import asyncio
import hashlib
import random
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import Refusal
from gpuproxy.sandbox.market.instances import Launch, Phase
from tests.simulation.audit import GRACE, Agreement, Audit, Violation
from tests.simulation.logs import errors_logged
from tests.simulation.report import Report, hits_of
from tests.simulation.weather import LONGEST_STALL, Weather, args_of, spec_of, weather_of
from tests.virtual_time import VirtualClock, run_virtual
from tests.world import World

QUIET = 900.0
"""Seconds within which everything is at rest once the faults have stopped: twice the quarantine, and listings."""
_STEP = 30.0
_DAY = 86_400.0
_BETWEEN_STALLS = 600.0
_FOREIGN_AGE = 700.0


@dataclass(slots=True, kw_only=True)
class _Ask:
    """One request of a caller, as often as it is made."""

    number: int
    wanted: dict[str, Any]
    agreement: Agreement
    calls: list["asyncio.Task[Any]"] = field(default_factory=list)


def run(seed: int, *, tell: bool = False) -> Report:
    """Run the story of a seed. Raises Violation. `tell` prints what happens."""
    with errors_logged() as errors:
        try:
            return run_virtual(lambda clock: _Story(weather_of(seed), clock, tell=tell).run(errors))
        except Violation as violation:
            violation.add_note(f"seed {seed}")
            raise


class _Story:
    def __init__(self, weather: Weather, clock: VirtualClock, *, tell: bool) -> None:
        self.weather = weather
        self.clock = clock
        self.tell = tell
        self.dice = random.Random(f"story {weather.seed}")
        self.world = World(
            clock, paced=weather.paced, accounts=weather.accounts, seed=weather.seed, machines=weather.machines,
            boot_time=(3.0, 15.0), create_latency=weather.create_latency, list_lag=weather.list_lag,
            misreport_share=weather.shyness, one_address_share=weather.one_address,
            portless_share=weather.portless, keys_refreshed_after=weather.keys_refreshed_after,
        )  # fmt: skip
        self.world.delay = self._delay
        self.audit = Audit(self.world, beyond=weather.beyond)
        self.asks: list[_Ask] = []
        self.crashes = self.jumps = self.stalls = 0
        self._stalled_at = -_BETWEEN_STALLS
        self.ahead = False
        """The date was put forward."""
        self.hits = hits_of(self.world)

    async def run(self, errors: list[str]) -> Report:
        self.say("weather", self.weather)
        await self._live()
        if self.weather.foreign:
            self._foreign()
        for _ in range(self.weather.steps):
            await self._step()
            await self.world.sleep(self.dice.uniform(0.0, self.weather.pause))
            await self._alive_again()
            self.audit.safety()
        faults_ended = await self._calm()
        await self._rest()
        await self._repeat_everything()
        self.audit.final()
        await self.world.engine.stop()
        lifetimes = tuple(self.audit.lifetimes_of_surplus(faults_ended))
        if any(seconds > GRACE for seconds in lifetimes):
            raise Violation("leak", f"a surplus lived for {max(lifetimes):.0f} s")
        if errors:
            raise Violation("broken", f"the program logged errors: {errors[:3]}")
        return self._report(lifetimes)

    # -- what callers do

    async def _step(self) -> None:
        for _ in range(int(self.weather.fault_rate) + (self.dice.random() < self.weather.fault_rate % 1)):
            self._arm()
        if self.dice.random() < self.weather.crash_rate:
            await self._crash()
        actions = {
            self._ask: 8, self._ask_again: 3, self._leave: 2, self._release: 2, self._destroy: 2, self._extend: 1,
            self._power: 2, self._trouble: 1, self._jump: 2 * self.weather.jumps, self._stall: 2 * self.weather.stalls,
            self._books: 2 * self.weather.books_fail,
        }  # fmt: skip
        await self.dice.choices(list(actions), list(actions.values()))[0]()

    async def _ask(self) -> None:
        dice, number = self.dice, len(self.asks)
        lease = dice.choice((None, None, 60.0, 300.0))
        wanted: dict[str, Any] = {
            "count": dice.choice((1, 1, 1, 2, 2, 4)),
            "request_id": f"r{number}" if dice.random() < 0.6 else "",
            "all_or_nothing": dice.random() < 0.2,
            "keep_late": dice.random() < 0.2,
            "wait": dice.random() < 0.85,
            "wait_for": dice.choice(("created", "created", "ready")),
            "on_not_ready": dice.choice(("replace", "keep")),
            "ready_timeout": timedelta(seconds=dice.choice((30, 120, 600))),
            "verified_only": False,
            "labels": (("ask", str(number)),),
            "spec": spec_of(dice, self.weather.run_modes),
        }
        if lease is not None:
            wanted["lease"] = lease
        if wanted["count"] > 1 and not wanted["all_or_nothing"] and dice.random() < 0.5:
            wanted["min_count"] = 1
        now = self.clock.monotonic()
        findable = bool(wanted["request_id"]) or wanted["keep_late"]
        agreement = Agreement(
            keep=findable or not wanted["wait"], findable=findable, all_or_nothing=wanted["all_or_nothing"],
            ends_after=None if lease is None else now + lease,
        )  # fmt: skip
        self.audit.agreements[str(number)] = agreement
        ask = _Ask(number=number, wanted=wanted, agreement=agreement)
        self.asks.append(ask)
        self._call(ask)

    def _call(self, ask: _Ask) -> None:
        seconds = self.dice.choice((0.5, 5.0, 30.0, 120.0))
        self.say("reserve", ask.number, f"{seconds} s", ask.wanted)
        ask.calls.append(asyncio.create_task(self.world.reserve(seconds=seconds, **ask.wanted)))
        ask.calls[-1].add_done_callback(lambda call: self._answered(ask, call))
        if (lease := ask.wanted.get("lease")) is not None:  # any call with this request_id may be the one that rents
            ask.agreement.ends_before = max(ask.agreement.ends_before or 0.0, self.clock.monotonic() + seconds + lease)

    def _answered(self, ask: _Ask, call: "asyncio.Task[Any]") -> None:
        if call.cancelled():
            told = "nobody"
            ask.agreement.gone = True
        elif (error := call.exception()) is not None:
            told = f"{type(error).__name__} {getattr(error, 'reason', error)}"
            if not isinstance(error, Refusal):
                self.audit.break_with(Violation("broken", f"request {ask.number} ended with {error!r}"))
        else:
            view = call.result()
            ask.agreement.findable |= not ask.wanted["wait"]
            told = f"{view.reservation.id} {[(lease.state.value, lease.instance_id) for lease in view.leases]}"
        self.audit.log.append((ask.number, told))
        self.say("answer", ask.number, told)

    async def _ask_again(self) -> None:
        named = [ask for ask in self.asks if ask.wanted["request_id"]]
        if named:
            self._call(self.dice.choice(named))

    async def _leave(self) -> None:
        waiting = [call for ask in self.asks for call in ask.calls if not call.done()]
        if waiting:
            self.dice.choice(waiting).cancel()
            self.say("leave")

    async def _release(self) -> None:
        if (found := self._known()) is not None:
            ask, reservation = found
            ask.agreement.release_asked.add(reservation)
            if await self._say_so(self.world.engine.reservations.release(Caller(project="p1"), reservation)):
                ask.agreement.released.add(reservation)

    async def _destroy(self) -> None:
        rows = self.audit.rows("SELECT provider, instance_id FROM leases WHERE instance_id IS NOT NULL ORDER BY id")
        if rows:
            row = self.dice.choice(rows)
            for ask in self.asks:
                ask.agreement.destroy_asked.add(row["instance_id"])
            instances = self.world.engine.instances
            if await self._say_so(instances.destroy(Caller(project="p1"), row["provider"], row["instance_id"])):
                for ask in self.asks:
                    ask.agreement.destroyed.add(row["instance_id"])

    async def _power(self) -> None:
        rows = self.audit.rows("SELECT provider, instance_id FROM leases WHERE ready_at IS NOT NULL ORDER BY id")
        if rows:
            row, machines = self.dice.choice(rows), self.world.engine.machines
            act = self.dice.choice((machines.stop, machines.stop, machines.start))
            await self._say_so(act(Caller(project="p1"), row["provider"], row["instance_id"]))

    async def _extend(self) -> None:
        if (found := self._known()) is None:
            return
        ask, reservation = found
        more = self.dice.choice((5.0, 120.0, 600.0))
        until = self.world.books_clock.now() + timedelta(seconds=more)
        agreement, ends = ask.agreement, self.clock.monotonic() + more
        before = agreement.ends_after, agreement.ends_before
        agreement.ends_after = min(ends, before[0] or ends)  # it may have been changed although the answer was lost
        agreement.ends_before = max(ends + 1, before[1]) if before[1] is not None else None
        extended = await self._say_so(self.world.engine.reservations.extend(Caller(project="p1"), reservation, until))
        if extended:
            agreement.ends_after, agreement.ends_before = ends, ends + 1
        elif not self.world.life.dead:
            agreement.ends_after, agreement.ends_before = before

    def _known(self) -> tuple[_Ask, str] | None:
        rows = self.audit.rows("SELECT id, labels FROM reservations ORDER BY created_at, id")
        if not rows:
            return None
        row = self.dice.choice(rows)
        asked = self.audit.ask_of(row)
        return None if asked is None else (self.asks[int(asked)], row["id"])

    async def _say_so(self, work: Any) -> bool:
        """A call of an operator. A refusal does not matter here, nor does a crash during the call."""
        try:
            await asyncio.create_task(work)
        except (Refusal, asyncio.CancelledError) as error:
            self.say("refused", repr(error))
            return False
        return True

    # -- what goes wrong

    def _arm(self) -> None:
        call, fault = self.dice.choice(self.weather.faults)
        seconds = self.dice.uniform(0, self.weather.latest) if fault == "late_effect" else self.dice.choice((1, 20, 60))
        times = self.dice.choice((1, 1, 2, 4))
        name, args = args_of(fault, seconds)
        self.world.arm(call, name, times=times, **args)
        self.say("fault", call, fault, times, seconds)

    async def _crash(self) -> None:
        """Crash the process now or a moment later, during some work."""
        if self.dice.random() < 0.3:
            self.world.life.end()
        else:
            self.world.life.die_after(self.dice.randint(1, 25))

    async def _alive_again(self) -> None:
        if self.world.life.dead:
            self.crashes += 1
            self.say("crashed")
            self.audit.crashed()
            await self.world.kill()
            await self.world.sleep(self.dice.choice((0.0, 0.0, 5.0, 90.0)))
            await self._live()

    async def _live(self) -> None:
        """Start the process again, also after crashes during its start."""
        self.audit.early_ends &= not self.ahead  # a start can't distinguish a wrong date from elapsed time
        again = self.dice.random() < self.weather.crash_rate
        while True:
            try:
                die_after = self.dice.randint(1, 8) if again else None
                again = False
                return await asyncio.create_task(self.world.start(die_after=die_after))
            except asyncio.CancelledError:
                if not self.world.life.dead:
                    raise

    async def _trouble(self) -> None:
        """Make something happen to a rented machine."""
        market = self.world.sandbox.market
        mine = [one for number, one in sorted(market.instances.items()) if number not in self.audit.by_hand]
        if not mine:
            return
        instance = self.dice.choice(mine)
        what = self.dice.choice(("dies", "offline", "outbid", "taken"))
        self.say("trouble", what, instance.id)
        if what == "dies":
            market.container_dies(instance, "container exited with code 137")
        elif what == "offline":
            market.set_online(market.machines[instance.machine_id], online=False)
        elif what == "outbid" and instance.phase is Phase.RUNNING:
            market.outbid(instance)
        elif what == "taken":
            market.destroy(instance)

    async def _jump(self) -> None:
        self.jumps += 1
        hours = self.dice.choice((-24, 24))
        self.ahead |= hours > 0
        self.say("jump", hours)
        self.clock.jump(hours / 24 * _DAY)

    async def _stall(self) -> None:
        """Stall the process. There is no further stall until every delayed request has long arrived."""
        if self.clock.monotonic() - self._stalled_at < _BETWEEN_STALLS:
            return
        seconds = self.dice.choice((5.0, 30.0, LONGEST_STALL))
        self.stalls += 1
        self.say("stall", seconds)
        self.clock.stall(seconds)
        self._stalled_at = self.clock.monotonic()

    async def _books(self) -> None:
        self.world.life.books_fail = not self.world.life.books_fail
        self.say("books fail", self.world.life.books_fail)

    def _foreign(self) -> None:
        market = self.world.sandbox.market
        label = self.world.engine.signer.label("aaaaaaaa", 1)
        for text in ("mine", label[:-6] + "aaaaaa", f"gpx-zzzzzz-{label.split('-', 2)[2]}"):
            free = [number for number, chunk in market.chunks.items() if chunk.rentable]
            if free:
                made = market.rent(self.world.accounts[0], self.dice.choice(free), Launch(image="x/y", label=text))
                self.audit.by_hand.add(made.id)

    # -- the end

    async def _calm(self) -> float:
        """Stop the faults. Returns the time on the market's clock."""
        self.world.control("DELETE", "faults")
        self.world.life.books_fail = False
        self.world.life.spare()
        for machine in self.world.sandbox.market.machines.values():
            if not machine.online:
                self.world.sandbox.market.set_online(machine, online=True)
        self.say("calm")
        await self._alive_again()
        return float(self.world.sandbox.market.now)

    async def _rest(self) -> None:
        """Wait until everything is at rest; it must not take long, and it must last."""
        began = self.clock.monotonic()
        patience = QUIET + (self.weather.latest if self.weather.beyond else 0.0)
        await self._foreigners_were_left_alone()
        rests = 0
        while rests < 2:
            if self.clock.monotonic() - began > patience:
                raise Violation("leak", f"after {patience:.0f} s of quiet: {self.audit.unfinished() or 'a call hangs'}")
            await self.world.sleep(_STEP)
            await self._alive_again()
            self.audit.safety()
            at_rest = all(call.done() for ask in self.asks for call in ask.calls) and not self.audit.unfinished()
            rests = rests + 1 if at_rest else 0

    async def _foreigners_were_left_alone(self) -> None:
        """Keep foreign machines for longer than an orphan lives, then end them.

        Their cost changes the account's credit, which would hide whether one of our machines is billed.
        """
        if not self.audit.by_hand:
            return
        market = self.world.sandbox.market
        await self.world.sleep(max(0.0, _FOREIGN_AGE - self.clock.monotonic()))
        if missing := self.audit.by_hand - set(market.instances):
            raise Violation("broken", f"foreign machines {missing} were destroyed")
        for number in self.audit.by_hand:
            market.destroy(market.instances[number])

    async def _repeat_everything(self) -> None:
        """Repeat every request: the same request_id gets the same reservation, and nothing new is rented."""
        for ask in self.asks:
            name = ask.wanted["request_id"]
            if not name or not self.audit.rows("SELECT id FROM reservations WHERE request_id = ?", name):
                continue
            before = self.world.calls("create")
            try:
                await self.world.reserve(**ask.wanted)
            except Refusal as refusal:
                self.audit.log.append((ask.number, str(refusal.reason)))
            if self.world.calls("create") != before:
                raise Violation("twin", f"request_id {name} was repeated and rented anew")

    def _report(self, lifetimes: tuple[float, ...]) -> Report:
        digest = hashlib.blake2b(repr(self.audit.digest()).encode(), digest_size=12).hexdigest()
        return Report(
            seed=self.weather.seed,
            beyond=self.weather.beyond,
            creates=self.world.calls("create"),
            machines=len(self.world.sandbox.market.ended) + len(self.world.sandbox.market.instances),
            unknowns=self.audit.count_events("reply_lost"),
            crashes=self.crashes,
            jumps=self.jumps,
            stalls=self.stalls,
            faults=self.hits,
            surplus=lifetimes,
            seconds=self.clock.monotonic(),
            digest=digest,
        )

    # -- within

    def say(self, *words: object) -> None:
        if self.tell:
            print(f"{self.clock.monotonic():9.2f}", *words, flush=True)  # noqa: T201

    def _delay(self) -> float:
        return self.dice.uniform(0.0, self.weather.delay) if self.weather.delay else 0.0
