"""A sandbox without sockets: the market, its dialects, its faults, its clock; from a request to a plan.

Both shells call `receive` and carry out the plan it returns; whatever a request does to the market is done, and
kept, before that. What only waits (armed faults, late effects, how long strangers stay, who called when) is not kept.
"""

import heapq
from collections import Counter, defaultdict
from functools import partial
from itertools import count

from gpuproxy.ports import Clock, HttpRequest, HttpResponse
from gpuproxy.sandbox import control
from gpuproxy.sandbox.control import Controls
from gpuproxy.sandbox.dialects.vast.dialect import Vast
from gpuproxy.sandbox.dialects.vast.errors import not_found
from gpuproxy.sandbox.dialects.vast.limits import Limits
from gpuproxy.sandbox.market.clock import SandboxClock
from gpuproxy.sandbox.market.doors import Doors
from gpuproxy.sandbox.market.exchange import Market
from gpuproxy.sandbox.market.journal import Journal, read
from gpuproxy.sandbox.market.machines import Blueprint, invented
from gpuproxy.sandbox.market.recorded import recorded
from gpuproxy.sandbox.options import SandboxOptions
from gpuproxy.sandbox.protocol.faults import Faults
from gpuproxy.sandbox.protocol.trouble import Plan, is_about_the_answer, troubled
from gpuproxy.sandbox.protocol.wire import Call, Incoming, incoming

_OCCUPIED = 0.3  # of the machines, some GPUs


class Sandbox:
    """One market and everything around it; made by `build`."""

    def __init__(self, options: SandboxOptions, clock: SandboxClock, doors: Doors) -> None:
        """Raises OSError, ValueError (a bad market file), WrongMarket (a state of another market)."""
        self.options = options
        self.clock = clock
        self.doors = doors
        self.faults = Faults()
        past = read(options.state, _name(options), clock.now())
        clock.not_before(past.head.now)
        self.market = Market(
            _machines(options, past.head.built_at),
            options.accounts,
            now=clock.now(),
            seed=options.seed,
            boot_time=options.boot_time,
            credit=round(options.credit * 1_000_000),
            shyness=(options.shyness, options.shy_seconds),
            doors=doors,
        )
        self._calls: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._late: list[tuple[float, int, Call]] = []
        self._late_numbers = count()
        limits = Limits(enforced=options.rate_limits == "real", scale=clock.scale)
        self._vast = Vast(
            self.market,
            limits,
            search_page=options.search_page,
            list_lag=options.list_lag,
            sharing=options.volume_sharing == "allow",
            gone_as=options.gone_as,
        )
        self._controls = Controls(
            market=self.market, faults=self.faults, clock=clock, tick=self.tick, calls=lambda: self.calls
        )
        self._journal = Journal(options.state, self.market, _name(options), past)
        for provider, counted in (past.head.calls or {}).items():
            self._calls[provider].update(counted)
        self.market.changes.machines.clear()
        self.tick()

    @property
    def calls(self) -> dict[str, dict[str, int]]:
        """Requests that arrived, by provider and call, those hit by a fault included."""
        return {provider: dict(counted) for provider, counted in self._calls.items()}

    def receive(self, request: HttpRequest) -> Plan:
        """Execute a request, as far as it is executed, and say how its answer travels."""
        self.tick()
        taken = incoming(request)
        if taken.path.startswith(control.PREFIX):
            plan = Plan(response=control.respond(self._controls, taken))
        else:
            plan = self._plan(taken)
        self._journal.keep(self.calls)
        return plan

    def tick(self) -> None:
        """Let everything happen that is due by now."""
        now = self.clock.now()
        while self._late and self._late[0][0] <= now:
            when, _, call = heapq.heappop(self._late)
            self.market.advance(when)
            self._vast.respond(call, limited=False)
        self.market.advance(now)

    def heartbeat(self) -> None:
        """A tick that keeps what happened by itself, and the time."""
        self.tick()
        self._journal.keep(self.calls)
        self._journal.tick(self.calls)

    def close(self) -> None:
        """Keep everything for the last time."""
        self.tick()
        self._journal.close(self.calls)

    def _plan(self, request: Incoming) -> Plan:
        call = self._vast.recognise(request)
        if call is None:
            return Plan(response=not_found(request.path))
        self._calls[call.provider][call.name] += 1
        delay = self.options.create_latency if call.name == "create" else 0.0
        fault = self.faults.take(call.provider, request.key, call.name)
        if fault is None and self._vast.names_nothing(call):
            fault = self.faults.take_gone(call.provider, request.key, call.name)
        if fault is None or not is_about_the_answer(fault):
            return Plan(response=self._vast.respond(call, fault), delay=delay)
        return troubled(fault, partial(self._run, call), partial(self._run_later, call))

    def _run(self, call: Call) -> HttpResponse:
        return self._vast.respond(call)

    def _run_later(self, call: Call, seconds: float) -> None:
        heapq.heappush(self._late, (self.market.now + seconds, next(self._late_numbers), call))


def build(options: SandboxOptions, clock: Clock, doors: Doors | None = None) -> Sandbox:
    """A sandbox on a clock of the caller's; its market's seconds are that clock's, whatever `options.time_scale`."""
    return Sandbox(options, SandboxClock(clock, start=options.start_time), doors or Doors())


def _machines(options: SandboxOptions, now: float) -> list[tuple[Blueprint, int]]:
    if options.market is not None:
        return recorded(options.market, options.seed, now)
    return [(blueprint, _held(options.seed, blueprint)) for blueprint in invented(options.seed, options.machines, now)]


def _held(seed: int, blueprint: Blueprint) -> int:
    """How many of a machine's first GPUs strangers hold from the beginning: whole smallest chunks."""
    draw = (seed * 2_654_435_761 + blueprint.id * 40_503) % 1000 / 1000
    if draw >= _OCCUPIED:
        return 0
    smallest = min(gpus for _, gpus in blueprint.tiles)
    return min(blueprint.gpus, smallest * max(1, round(blueprint.gpus / smallest * (draw + 0.2) / _OCCUPIED)))


def _name(options: SandboxOptions) -> str:
    if options.market is not None:
        return f"{options.market.name}, seed {options.seed}"
    return f"built-in, seed {options.seed}, {options.machines} machines"
