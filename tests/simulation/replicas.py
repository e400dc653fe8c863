"""One seed's story of two or three equal servers on one database, with everything that may happen to them.

Servers crash and are started again, are paused for up to two minutes and go on where they were, lose the database or
the answer to a commit, and have clocks that are wrong by minutes. Callers reach any server, repeat a request_id at
another one, and share a spending limit. All draws are from the seed, and all time is virtual.
"""

import asyncio
import hashlib
import random
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

from gpuproxy.app.wiring import Engine
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import Refusal
from gpuproxy.model.limits import SpendingLimit, window
from gpuproxy.model.money import micro
from gpuproxy.ports import HttpRequest
from gpuproxy.runtime.claims import CLAIM_SECONDS
from gpuproxy.store import limits, spend_limits
from gpuproxy.store.rows import micros
from tests.mortal import Life
from tests.simulation.audit import Agreement, Audit, Violation
from tests.simulation.logs import errors_logged
from tests.simulation.report import hits_of
from tests.simulation.resting import come_to_rest
from tests.virtual_time import VirtualClock, run_virtual
from tests.world import World

TAKEN_OVER_WITHIN = 20.0
"""Seconds after the death of a server until another one does its work."""
_QUIET = 1500.0
_LONGEST_PAUSE = 120.0
_SKEWS = (0.0, 0.0, 2.0, -60.0, 300.0, -300.0)
_FAULTS = (
    ("create", "reset_after"), ("create", "reset_before"), ("create", "hang_after"), ("create", "offer_gone"),
    ("create", "rate_limited"), ("create", "never_ready"), ("create", "shy_row"), ("create", "status_500_after"),
    ("destroy", "reset_after"), ("destroy", "destroy_ignored"), ("destroy", "status_500_before"),
    ("list", "status_500_before"), ("get", "status_500_before"), ("list", "empty_list"),
    ("search", "status_503_before"),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicas:
    """The result of one story."""

    seed: int
    servers: int
    creates: int
    joined: int
    """Calls that repeated a request_id, at any server."""
    watches: int
    """Watchers that went from server to server."""
    crashes: int
    pauses: int
    outages: int
    """How often a server lost the database."""
    lost: int
    """Commits whose answer was lost."""
    moves: int
    """How often the supervision of an account went to another server."""
    faults: int
    refused: int
    """Calls that a spending limit refused."""
    fullest: float
    """The largest part of the limit that was spent or held."""
    digest: str


@dataclass(slots=True)
class _Server:
    engine: Engine
    life: Life
    up: bool = True
    """False while it is paused or dead."""


def run(seed: int) -> Replicas:
    """Run the story of a seed. Raises Violation."""
    with errors_logged() as errors:
        try:
            return run_virtual(lambda clock: _Story(seed, clock).run(errors))
        except Violation as violation:
            violation.add_note(f"seed {seed}")
            raise


class _Story:
    def __init__(self, seed: int, clock: VirtualClock) -> None:
        self.seed, self.clock = seed, clock
        self.dice = dice = random.Random(f"replicas {seed}")
        self.world = World(
            clock, paced=dice.random() < 0.3, accounts=dice.choice((1, 2, 3)), seed=seed, machines=dice.choice((8, 16)),
            boot_time=(3.0, 15.0), create_latency=dice.choice((0.0, 3.0, 12.0)), list_lag=dice.choice((0.0, 0.0, 10.0)),
        )  # fmt: skip
        self.world.shared = True
        longest = dice.choice((0.0, 0.05, 0.5))
        self.world.delay = lambda: dice.uniform(0.0, longest) if longest else 0.0
        self.loss = dice.choice((0.0, 0.01, 0.05))
        self.amount = micro(Decimal(dice.choice(("0.3", "1", "1000"))))
        self.audit = Audit(self.world, beyond=False)
        self.hits = hits_of(self.world)
        self.calls: list[asyncio.Task[Any]] = []
        self.asked: list[dict[str, Any]] = []
        self.servers: list[_Server] = []
        self.owners: dict[str, str] = {}
        self.crashes = self.pauses = self.outages = self.lost = self.joined = self.refused = self.moves = 0
        self.fullest = 0.0
        self.watched: dict[str, list[int]] = {}
        """The tokens that the watcher of a reservation has seen."""
        self.watchers: list[asyncio.Task[None]] = []
        self.world.after_writes.append(self._after_write)

    async def run(self, errors: list[str]) -> Replicas:
        number = self.dice.choice((2, 2, 3))
        for _ in range(number):
            await self._start()
        await self.world.db.write(lambda tx: spend_limits.put(tx, self._limit()))
        for _ in range(self.dice.randint(6, 14)):
            await self._step()
        self.loss = 0.0
        await come_to_rest(self.audit, self.calls, within=_QUIET)
        self.audit.final()
        await self._repeat_everything()
        await self._judge_watches()
        for server in self.servers:
            await server.engine.stop()
        if errors:
            raise Violation("broken", f"the program logged errors: {errors[:3]}")
        digest = hashlib.blake2b(repr(self.audit.digest()).encode(), digest_size=12).hexdigest()
        return Replicas(
            seed=self.seed, servers=number, creates=self.world.calls("create"), joined=self.joined,
            watches=len(self.watched),
            crashes=self.crashes, pauses=self.pauses, outages=self.outages, lost=self.lost, moves=self.moves,
            faults=self.hits.total(), refused=self.refused, fullest=self.fullest, digest=digest,
        )  # fmt: skip

    # -- servers

    async def _start(self) -> None:
        self.world.skew = self.dice.choice(_SKEWS)
        await self.world.start()
        life = self.world.life
        life.loses_answers = self._loses_answer
        owner = self.world.engine.sharing._claims.owner
        life.before_send = lambda request: self._is_alone(request, owner)
        self.servers.append(_Server(self.world.engine, life))

    def _is_alone(self, request: HttpRequest, owner: str) -> None:
        """Check that only the supervisor of an account destroys, by the database's word at this very moment."""
        if request.method != "DELETE":
            return
        number = 1 + self.world.accounts.index(request.headers["Authorization"].removeprefix("Bearer "))
        row = self.audit.rows("SELECT owner, until FROM claims WHERE name = ?", f"account:vast.ai:vast-{number}")[0]
        if row["owner"] != owner or row["until"] <= micros(self.clock.now()):
            self.audit.break_with(Violation("fence", f"{owner} sends a destroy, but the claim is {row}"))

    def _loses_answer(self) -> bool:
        lost = self.loss > 0 and self.dice.random() < self.loss
        self.lost += lost
        return lost

    def _up(self) -> list[_Server]:
        return [each for each in self.servers if each.up and not each.life.dead]

    def _later(self, seconds: float, happen: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(seconds, happen)

    async def _crash(self) -> None:
        """One server dies in the middle of its work. Another one is started at once or later."""
        if len(up := self._up()) < 2:
            return
        victim = self.dice.choice(up)
        self.crashes += 1
        victim.up = False
        victim.life.end()
        await self._taken_over(victim)
        await self._start()

    async def _taken_over(self, victim: _Server) -> None:
        """Nobody waits for a dead server for longer than 20 s, if another one works undisturbed."""
        owner = victim.engine.sharing._claims.owner
        ends = self.clock.monotonic() + TAKEN_OVER_WITHIN
        calm = self.dice.random() < 0.5
        while self.clock.monotonic() < ends:
            if not calm:
                return
            await self.world.sleep(1.0)
        others = [each for each in self._up() if not each.life.books_gone]
        held = self.audit.rows("SELECT name FROM claims WHERE owner = ? AND name LIKE 'account:%'", owner)
        if held and others and not self.loss:
            raise Violation("broken", f"{held} still belong to a server that died {TAKEN_OVER_WITHIN:.0f} s ago")

    async def _pause(self) -> None:
        """One server stands still, and goes on later as if nothing had happened."""
        if len(up := self._up()) < 2:
            return
        victim = self.dice.choice(up)
        self.pauses += 1
        victim.up = False
        victim.life.pause()

        def resume() -> None:
            victim.life.resume()
            victim.up = True

        self._later(self.dice.uniform(1.0, self.dice.choice((10.0, 2 * CLAIM_SECONDS, _LONGEST_PAUSE))), resume)

    async def _outage(self) -> None:
        """The database can't be reached by one server, or not be written by any."""
        self.outages += 1
        seconds = self.dice.uniform(1.0, self.dice.choice((5.0, 40.0)))
        name, chosen = ("books_gone", [self.dice.choice(self._up())]) if self.dice.random() < 0.6 else (
            "books_fail", list(self.servers)
        )  # fmt: skip

        def turn(*, on: bool) -> None:
            for server in chosen:
                setattr(server.life, name, on)

        turn(on=True)
        self._later(seconds, lambda: turn(on=False))

    # -- what callers do

    async def _step(self) -> None:
        if self.dice.random() < 0.5:
            call, fault = self.dice.choice(_FAULTS)
            self.world.arm(call, fault, times=self.dice.choice((1, 2)), seconds=self.dice.choice((1, 20)))
        happen = self.dice.choices(
            (self._ask, self._again, self._release, self._leave, self._watch, self._crash, self._pause, self._outage),
            (6, 3, 2, 1, 2, 1.2, 2, 1),
        )[0]
        await happen()
        await self.world.sleep(self.dice.uniform(0.0, self.dice.choice((1.0, 15.0))))
        self.audit.safety()

    def _any(self) -> Engine | None:
        up = self._up()
        return self.dice.choice(up).engine if up else None

    async def _ask(self) -> None:
        number = str(len(self.audit.agreements))
        request_id = f"r{number}" if self.dice.random() < 0.6 else ""
        wanted: dict[str, Any] = {
            "count": self.dice.choice((1, 1, 2, 3)), "request_id": request_id, "verified_only": False,
            "wait": self.dice.random() < 0.8, "wait_for": self.dice.choice(("created", "ready")),
            "labels": (("ask", number),), "ready_timeout": timedelta(seconds=self.dice.choice((120, 600))),
        }  # fmt: skip
        lease = self.dice.choice((300.0, 900.0, 3600.0))
        wanted["lease"] = lease
        self.audit.agreements[number] = Agreement(
            keep=bool(request_id) or not wanted["wait"], findable=bool(request_id),
            ends_after=self.clock.monotonic() + lease,
        )  # fmt: skip
        if request_id:
            self.asked.append(wanted)
        for _ in range(1 if not request_id else self.dice.choice((1, 1, 3))):
            self._call(wanted)

    async def _again(self) -> None:
        """Repeat a request_id, at whichever server."""
        if self.asked:
            self.joined += 1
            self._call(self.dice.choice(self.asked))

    def _call(self, wanted: dict[str, Any]) -> None:
        if (engine := self._any()) is not None:
            self.calls.append(asyncio.create_task(self._reserve(engine, wanted)))

    async def _reserve(self, engine: Engine, wanted: dict[str, Any]) -> None:
        self.world.engine = engine
        try:
            await self.world.reserve(seconds=self.dice.choice((30.0, 120.0)), **wanted)
        except Refusal as refusal:
            self.refused += refusal.reason == "BUDGET_EXCEEDED"
            self.audit.log.append((wanted["labels"], refusal.reason))

    async def _release(self) -> None:
        rows = self.audit.rows("SELECT id FROM reservations ORDER BY created_at, id")
        if not rows or (engine := self._any()) is None:
            return
        chosen = self.dice.choice(rows)["id"]
        for agreement in self.audit.agreements.values():
            agreement.release_asked.add(chosen)
        try:
            await engine.reservations.release(Caller(project="p1"), chosen)
        except Refusal:
            return
        for agreement in self.audit.agreements.values():
            agreement.released.add(chosen)

    async def _leave(self) -> None:
        if waiting := [call for call in self.calls if not call.done()]:
            self.dice.choice(waiting).cancel()

    async def _watch(self) -> None:
        """Follow a reservation, a while at one server and then at another."""
        rows = self.audit.rows("SELECT id FROM reservations ORDER BY created_at DESC, id LIMIT 1")
        if rows and rows[0]["id"] not in self.watched:
            self.watched[rows[0]["id"]] = []
            self.watchers.append(asyncio.create_task(self._follow(rows[0]["id"])))

    async def _follow(self, reservation_id: str) -> None:
        seen = self.watched[reservation_id]
        while (engine := self._any()) is None or not await self._followed(engine, reservation_id, seen):
            await self.world.sleep(1.0)

    async def _followed(self, engine: Engine, reservation_id: str, seen: list[int]) -> bool:
        """Follow at one server. True once the reservation is over."""
        token = str(seen[-1]) if seen else ""
        watch = engine.reservations.watch(Caller(project="p1"), reservation_id, token)
        try:
            async with self.clock.timeout(self.dice.uniform(1.0, 60.0)), aclosing(watch) as changes:
                async for number, _ in changes:
                    seen.append(int(number))
        except (TimeoutError, Refusal):
            return False
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return False  # the server has died
        return True

    async def _judge_watches(self) -> None:
        """Each watcher has seen every change once and in order, whichever servers it was at.

        A watch ends when nothing of the reservation is left. A machine may reappear after that.
        """
        await self.world.sleep(120.0)
        ended = [watcher.done() for watcher in self.watchers]
        for watcher in self.watchers:
            watcher.cancel()
        await asyncio.gather(*self.watchers, return_exceptions=True)
        for over, (reservation_id, seen) in zip(ended, self.watched.items(), strict=True):
            rows = self.audit.rows("SELECT seq FROM events WHERE reservation_id = ? ORDER BY seq", reservation_id)
            there = [row["seq"] for row in rows if seen and row["seq"] >= seen[0]]
            if seen != (there[: len(seen)] if over else there):
                raise Violation("gap", f"a watcher of {reservation_id} saw {seen} of {there}")

    # -- what must hold at each commit

    def _limit(self) -> SpendingLimit:
        return SpendingLimit(scope="project", subject="p1", window=window("24h"), amount=self.amount, policy="no_new")

    def _after_write(self) -> None:
        usage = next(iter(self._usages()), None)
        if usage is not None:
            self.fullest = max(self.fullest, (usage.spent + usage.held) / usage.limit.amount)
            if usage.left < 0:
                self.audit.break_with(Violation("overshoot", f"{usage.spent} + {usage.held} of {usage.limit.amount}"))
        for row in self.audit.rows("SELECT name, owner FROM claims WHERE name LIKE 'account:%' AND owner <> ''"):
            before = self.owners.get(row["name"], "")
            self.moves += bool(before) and before != row["owner"]
            self.owners[row["name"]] = row["owner"]

    def _usages(self) -> list[Any]:
        from gpuproxy.store.sqlite.database import SqliteTx

        tx = SqliteTx(self.world.db._writer, self.world.db._now(), location=None)
        return limits.usages(tx, spend_limits.listed(tx))

    # -- the end

    async def _repeat_everything(self) -> None:
        """Repeat every request at another server: it gets the same reservation, and nothing new is rented."""
        for wanted in self.asked:
            if not self.audit.rows("SELECT id FROM reservations WHERE request_id = ?", wanted["request_id"]):
                continue
            before = self.world.calls("create")
            await self._reserve(self._any() or self.world.engine, wanted)
            if self.world.calls("create") != before:
                raise Violation("twin", f"request_id {wanted['request_id']} was repeated and rented anew")
