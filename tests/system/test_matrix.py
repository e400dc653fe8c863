"""The fault matrix: the real adapter over the real transport against the sandbox's real sockets, cell by cell.

What the table (`matrix`) says must come of a call is compared with what the caller is told and with what the market
itself did. Then whole stories: with each fault of a create and of a destroy the books and the market agree afterwards.
"""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gpuproxy.adapters.system import ScaledClock
from gpuproxy.adapters.transport import AioHttp
from gpuproxy.model.errors import (
    AuthFailed,
    InsufficientFunds,
    NoCapacity,
    OfferGone,
    OutcomeUnknown,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
)
from gpuproxy.model.leases import InstanceId
from gpuproxy.model.offers import Offer
from gpuproxy.ports import Inventory
from gpuproxy.providers.vast.adapter import VastAi
from gpuproxy.sandbox.dialects.vast.faults import CATALOGUE
from gpuproxy.sandbox.market.instances import HOLDS_GPU, Instance, Phase
from gpuproxy.sandbox.options import SandboxOptions
from gpuproxy.sandbox.protocol.plan import LATE_SECONDS
from gpuproxy.sandbox.server.http_shell import serve
from gpuproxy.sandbox.world import Sandbox
from tests.providers.wires import LABEL, SPEC, found, vast
from tests.system.matrix import CALLS, Cell, cells, named

_KEY = "sandbox-key"
_SCALE = 100.0
_BRIEF = (0.3, 3.0, 20.0)
"""Real seconds of patience where the fault is about time: more of them where a request did not arrive in so few."""
_ERRORS: dict[str, type[ProviderError]] = {
    "silent": ProviderUnavailable,
    "limited": RateLimited,
    "auth": AuthFailed,
    "funds": InsufficientFunds,
    "gone": OfferGone,
    "unknown": OutcomeUnknown,
    "queued": NoCapacity,
}
_MATRIX = tuple(cells())
_SECOND = f"{LABEL}2"


@dataclass(frozen=True, slots=True)
class Bench:
    """A market on real sockets, one machine rented there, and what could be rented besides."""

    sandbox: Sandbox
    adapter: VastAi
    rented: InstanceId
    offers: list[Offer]

    async def make(self, call: str) -> Any:
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "search": lambda: found(self.adapter),
            "create": lambda: self.adapter.create(self.offers[0], SPEC, _SECOND),
            "list": self.adapter.list,
            "get": lambda: self.adapter.get(self.rented),
            "destroy": lambda: self.adapter.destroy(self.rented),
            "user": self.adapter.spend,
            "start": lambda: self.adapter.start(self.rented),
            "stop": lambda: self.adapter.stop(self.rented),
            "logs": lambda: self.adapter.logs(self.rented, 5),
            "charges": lambda: self.adapter.charges(self.now() - timedelta(days=1), self.now()),
        }
        return await calls[call]()

    def now(self) -> datetime:
        """The market's time."""
        return datetime.fromtimestamp(self.sandbox.market.now, UTC)

    @property
    def machine(self) -> Instance:
        """The rented one, as the market has it."""
        return self.sandbox.market.instances[int(self.rented)]

    def prepare(self, call: str) -> None:
        """Only what is stopped can be started."""
        if call == "start":
            self.sandbox.market.stop(self.machine)

    def requests(self, call: str) -> int:
        """How many such requests the market has seen."""
        return self.sandbox.calls["vast.ai"].get(call, 0)

    def held(self) -> set[str]:
        """The labels of everything at the market."""
        return {instance.label or "" for instance in self.sandbox.market.instances.values()}


@asynccontextmanager
async def bench(*, silent: bool = False, **setup: Any) -> AsyncIterator[Bench]:
    """`silent`: the adapter under test talks to a port where nothing listens."""
    running = await serve(SandboxOptions(port=0, machines=8, rate_limits="off", time_scale=_SCALE, accounts=(_KEY,)))
    http = AioHttp()
    try:
        patient = vast(http, ScaledClock(_SCALE), key=_KEY, base_url=running.url)
        receipt = await patient.create((await found(patient))[0], SPEC, LABEL)
        with _nowhere() as nowhere:
            url = nowhere if silent else running.url
            adapter = vast(http, ScaledClock(_SCALE), key=_KEY, base_url=url, **setup)
            yield Bench(running.sandbox, adapter, receipt.instance_id, await found(patient))
    finally:
        await http.close()
        await running.stop()


@contextmanager
def _nowhere() -> Iterator[str]:
    """An address where nothing listens, and where nobody else can begin to meanwhile."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{deaf.getsockname()[1]}"


@pytest.mark.parametrize("cell", _MATRIX, ids=[f"{cell.call}-{cell.row}" for cell in _MATRIX])
async def test_the_effect_of_a_fault_on_a_call_is_reported_as_in_the_table(cell: Cell) -> None:
    for seconds in _BRIEF if cell.slow else (0.0,):
        async with bench(timeouts=dict.fromkeys(("search", "create", "call"), seconds) if seconds else {}) as at:
            if await _hit(cell, at, again=0.0 < seconds < _BRIEF[-1]):
                return


async def _hit(cell: Cell, at: Bench, *, again: bool) -> bool:
    """Judge the call. False, with `again`: a request did not reach the market, because the machine is too busy."""
    at.prepare(cell.call)
    before = at.requests(cell.call)
    at.sandbox.faults.arm(cell.order())
    answer = error = None
    try:
        answer = await at.make(cell.call)
    except ProviderError as raised:
        error = raised
    if again and at.requests(cell.call) < before + cell.requests:
        return False
    assert at.requests(cell.call) == before + cell.requests, "one call is one request for each page"
    _told(cell, at, answer, error)
    _done(cell, at)
    return True


def _told(cell: Cell, at: Bench, answer: Any, error: ProviderError | None) -> None:
    word = cell.outcome.rstrip("+>")
    expected = _ERRORS.get(word)
    assert type(error) is (expected or type(None)), f"{error!r}"
    match word:
        case "made":
            assert answer.instance_id != at.rented
        case "empty":
            assert len(_rows(answer)) == 0
        case "short":
            assert 0 < len(answer) < len(at.offers)


def _rows(answer: Any) -> Any:
    return answer.instances if isinstance(answer, Inventory) else answer


def _done(cell: Cell, at: Bench) -> None:
    """What the market did: at once, and in the end."""
    held = at.held()
    if cell.outcome == "unknown>":
        assert held == {LABEL}
        at.sandbox.clock.advance(LATE_SECONDS)
        at.sandbox.tick()
        held = at.held()
    executed = cell.outcome in ("made", "done", "unknown+", "unknown>")
    expected = {LABEL}
    if executed and cell.call == "create":
        expected = {LABEL, _SECOND}
    elif executed and cell.call == "destroy":
        expected = set()
    assert held == expected
    if cell.call in ("start", "stop"):
        runs = executed is (cell.call == "start")
        assert at.machine.phase in (
            HOLDS_GPU if runs else {Phase.QUEUED if cell.outcome == "queued" else Phase.STOPPED}
        )


@pytest.mark.parametrize("call", CALLS)
async def test_without_a_fault_every_call_comes_to_what_it_is_for(call: str) -> None:
    async with bench() as at:
        at.prepare(call)
        answer = await at.make(call)
        outcomes = {"create": "made", "destroy": "done", "start": "done", "stop": "done"}
        _done(Cell(row="", call=call, outcome=outcomes.get(call, "ok")), at)
        if call == "charges":
            assert set(answer) == {at.rented}
        if call in ("search", "list"):
            assert len(_rows(answer)) == (len(at.offers) if call == "search" else 1)


@pytest.mark.parametrize("call", CALLS)
async def test_where_nothing_listens_surely_nothing_happened(call: str) -> None:
    async with bench(silent=True) as at:
        with pytest.raises(ProviderUnavailable):
            await at.make(call)
        assert at.held() == {LABEL}


def test_every_fault_has_a_row_and_every_cell_that_can_be_hit_is_run() -> None:
    hit: dict[str, set[str]] = {}
    for cell in (*cells(), *cells(applicable=False)):
        hit.setdefault(named(cell.row), set())
    for cell in cells():
        hit[named(cell.row)].add(cell.call)
    can_hit = {fault: {call for call in CALLS if CATALOGUE.can_hit(fault, call)} for fault in CATALOGUE.faults}
    assert hit == can_hit
    assert len(_MATRIX) == len({(cell.row, cell.call) for cell in _MATRIX})
