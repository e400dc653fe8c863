"""A receiver of webhooks in virtual time: the example of the documentation behind the Http port, with faults."""

import asyncio
import errno
import importlib.util
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar

from gpuproxy.app.webhooks import Outgoing, build_webhooks
from gpuproxy.model.webhooks import Delivery, Target
from gpuproxy.ports import Clock, HttpNotSent, HttpReplyLost, HttpRequest, HttpResponse
from gpuproxy.runtime.background import Background
from gpuproxy.runtime.claims import Claims
from gpuproxy.store import outbox
from tests import databases
from tests.mortal import Life, MortalDatabase
from tests.virtual_time import VirtualClock, run_virtual
from tests.world import CALM, World

SECRET = "a secret of sixteen"
EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "webhooks" / "receiver.py"
Fault = int | Literal["hangs", "refuses", "takes and hangs"]
"""A status, or: no answer in time; no connection; the event is taken and the answer never comes."""
T = TypeVar("T")


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("webhook_receiver", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Posted:
    """One request that arrived."""

    at: float
    url: str
    event: dict[str, Any]
    status: Fault


class Receiver:
    """The Http port of the senders. `faults` are used up in order; `always` follows them."""

    def __init__(self, clock: Clock, secret: str = SECRET) -> None:
        self.posted: list[Posted] = []
        self.handled: list[dict[str, Any]] = []
        self.faults: list[Fault] = []
        self.always: Fault | None = None
        self._clock = clock
        self._secret = secret
        self._example = example()
        self._example.handle = self.handled.append  # type: ignore[attr-defined]
        self._seen = self._example.Seen()

    def types(self, group: str = "") -> list[str]:
        """The events that were handled, in order."""
        return [event["type"] for event in self.handled if event["type"].startswith(group)]

    def one(self, kind: str) -> dict[str, Any]:
        """The data of the only event of its kind."""
        found = [event for event in self.handled if event["type"] == kind]
        assert len(found) == 1, self.types()
        data: dict[str, Any] = found[0]["data"]
        return data

    async def send(self, request: HttpRequest) -> HttpResponse:
        fault = self.faults.pop(0) if self.faults else self.always
        status = fault if fault is not None and fault != "takes and hangs" else self._receive(request)
        self.posted.append(
            Posted(self._clock.monotonic(), request.url, json.loads(request.body or b""), fault or status)
        )
        if fault == "refuses":
            refused = ConnectionRefusedError(errno.ECONNREFUSED, f"Connect call failed ({request.url})")
            raise HttpNotSent(f"ClientConnectorError: Cannot connect to {request.url}") from refused
        if isinstance(fault, str):
            await asyncio.sleep(request.timeout)
            raise HttpReplyLost(f"no complete answer within {request.timeout:g} s")
        assert isinstance(status, int)
        headers = {"location": "http://elsewhere.example/"} if 300 <= status < 400 else {}
        return HttpResponse(status=status, headers=headers, body=b"")

    def _receive(self, request: HttpRequest) -> int:
        header = request.headers["GPUProxy-Signature"]
        now = self._clock.now().timestamp()
        status: int = self._example.receive(self._secret, header, request.body, self._seen, now)
        return status


def target(**changes: Any) -> Target:
    return replace(Target(name="ops", url="https://ops.example/hook/1234567890", secrets=(SECRET,)), **changes)


def told(
    story: Callable[[World, Receiver], Awaitable[T]],
    *,
    targets: tuple[Target, ...] = (),
    accounts: int = 1,
    settings: dict[str, Any] | None = None,
    shared: bool = False,
    **options: Any,
) -> T:
    """Run a story in a fresh world whose events are posted to a receiver."""

    async def run(clock: VirtualClock) -> T:
        chosen = {**CALM, **(settings or {})}
        world = World(clock, paced=False, accounts=accounts, seed=7, settings=chosen, **{"machines": 20, **options})
        receiver = Receiver(clock)
        world.webhooks, world.webhook_http = targets or (target(),), receiver
        world.shared = shared
        await world.start()
        try:
            return await story(world, receiver)
        finally:
            await world.engine.stop()

    return run_virtual(run)


@dataclass
class Bench:
    """A database and its senders, without an engine: days of it take no time."""

    clock: VirtualClock
    db: databases.AnyDatabase

    async def sleep(self, seconds: float) -> None:
        await self.clock.sleep(seconds)


def alone(story: Callable[[Bench, Receiver], Awaitable[T]], *targets: Target) -> T:
    """Run a story with nothing but a database, senders and a receiver."""

    async def run(clock: VirtualClock) -> T:
        db, receiver = databases.opened(clock.now), Receiver(clock)
        outgoing = Outgoing(targets or (target(),), receiver)
        own = MortalDatabase(db, Life(), lambda: 0.0, lambda: None)  # one server has it, whichever it is
        webhooks = build_webhooks(outgoing, Claims(own, clock, "one"), own, clock)
        await db.write(webhooks.start)
        loops = Background("loop")
        for loop in webhooks.loops():
            loops.start(loop)
        try:
            return await story(Bench(clock, db), receiver)
        finally:
            await loops.close()

    return run_virtual(run)


async def deliveries(world: World | Bench, name: str = "") -> list[Delivery]:
    """The log, oldest first."""
    return list(reversed(await world.db.read(lambda tx: outbox.listed(tx, name, 1000))))
