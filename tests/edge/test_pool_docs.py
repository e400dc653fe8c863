"""The calls in docs/warm-pool.md, in both languages, work as printed; the published ones are all there."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpuproxy.edge.http.routes import all_routes
from gpuproxy.model.demands import Caller
from gpuproxy.model.pools import PHASES, Degraded, PoolState, PoolView
from gpuproxy.warmpool.hints import HINTS
from tests.edge.engine import StubEngine, service_over
from tests.edge.http_face import Both, both_faces
from tests.edge.pools import StubPools
from tests.edge.test_pools import same_shape

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ("warm-pool.md", "warm-pool.pt-BR.md")


def text(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def examples(page: str) -> list[tuple[list[str], dict[str, Any] | None]]:
    """The words of each curl command, and the answer that is printed after it."""
    found: list[tuple[list[str], dict[str, Any] | None]] = []
    for kind, body in re.findall(r"```(bash|json)\n(.*?)```", text(page), re.DOTALL):
        if kind == "bash":
            lines = body.replace("\\\n", " ").strip().splitlines()
            found += [(shlex.split(line), None) for line in lines]
        else:
            found[-1] = (found[-1][0], json.loads(body))
    return found


class Pools(StubPools):
    """As on the page: an active pool, which is disabled once that was asked for."""

    async def disable(self, caller: Caller, machine_id: int) -> PoolView:
        view = await super().disable(caller, machine_id)
        return replace(view, pool=replace(view.pool, state=PoolState.DISABLED))


async def answered(both: Both, words: list[str]) -> Any:
    verb = words[words.index("-X") + 1] if "-X" in words else "GET"
    address = next(word for word in words if word.startswith("http://localhost:8080"))
    body = json.loads(words[words.index("-d") + 1]) if "-d" in words else None
    return await both.send(verb, address.removeprefix("http://localhost:8080"), body)


@pytest.mark.parametrize("page", PAGES)
async def test_every_command_works_and_every_answer_is_as_printed(page: str) -> None:
    pairs = examples(page)
    assert len(pairs) == 11
    async with both_faces(service_over(StubEngine(), Pools(), pool_max_price=2.5)) as both:
        for words, printed in pairs:
            answer = await answered(both, words)
            assert answer.status == 200, words
            if printed is not None:
                same_shape(printed, answer.json)


@pytest.mark.parametrize("page", PAGES)
async def test_texts_and_numbers_of_short_answers_are_exactly_as_printed(page: str) -> None:
    async with both_faces(service_over(StubEngine(), Pools(), pool_max_price=2.5)) as both:
        for words, printed in examples(page):
            if printed is not None and "last_health_check" not in printed and "status" not in printed:
                answer = (await answered(both, words)).json
                assert {name: answer[name] for name in printed if name != "hosts"} == {
                    name: value for name, value in printed.items() if name != "hosts"
                }


def test_both_pages_have_the_same_commands_and_answers() -> None:
    assert examples(PAGES[0]) == examples(PAGES[1])


@pytest.mark.parametrize("page", PAGES)
def test_every_call_state_reason_and_phase_is_on_the_page(page: str) -> None:
    paths = {f"{route.verb} {route.path}" for route in all_routes() if "warmpool" in route.path}
    assert [path for path in sorted(paths) if path not in text(page)] == []
    words = [*PoolState, *(reason for reason in Degraded if reason)]
    assert [word for word in words if f"`{word}`" not in text(page)] == []
    assert [phase for phase in PHASES if f"| {phase} |" not in text(page)] == []


def test_every_reason_has_a_hint() -> None:
    assert set(HINTS) == set(Degraded) - {Degraded.NONE}
