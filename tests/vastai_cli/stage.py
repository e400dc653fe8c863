"""One sandbox process, the command line that uses it, and how scenarios are run on them."""

import json
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.vastai_cli.expect import Control, Step, compared, filled
from tests.vastai_cli.program import Program

KEYS = tuple(f"key-{name}" for name in ("order", "lists", "bulk", "bid", "ssh", "volumes", "faults", "stranger"))
_OPTIONS = ["--port=0", "--machines=150", "--boot-time=3600", "--rate-limits=off", "--shy-rows=0", "--exit-with-parent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Market:
    """The sandbox's address, and its control API."""

    url: str

    def control(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/sandbox/v1/{path}", data=data, method=method)  # noqa: S310 - ours
        with urllib.request.urlopen(request, timeout=1200) as answer:  # noqa: S310 - ours
            return json.load(answer)

    def calls(self) -> dict[str, int]:
        """The number of requests of each kind so far."""
        counted: dict[str, int] = self.control("GET", "state")["calls"].get("vast.ai", {})
        return counted


@contextmanager
def market() -> Iterator[Market]:
    """A sandbox in its own process; it ends when its stdin closes, however the tests end."""
    command = [
        sys.executable,
        "-c",
        "from gpuproxy.cli.sandbox import sandbox; sandbox()",
        "--accounts",
        ",".join(KEYS),
    ]
    with subprocess.Popen([*command, *_OPTIONS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("sandbox listening on "), line
        yield Market(url=line.split()[-1])
        process.communicate()


def play(program: Program, market: Market, key: str, story: Sequence[Step | Control]) -> dict[str, str]:
    """Run the steps in order; fail at the first different output. Returns the stored values."""
    kept: dict[str, str] = {}
    for scene in story:
        if isinstance(scene, Control):
            market.control("POST", filled(scene.post, kept), scene.body)
        else:
            _step(program, market, key, scene, kept)
    return kept


def _step(program: Program, market: Market, key: str, step: Step, kept: dict[str, str]) -> None:
    for fault in step.faults:
        market.control("POST", "faults", {"provider": "vast.ai", **fault})
    before = market.calls() if step.calls else {}
    command = filled(step.run, kept)
    said = program.run(shlex.split(command), step.key or key)
    wrong = [
        f"{name} {differs}"
        for name, expected, actual in (("stdout", step.out, said.out), ("stderr", step.err, said.err))
        if (differs := compared(expected, actual, kept))
    ]
    if said.code != step.code:
        wrong.append(f"exit code: expected {step.code}, was {said.code}")
    if step.calls:
        after = market.calls()
        wrong += [
            f"{name}: expected {count} requests, were {after.get(name, 0) - before.get(name, 0)}"
            for name, count in step.calls.items()
            if after.get(name, 0) - before.get(name, 0) != count
        ]
    if step.faults:
        market.control("DELETE", "faults")
    assert not wrong, f"$ vastai {command}\n" + "\n".join([*wrong, f"(stderr: {said.err})"])
