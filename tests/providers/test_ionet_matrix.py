"""The fault matrix of io.net: the real adapter against the sandbox, cell by cell, in virtual time.

What the table says must come of a call is compared with what the caller is told and with what the market itself did.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gpuproxy.model.errors import (
    AuthFailed,
    InsufficientFunds,
    NoCapacity,
    OutcomeUnknown,
    PriceMoved,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
)
from gpuproxy.model.leases import InstanceId
from gpuproxy.model.offers import Offer
from gpuproxy.ports import Inventory, ProviderSetup
from gpuproxy.providers.ionet.adapter import IoNet
from gpuproxy.sandbox.dialects.ionet.faults import CATALOGUE
from gpuproxy.sandbox.market.prepaid.bookings import ENDED
from gpuproxy.sandbox.options import SandboxOptions
from gpuproxy.sandbox.protocol.plan import LATE_SECONDS
from gpuproxy.sandbox.server.in_process import InProcessHttp
from gpuproxy.sandbox.world import Sandbox, build
from tests.providers.ionet_matrix import CALLS, Cell, cells
from tests.providers.ionet_wires import LABEL, SPEC, UNLIMITED, found
from tests.providers.wires import Inline
from tests.virtual_time import VirtualClock, run_virtual

KEY = "sandbox-key"
_SECOND = f"{LABEL}2"
_STATUS = re.compile(r"status_\d{3}_(before|after)")
_ERRORS: dict[str, type[ProviderError]] = {
    "silent": ProviderUnavailable,
    "limited": RateLimited,
    "auth": AuthFailed,
    "funds": InsufficientFunds,
    "full": NoCapacity,
    "moved": PriceMoved,
    "unknown": OutcomeUnknown,
}
_MATRIX = tuple(cells())


class Bench:
    """A market with one booked machine that is running, and what could be booked besides."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        options = SandboxOptions(rate_limits="off", machines=4, accounts=(KEY,))
        self.sandbox: Sandbox = build(options, clock)
        self.adapter = IoNet(
            ProviderSetup(
                account="main", key=KEY, base_url="http://sandbox", http=InProcessHttp(self.sandbox), clock=clock,
                workers=Inline(), intervals=UNLIMITED,
            )
        )  # fmt: skip
        self.rented = InstanceId("")
        self.offers: list[Offer] = []

    async def open(self) -> "Bench":
        receipt = await self.adapter.create((await found(self.adapter))[0], SPEC, LABEL)
        self.rented = receipt.instance_id
        await self.clock.sleep(300)
        self.offers = await found(self.adapter)
        return self

    async def make(self, call: str) -> Any:
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "search": lambda: found(self.adapter),
            "price": lambda: self.adapter.create(self.offers[1], SPEC, _SECOND),
            "create": lambda: self.adapter.create(self.offers[1], SPEC, _SECOND),
            "list": self.adapter.list,
            "vms": self.adapter.list,
            "get": lambda: self.adapter.get(self.rented),
            "destroy": lambda: self.adapter.destroy(self.rented),
            "extend": lambda: self.adapter.extend(self.rented, 1),
        }
        return await calls[call]()

    def done(self) -> tuple[bool, bool, int]:
        """Whether the second machine was booked, whether the first one ends, and the hours that were bought for it."""
        self.sandbox.tick()
        bookings = self.sandbox.prepaid.bookings
        first = bookings[self.rented]
        second = any(each.order.name == _SECOND for each in bookings.values())
        return second, first.stage in ENDED or first.stage == "terminating", first.hours


@pytest.mark.parametrize("cell", _MATRIX, ids=[f"{cell.call}-{cell.row}" for cell in _MATRIX])
def test_the_effect_of_a_fault_on_a_call_of_io_net_is_reported_as_in_the_table(cell: Cell) -> None:
    async def story(clock: VirtualClock) -> None:
        at = await Bench(clock).open()
        at.sandbox.faults.arm(cell.order)
        answer = error = None
        try:
            answer = await at.make(cell.call)
        except ProviderError as raised:
            error = raised
        if cell.fault != "gone_as":
            assert at.sandbox.faults.clear() == 0, "the fault has hit nothing"
        _told(cell, at, answer, error)
        await _done(cell, at)

    run_virtual(story)


def _told(cell: Cell, at: Bench, answer: Any, error: ProviderError | None) -> None:
    word = cell.outcome.rstrip("+>")
    assert type(error) is _ERRORS.get(word, type(None)), f"{error!r}"
    if word in ("made", "done", "ignored"):
        assert answer is False if cell.call == "destroy" else answer.instance_id not in ("", at.rented)
    elif isinstance(answer, Inventory):
        shown = {each.id for each in answer.instances}
        assert (at.rented in shown) is (word == "ok" or cell.row == "odd_row:undecodable")
        assert bool(answer.unreadable) is (word == "named")
    elif cell.call == "search" and error is None:
        usual = len(at.offers)
        assert {"ok": len(answer) == usual, "short": 0 < len(answer) < usual, "empty": not answer}[word]
    elif cell.call == "get" and error is None:
        assert answer.id == at.rented


async def _done(cell: Cell, at: Bench) -> None:
    """What the market did: at once, and in the end."""
    if cell.outcome == "unknown>":
        assert at.done() == (False, False, 1)
        await at.clock.sleep(LATE_SECONDS)
    executed = cell.outcome in ("made", "done", "unknown+", "unknown>")
    expected = (
        executed and cell.call in ("create", "price"),
        executed and cell.call == "destroy",
        2 if executed and cell.call == "extend" else 1,
    )
    assert at.done() == expected


@pytest.mark.parametrize("call", CALLS)
def test_without_a_fault_every_call_of_io_net_comes_to_what_it_is_for(call: str) -> None:
    outcomes = {"create": "made", "price": "made", "destroy": "done"}

    async def story(clock: VirtualClock) -> None:
        at = await Bench(clock).open()
        cell = Cell(row="", call=call, outcome=outcomes.get(call, "unknown+" if call == "extend" else "ok"))
        answer = await at.make(call)
        if call != "extend":
            _told(cell, at, answer, None)
        await _done(cell, at)

    run_virtual(story)


def test_every_fault_of_io_net_has_a_row_and_every_cell_that_can_be_hit_is_run() -> None:
    hit: dict[str, set[str]] = {}
    for cell in (*cells(), *cells(applicable=False)):
        hit.setdefault(_named(cell.fault), set())
    for cell in cells():
        hit[_named(cell.fault)].add(cell.call)
    can_hit = {fault: {call for call in CALLS if CATALOGUE.can_hit(fault, call)} for fault in CATALOGUE.faults}
    assert hit == can_hit
    assert len(_MATRIX) == len({(cell.row, cell.call) for cell in _MATRIX})


def _named(fault: str) -> str:
    found = _STATUS.fullmatch(fault)
    return f"status_{found[1]}" if found else fault
