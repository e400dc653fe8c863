"""Every read ends, whatever the answers are. Large answers are not decoded on the loop."""

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest

from gpuproxy.adapters.system import Threads
from gpuproxy.model.errors import ProviderUnavailable
from gpuproxy.model.leases import InstanceId
from gpuproxy.ports import HttpRequest, HttpResponse
from gpuproxy.providers.vast import adapter as adapter_module
from gpuproxy.providers.vast.adapter import VastAi
from tests.providers.wires import UNLIMITED, Script, found, on_script, page, row, says, vast, wire
from tests.virtual_time import VirtualClock, run_virtual

T = TypeVar("T")
DAY = datetime(2026, 6, 12, tzinfo=UTC)


class Endless:
    """Endless pages, each with a new row and a new token, and each after a delay in seconds."""

    def __init__(self, clock: VirtualClock, answer: Callable[[int], HttpResponse], seconds: float = 0.0) -> None:
        self.requests: list[HttpRequest] = []
        self._clock = clock
        self._answer = answer
        self._seconds = seconds

    async def send(self, request: HttpRequest) -> HttpResponse:
        self.requests.append(request)
        await self._clock.sleep(self._seconds)
        return self._answer(len(self.requests))


def asked_in_vain(
    call: Callable[[VastAi], Any], answer: Callable[[int], HttpResponse], *, seconds: float = 0.0, **more: Any
) -> tuple[list[HttpRequest], float]:
    """The requests of a call that ends with ProviderUnavailable, and the seconds that it takes."""

    async def use(clock: VirtualClock) -> tuple[list[HttpRequest], float]:
        http = Endless(clock, answer, seconds)
        with pytest.raises(ProviderUnavailable):
            await call(vast(http, clock, **more))
        return http.requests, clock.monotonic()

    return run_virtual(use)


def instances(number: int) -> HttpResponse:
    return page(wire(number), token=f"t{number}", total=number + 1)


def charges(number: int) -> HttpResponse:
    charge = {"source": f"instance-{number}", "amount": 1.0}
    return says({"success": True, "results": [charge], "next_token": f"t{number}"})


CALLS: dict[str, tuple[Callable[[VastAi], Any], Callable[[int], HttpResponse]]] = {
    "list": (lambda adapter: adapter.list(), instances),
    "list of unreadable rows": (
        lambda adapter: adapter.list(),
        lambda number: page(None, token=f"t{number}", total=number),
    ),
    "charges": (lambda adapter: adapter.charges(DAY, DAY), charges),
}


@pytest.mark.parametrize("call", CALLS)
def test_endless_pages_are_an_error_after_200(call: str) -> None:
    requests, _ = asked_in_vain(*CALLS[call])
    assert len(requests) == 200


@pytest.mark.parametrize(("call", "most"), [("list", 60.0), ("charges", 300.0)])
def test_slow_pages_are_an_error_after_the_time_limit(call: str, most: float) -> None:
    requests, took = asked_in_vain(*CALLS[call], seconds=7.0)
    assert took <= most + 7.0
    assert all(request.timeout <= most - 7.0 * number for number, request in enumerate(requests))
    assert requests[-1].timeout < 30.0
    assert requests[0].timeout == 30.0


def test_with_a_fast_clock_a_request_has_its_timeout_in_real_time() -> None:
    async def use(clock: VirtualClock) -> float:
        clock.scale = 1000.0
        script = Script(page())
        await vast(script, clock).list()
        return script.requests[0].timeout

    assert run_virtual(use) == 30.0


def test_a_listing_ends_whatever_total_is_claimed() -> None:
    def boast(number: int) -> HttpResponse:
        return page(wire(number), token=f"t{number}", total=10**12)

    requests, took = asked_in_vain(CALLS["list"][0], boast, intervals={})
    assert len(requests) == 200
    assert took < 300.0


@pytest.mark.parametrize("call", CALLS)
def test_an_empty_token_is_on_the_last_page(call: str) -> None:
    use, answer = CALLS[call]
    first, last = (json.loads(answer(number).body) for number in (1, 2))
    last |= {"next_token": ""} | ({"total_instances": 2} if "instances" in last else {})
    _, script = on_script(use, says(first), says(last))
    assert len(script.requests) == 2


def test_an_empty_token_does_not_end_a_listing_that_lacks_rows() -> None:
    with pytest.raises(ProviderUnavailable, match="claims 2 instances"):
        on_script(lambda adapter: adapter.list(), page(wire(1), token="", total=2))


def test_an_absurd_total_is_an_error_of_the_marketplace() -> None:
    with pytest.raises(ProviderUnavailable):
        on_script(lambda adapter: adapter.list(), page(wire(1), token="t", total=10**400), page(total=10**400))


def test_a_large_account_has_time_for_the_intervals_between_pages() -> None:
    def part(number: int) -> HttpResponse:
        rows = [wire(number * 25 + at) for at in range(25)]
        return page(*rows, token=None if number == 150 else f"t{number}", total=150 * 25)

    async def use(clock: VirtualClock) -> int:
        listing = await vast(Endless(clock, part, 0.2), clock, intervals={}).list()
        return len(listing.instances)

    assert run_virtual(use) == 150 * 25


def test_a_search_with_endless_pages_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_module, "_MOST_STRETCHES", 20)

    def dearer(number: int) -> HttpResponse:
        return says({"offers": [row(number * 64 + at, dph_total=number + at / 100) for at in range(64)]})

    requests, _ = asked_in_vain(found, dearer)
    assert len(requests) == 20


# -- decoding


class Counted:
    """Workers without threads that count their calls."""

    def __init__(self) -> None:
        self.works: list[str] = []

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        self.works.append(work.__name__)
        return work(*args)


SMALL, LARGE = 2, 2_000
ANSWERS: dict[str, tuple[Callable[[VastAi], Any], Callable[[int], HttpResponse], str]] = {
    "list": (
        lambda adapter: adapter.list(),
        lambda rows: page(*(wire(number) for number in range(1, rows + 1))),
        "read_listing",
    ),
    "search": (found, lambda rows: says({"offers": [row(number) for number in range(rows)]}), "read_search"),
    "charges": (
        lambda adapter: adapter.charges(DAY, DAY),
        lambda rows: says({
            "success": True,
            "results": [{"source": f"instance-{number}", "amount": 1.0, "x": "x" * 100} for number in range(rows)],
            "next_token": None,
        }),
        "read_charges",
    ),
    "get": (
        lambda adapter: adapter.get(InstanceId("27182818")),
        lambda rows: says({"instances": wire(onstart="x" * 200 * rows)}),
        "read_one",
    ),
    "spend": (
        lambda adapter: adapter.spend(),
        lambda rows: says({"credit": 1.0, "ssh_key": "x" * 200 * rows}),
        "read_spend",
    ),
}  # fmt: skip


@pytest.mark.parametrize("call", ANSWERS)
def test_a_large_answer_is_decoded_by_the_workers_and_a_small_one_on_the_loop(call: str) -> None:
    use, answer, reads = ANSWERS[call]
    for rows, works in ((SMALL, 0), (LARGE, 1)):
        workers = Counted()
        on_script(use, answer(rows), says({"offers": []}), workers=workers)
        assert workers.works.count(reads) == works


@pytest.mark.parametrize("odd", ["", "\\ud800"])
async def test_no_row_of_a_large_listing_is_read_on_the_loop(monkeypatch: pytest.MonkeyPatch, odd: str) -> None:
    threads: set[int] = set()
    discretion = VastAi._discretion

    def watched(adapter: VastAi) -> Any:
        discreet = discretion(adapter)

        def noting(label: str | None, text: str) -> str:
            threads.add(threading.get_ident())
            return discreet(label, text)

        return noting

    monkeypatch.setattr(VastAi, "_discretion", watched)
    body = json.dumps({"success": True, "instances": [wire(at) for at in range(1, LARGE + 1)], "next_token": None})
    script = Script(says(body.replace("A100", odd + "A100")))
    adapter = vast(script, VirtualClock(), workers=Threads(), intervals=UNLIMITED)
    listing = await adapter.list()
    assert len(listing.instances) == LARGE
    assert listing.unreadable == ()
    assert threads
    assert threading.get_ident() not in threads


def test_the_page_limit_of_a_listing_prevents_a_stall_of_the_loop() -> None:
    _, script = on_script(lambda adapter: adapter.list(), page())
    assert script.requests[0].max_bytes <= 16 * 1024 * 1024


def test_a_page_with_too_many_rows_is_an_error() -> None:
    body = b'{"success":true,"next_token":null,"instances":[' + b"{}," * 100_000 + b"{}]}"
    with pytest.raises(ProviderUnavailable):
        on_script(lambda adapter: adapter.list(), says(body))


def test_a_new_machine_is_not_judged_before_verdict_seconds() -> None:
    async def use(clock: VirtualClock) -> Any:
        return vast(Script(page()), clock, intervals={}).capabilities

    told = run_virtual(use)
    assert (told.verdict_seconds, told.destroy_interval) == (120.0, 3.0)
