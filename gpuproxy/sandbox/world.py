"""A sandbox without sockets: the market, its wire formats, its faults and its clock.

Both servers (sockets, in process) call `receive` and execute the plan that it returns. The changes of the market are
made and saved before that. Pending things (armed faults, late effects, rate limits, the times when other customers
leave) are not saved.
"""

import heapq
from collections import Counter, defaultdict
from functools import partial
from itertools import count

from gpuproxy.ports import Clock, HttpRequest
from gpuproxy.sandbox.control import routes
from gpuproxy.sandbox.control.on_demand import OnDemandControl
from gpuproxy.sandbox.control.prepaid import PrepaidControl
from gpuproxy.sandbox.control.routes import Controls
from gpuproxy.sandbox.dialects.registry import dialects_of
from gpuproxy.sandbox.market.addresses import lets_in
from gpuproxy.sandbox.market.clock import SandboxClock
from gpuproxy.sandbox.market.defects import Chances
from gpuproxy.sandbox.market.exchange import SimulatedMarket
from gpuproxy.sandbox.market.journal import Journal, read
from gpuproxy.sandbox.market.machines import Blueprint, invented
from gpuproxy.sandbox.market.odd_hosts import with_odd_hosts
from gpuproxy.sandbox.market.port_table import PortTable
from gpuproxy.sandbox.market.prepaid.exchange import PrepaidMarket
from gpuproxy.sandbox.market.recorded import recorded
from gpuproxy.sandbox.options import SandboxOptions
from gpuproxy.sandbox.protocol.dialect import Dialect
from gpuproxy.sandbox.protocol.faults import Faults
from gpuproxy.sandbox.protocol.plan import Plan, concerns_answer, plan_for
from gpuproxy.sandbox.protocol.wire import Call, Incoming, answer, incoming

_OCCUPIED = 0.3  # share of the machines on which other customers have some GPUs


class Sandbox:
    """The markets with their clock, faults and APIs. Use `build` to create it.

    `market` is the on-demand market and `prepaid` the one that is paid in advance. Each has the API of a marketplace.
    """

    def __init__(self, options: SandboxOptions, clock: SandboxClock, port_table: PortTable) -> None:
        """Raises OSError, ValueError (invalid market file) or WrongMarket (the saved state is of another market)."""
        self.options = options
        self.clock = clock
        self.port_table = port_table
        past = read(options.state, _name(options), clock.now())
        clock.not_before(past.head.now)
        self.market = SimulatedMarket(
            _machines(options, past.head.built_at),
            options.accounts,
            now=clock.now(),
            seed=options.seed,
            boot_time=options.boot_time,
            credit=round(options.credit * 1_000_000),
            chances=_chances(options),
            port_table=port_table,
            standby_binding=options.standby_binding,
        )
        self.prepaid = PrepaidMarket(
            options.accounts,
            now=clock.now(),
            seed=options.seed,
            boot_time=options.boot_time,
            credit=round(options.credit * 1_000_000),
            port_table=port_table,
        )
        self._calls: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._late: list[tuple[float, int, Call]] = []
        self._late_numbers = count()
        self._dialects = {each.provider: each for each in dialects_of(options, self.market, self.prepaid, clock.scale)}
        self.faults = Faults({name: each.catalogue for name, each in self._dialects.items()})
        self._controls = self._controls_of()
        self._journal = Journal(options.state, self.market, self.prepaid, _name(options), past)
        for provider, counted in (past.head.calls or {}).items():
            self._calls[provider].update(counted)
        self.market.changes.machines.clear()
        self.prepaid.changes.hosts.clear()
        self.tick()

    @property
    def calls(self) -> dict[str, dict[str, int]]:
        """The number of received requests by provider and call, including those that a fault hit."""
        return {provider: dict(counted) for provider, counted in self._calls.items()}

    def receive(self, request: HttpRequest) -> Plan:
        """Execute a request, unless a fault prevents it, and return the plan of its answer."""
        self.tick()
        taken = incoming(request)
        if taken.path.startswith(routes.PREFIX):
            plan = Plan(response=routes.respond(self._controls, taken))
        else:
            plan = self._plan(taken)
        self._journal.keep(self.calls)
        return plan

    def tick(self) -> None:
        """Run all events that are due."""
        now = self.clock.now()
        while self._late and self._late[0][0] <= now:
            when, _, call = heapq.heappop(self._late)
            self._advance(when)
            self._dialects[call.provider].respond(call, limited=False)
        self._advance(now)

    def lets_in(self, port: int, public_key: str) -> bool:
        """True if the owner of a public key can log in at a loopback port: SSH answers there and the key is known.

        `public_key` is a line like "ssh-ed25519 AAAA... comment"; the comment doesn't count.
        """
        self.tick()
        if self.port_table.open.get(port) != "ssh":
            return False
        return lets_in(self.market.instances.values(), port, public_key) or self.prepaid.lets_in(port, public_key)

    def heartbeat(self) -> None:
        """Tick, and save what has changed by itself and the time."""
        self.tick()
        self._journal.keep(self.calls)
        self._journal.tick(self.calls)

    def close(self) -> None:
        """Save everything and close the state file."""
        self.tick()
        self._journal.close(self.calls)

    def _advance(self, now: float) -> None:
        self.market.advance(now)
        self.prepaid.advance(now)

    def _plan(self, request: Incoming) -> Plan:
        for dialect in self._dialects.values():
            if (call := dialect.recognise(request)) is not None:
                return self._planned(dialect, call)
        return Plan(
            response=answer({"success": False, "error": "not_found", "msg": f"{request.path} is unknown."}, 404)
        )

    def _planned(self, dialect: Dialect, call: Call) -> Plan:
        self._calls[call.provider][call.name] += 1
        delay = self.options.create_latency if call.name == "create" else 0.0
        key = call.request.key
        fault = self.faults.take(call.provider, key, call.name)
        if fault is None and dialect.names_nothing(call):
            fault = self.faults.take_gone(call.provider, key, call.name)
        if fault is None or not concerns_answer(fault):
            return Plan(response=dialect.respond(call, fault), delay=delay)
        return plan_for(fault, partial(dialect.respond, call), partial(self._run_later, call), dialect.failure)

    def _run_later(self, call: Call, seconds: float) -> None:
        heapq.heappush(self._late, (self.market.now + seconds, next(self._late_numbers), call))

    def _controls_of(self) -> Controls:
        named = {each.kind: each.provider for each in self._dialects.values()}
        return Controls(
            market=self.market,
            on_demand=OnDemandControl(self.market, named["on_demand"]),
            prepaid_market=self.prepaid,
            prepaid=PrepaidControl(self.prepaid, named["prepaid"]),
            faults=self.faults,
            clock=self.clock,
            tick=self.tick,
            calls=lambda: self.calls,
        )


def build(options: SandboxOptions, clock: Clock, port_table: PortTable | None = None) -> Sandbox:
    """A sandbox on the caller's clock. The market's seconds are those of the clock; `options.time_scale` is ignored."""
    return Sandbox(options, SandboxClock(clock, start=options.start_time), port_table or PortTable())


def _chances(options: SandboxOptions) -> Chances:
    return Chances(
        misreport_share=options.misreport_share,
        misreport_seconds=options.misreport_seconds,
        one_address_share=options.one_address_share,
        portless_share=options.portless_share,
        keys_refreshed_after=options.keys_refreshed_after,
    )


def _machines(options: SandboxOptions, now: float) -> list[tuple[Blueprint, int]]:
    return with_odd_hosts(_usual_machines(options, now), options.odd_hosts, options.seed, now)


def _usual_machines(options: SandboxOptions, now: float) -> list[tuple[Blueprint, int]]:
    if options.market is not None:
        return recorded(options.market, options.seed, now)
    return [(blueprint, _held(options.seed, blueprint)) for blueprint in invented(options.seed, options.machines, now)]


def _held(seed: int, blueprint: Blueprint) -> int:
    """The number of a machine's first GPUs that other customers have from the start, in whole smallest chunks."""
    draw = (seed * 2_654_435_761 + blueprint.id * 40_503) % 1000 / 1000
    if draw >= _OCCUPIED:
        return 0
    smallest = min(gpus for _, gpus in blueprint.tiles)
    return min(blueprint.gpus, smallest * max(1, round(blueprint.gpus / smallest * (draw + 0.2) / _OCCUPIED)))


def _name(options: SandboxOptions) -> str:
    odd = f", {options.odd_hosts:g} odd" if options.odd_hosts else ""
    if options.market is not None:
        return f"{options.market.name}, seed {options.seed}{odd}"
    return f"built-in, seed {options.seed}, {options.machines} machines{odd}"
