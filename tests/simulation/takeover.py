"""Stories of two processes on one database: one is paused past its claims, another takes over, the first resumes.

A paused process stands still wherever it waits for the database or the marketplace: before a call is sent, or before
its answer is read. When it resumes, it must stop before its next effect. Only what had passed its check before the
pause may still be sent. The draws are independent of those of the other stories.
"""

import asyncio
import hashlib
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from gpuproxy.app.wiring import Engine
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import Refusal
from gpuproxy.ports import HttpRequest
from gpuproxy.runtime.claims import CLAIM_SECONDS
from gpuproxy.store.rows import micros
from tests.mortal import Life
from tests.simulation.audit import Agreement, Audit, Violation
from tests.simulation.logs import errors_logged
from tests.simulation.report import hits_of
from tests.simulation.resting import come_to_rest
from tests.virtual_time import VirtualClock, run_virtual
from tests.world import World

_LONGEST_PAUSE = 240.0
"""Seconds. With the other delays, a create that was held is not later than the marketplace promises."""
_QUIET = 1200.0
_FAULTS = (
    ("create", "reset_after"), ("create", "reset_before"), ("create", "hang_after"), ("create", "offer_gone"),
    ("create", "rate_limited"), ("create", "never_ready"), ("create", "shy_row"), ("destroy", "reset_after"),
    ("destroy", "destroy_ignored"), ("destroy", "status_500_before"), ("list", "status_500_before"),
    ("get", "status_500_before"), ("list", "empty_list"),
)  # fmt: skip
_EFFECTS = frozenset({"PUT", "POST", "DELETE"})
_SEARCH = "/bundles/"
"""A search is a POST too, but it changes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Takeover:
    """The result of one story."""

    seed: int
    pauses: int
    taken: int
    """Pauses after which another process had taken over."""
    held: int
    """Calls that had passed their check before such a pause, with it committed or not yet sent, and were sent after."""
    creates: int
    faults: int
    digest: str


def run(seed: int) -> Takeover:
    """Run the story of a seed. Raises Violation."""
    with errors_logged() as errors:
        return run_virtual(lambda clock: _Story(seed, clock).run(errors))


class _Story:
    def __init__(self, seed: int, clock: VirtualClock) -> None:
        self.seed = seed
        self.dice = dice = random.Random(f"takeover {seed}")
        self.clock = clock
        self.world = World(
            clock, paced=False, accounts=dice.choice((1, 1, 2)), seed=seed, machines=dice.choice((5, 8)),
            boot_time=(3.0, 15.0), create_latency=dice.choice((0.0, 3.0, 12.0)), list_lag=dice.choice((0.0, 0.0, 10.0)),
        )  # fmt: skip
        self.world.shared = True
        longest = dice.choice((0.0, 0.05, 1.5))
        self.world.delay = lambda: dice.uniform(0.0, longest) if longest else 0.0
        self.audit = Audit(self.world, beyond=False)
        self.hits = hits_of(self.world)
        self.calls: list[asyncio.Task[Any]] = []
        self.processes: list[tuple[Engine, Life]] = []
        self.pauses = self.taken = self.held = 0

    async def run(self, errors: list[str]) -> Takeover:
        await self._begin()
        for _ in range(self.dice.choice((1, 1, 2))):
            await self._some_steps()
            await self._pause_and_resume()
        await self._some_steps()
        await come_to_rest(self.audit, self.calls, within=_QUIET)
        self.audit.final()
        for engine, _ in self.processes:
            await engine.stop()
        if errors:
            raise Violation("broken", f"the program logged errors: {errors[:3]}")
        digest = hashlib.blake2b(repr(self.audit.digest()).encode(), digest_size=12).hexdigest()
        return Takeover(
            seed=self.seed, pauses=self.pauses, taken=self.taken, held=self.held, creates=self.world.calls("create"),
            faults=self.hits.total(), digest=digest,
        )  # fmt: skip

    async def _begin(self) -> None:
        """Start another process. Callers reach the one that was started last."""
        await self.world.start()
        self.processes.append((self.world.engine, self.world.life))

    async def _pause_and_resume(self) -> None:
        """Pause the process that was started last, in the middle of its work, and start another one."""
        engine, life = self.processes[-1]
        life.pause()
        if self.dice.random() < 0.7:
            _renews_too_late(engine)
        self.pauses += 1
        await self._begin()
        until = self.clock.monotonic() + self.dice.uniform(0.5 * CLAIM_SECONDS, _LONGEST_PAUSE)
        while self.clock.monotonic() < until:
            await self._step()
        owners = {row["owner"] for row in self.audit.rows("SELECT owner FROM claims WHERE name LIKE 'account:%'")}
        others = {claim.claim.owner for each in self.world.engine.watches if (claim := each.claim).claim is not None}
        held, sent = life.held, len(life.sent)
        over, resumed = owners == others, micros(self.clock.now())
        life.resume()
        await self._some_steps()
        begun = {row["label"] for row in self.audit.rows("SELECT label FROM leases WHERE created_at >= ?", resumed)}
        effects = [each for each in life.sent[sent:] if _is_effect(each) and not _carries(each, begun)]
        if not over:
            return
        self.taken += 1
        self.held += len(effects)
        if len(effects) > held:
            raise Violation(
                "broken", f"{len(effects)} effects after the claims were lost; at most {held} had been checked before"
            )

    # -- what callers do

    async def _some_steps(self) -> None:
        for _ in range(self.dice.randint(1, 4)):
            await self._step()

    async def _step(self) -> None:
        if self.dice.random() < 0.6:
            call, fault = self.dice.choice(_FAULTS)
            args = {"seconds": self.dice.choice((1, 20))}
            self.world.arm(call, fault, times=self.dice.choice((1, 2)), **args)
        await self.dice.choices((self._ask, self._release, self._leave), (4, 2, 1))[0]()
        await self.world.sleep(self.dice.uniform(0.0, self.dice.choice((1.0, 15.0))))
        self.audit.safety()

    async def _ask(self) -> None:
        number = str(len(self.audit.agreements))
        request_id = f"r{number}" if self.dice.random() < 0.6 else ""
        lease = self.dice.choice((None, None, 60.0, 300.0))
        wanted: dict[str, Any] = {
            "count": self.dice.choice((1, 1, 2, 3)), "request_id": request_id, "verified_only": False,
            "wait": self.dice.random() < 0.8, "wait_for": self.dice.choice(("created", "ready")),
            "labels": (("ask", number),), "ready_timeout": timedelta(seconds=self.dice.choice((120, 600))),
        }  # fmt: skip
        if lease is not None:
            wanted["lease"] = lease
        self.audit.agreements[number] = Agreement(
            keep=bool(request_id) or not wanted["wait"], findable=bool(request_id),
            ends_after=None if lease is None else self.clock.monotonic() + lease,
        )  # fmt: skip
        self.calls.append(asyncio.create_task(self._reserve(wanted)))

    async def _reserve(self, wanted: dict[str, Any]) -> None:
        try:
            await self.world.reserve(seconds=self.dice.choice((30.0, 120.0)), **wanted)
        except Refusal as refusal:
            self.audit.log.append((wanted["labels"], refusal.reason))

    async def _release(self) -> None:
        rows = self.audit.rows("SELECT id FROM reservations ORDER BY created_at, id")
        if not rows:
            return
        chosen = self.dice.choice(rows)["id"]
        for agreement in self.audit.agreements.values():
            agreement.release_asked.add(chosen)
        try:
            await self.world.engine.reservations.release(Caller(project="p1"), chosen)
        except Refusal:
            return
        for agreement in self.audit.agreements.values():
            agreement.released.add(chosen)

    async def _leave(self) -> None:
        if waiting := [call for call in self.calls if not call.done()]:
            self.dice.choice(waiting).cancel()

    # -- the end


def _is_effect(request: HttpRequest) -> bool:
    """True if the call changes something at the marketplace."""
    return request.method in _EFFECTS and not request.url.endswith(_SEARCH)


def _carries(request: HttpRequest, labels: Collection[str]) -> bool:
    """True for the create of one of these leases. A call may begin to rent after the pause: nobody else runs it."""
    body = (request.body or b"").decode()
    return any(label in body for label in labels)


def _renews_too_late(engine: Engine) -> None:
    """Once it resumes, everything else in the process comes before the renewal that would tell it of the loss."""

    async def later(*_: Callable[[], None]) -> None:
        """It does not come."""

    engine.sharing.step = later
    for call in engine.reserver._open.values():
        call.record.claim._kept = later
