"""What must be true of every request that reaches the market, after every step, and once the faults have stopped.

The audit reads the rows and the market directly. It does not use the program's own functions, because a mistake in them
would hide errors.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpuproxy.ports import HttpRequest, HttpResponse
from gpuproxy.sandbox.market.instances import Instance, Phase
from tests import databases
from tests.simulation.verdicts import Verdicts
from tests.world import World, plain_label

_TERMINAL = ("released", "failed", "lost")
_RENTED = ("starting", "active", "parked")
_MACHINES = "SELECT * FROM leases WHERE state IN ('starting', 'active', 'parked')"
_LIVE = "SELECT id FROM leases WHERE state NOT IN ('released', 'failed', 'lost') AND reservation_id = ?"
_KEEPABLE = ("requested", "unknown", *_RENTED)
_OPEN = ("requested", "unknown", "releasing")
_CREATE = re.compile(r"/api/v0/asks/\d+/")
GRACE = 300.0
"""Seconds within which a surplus is dead, once it exists and the marketplace answers."""


class Violation(AssertionError):
    """Something that must never happen. `kind` is leak, twin, working or broken; `times` is how often it did."""

    def __init__(self, kind: str, text: str, times: int = 1) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.times = times
        self._text = text

    def __reduce__(self) -> tuple[type["Violation"], tuple[str, str, int]]:
        """Violations cross from the processes that run the stories."""
        return type(self), (self.kind, self._text, self.times)


def no_working_machine_was_given_up(verdicts: Verdicts) -> None:
    """Raises a Violation of the kind working."""
    if wrong := verdicts.wrong:
        raise Violation("working", f"{len(wrong)} released as NOT_READY: {'; '.join(wrong[:3])}", len(wrong))


@dataclass(slots=True, kw_only=True)
class Agreement:
    """What a caller may expect of one request, on the monotonic clock."""

    keep: bool
    """What exists may be kept although the call was never answered."""
    findable: bool
    """What exists must be kept: its caller has a name for it, or was told."""
    ends_after: float | None = None
    """No earlier end by itself."""
    ends_before: float | None = None
    release_asked: set[str] = field(default_factory=set)
    released: set[str] = field(default_factory=set)
    """As far as the caller was told."""
    destroy_asked: set[str] = field(default_factory=set)
    destroyed: set[str] = field(default_factory=set)
    gone: bool = False
    """The call ended without its caller."""
    all_or_nothing: bool = False


class Audit:
    """Watches one world."""

    def __init__(self, world: World, *, beyond: bool) -> None:
        self.world = world
        self.beyond = beyond
        self.agreements: dict[str, Agreement] = {}
        """By the value of the reservation's label `ask`."""
        self.by_hand: set[int] = set()
        """Contracts that somebody else made."""
        self.early_ends = True
        """An end by itself before its time is a violation."""
        self.sent: Counter[str] = Counter()
        """Creates by label, less those that were answered with "too many requests": these may be sent again."""
        self.log: list[object] = []
        self.surplus: dict[int, float] = {}
        """Machines that came after their lease was over: when they appeared, on the market's clock."""
        self._seq = 0
        self._broken: Violation | None = None
        self.verdicts = Verdicts(world)
        world.overhear.append(self.hear)
        world.overhear_answers.append(self.hear_answer)

    def hear(self, request: HttpRequest) -> None:
        """Check that a create has a committed intent and is sent once."""
        path = request.url.removeprefix("http://sandbox").split("?")[0]
        self.log.append((round(self.world.clock.monotonic(), 6), request.method, path))
        if request.method != "PUT" or not _CREATE.fullmatch(path):
            return
        label = plain_label(json.loads(request.body or b"{}").get("label"))
        self.log.append(label)
        row = self.rows("SELECT call_started_at FROM leases WHERE label = ?", label)
        if not row or row[0]["call_started_at"] is None:
            self.break_with(Violation("leak", f"a create with label {label} was sent without a committed intent"))
        self.sent[label] += 1
        if self.sent[label] > 1:
            self.break_with(Violation("twin", f"a create with label {label} was sent {self.sent[label]} times"))

    def hear_answer(self, request: HttpRequest, response: HttpResponse) -> None:
        """A rate-limited create does not count as sent."""
        path = request.url.removeprefix("http://sandbox").split("?")[0]
        if request.method == "PUT" and _CREATE.fullmatch(path) and response.status == 429:
            self.sent[plain_label(json.loads(request.body or b"{}").get("label"))] -= 1

    def safety(self) -> None:
        """The checks after every step."""
        if self._broken is not None:
            raise self._broken
        self.world.sandbox.tick()
        rows = self.rows("SELECT * FROM leases ORDER BY created_at, id")
        by_label = {row["label"]: row for row in rows}
        self._counts(rows)
        self._meters(rows)
        for label, several in self._alive_by_label().items():
            self._machine(label, several, by_label)
        for gone in self.world.sandbox.market.ended:
            if gone.id not in self.by_hand and plain_label(gone.label) not in by_label:
                raise Violation("leak", f"machine {gone.id} ran under {gone.label}, which no row knows")
        self._events()

    def crashed(self) -> None:
        """An answer that was committed and not told any more: without a request_id that caller must look in the list.

        Committing and answering can't be one atomic step, and a machine that the caller knows must not be released.
        """
        for row in self.rows("SELECT * FROM reservations WHERE answered_at IS NOT NULL AND closing = ''"):
            agreement = self.agreements.get(self.ask_of(row) or "")
            if agreement is not None:
                agreement.gone = False

    def break_with(self, violation: Violation) -> None:
        """Make the next check raise the violation. Raised here, the program could catch it."""
        if self._broken is None:
            self._broken = violation

    def rows(self, sql: str, *params: object) -> list[Any]:
        """The rows of a query, directly from the database."""
        return databases.named(self.world.db, sql, params)

    def ask_of(self, reservation: Any) -> str | None:
        """Which request a reservation is for; None for those of the program's own."""
        return dict(json.loads(reservation["labels"])).get("ask")

    def unfinished(self) -> str:
        """Why the world is not at rest yet; "" once it is."""
        self.world.sandbox.tick()
        stuck = [(r["id"], r["state"]) for r in self.rows("SELECT id, state FROM leases") if r["state"] in _OPEN]
        if stuck:
            return f"open: {stuck}"
        if self.world.sandbox._late:
            return "the market still has something to do"
        machines = self.rows(_MACHINES)
        if awake := [row["id"] for row in machines if row["stop_at"] is not None and self._runs(row)]:
            return f"running although they are to be stopped: {awake}"
        owned = {row["instance_id"] for row in machines}
        alive = {str(number) for number in self.world.sandbox.market.instances if number not in self.by_hand}
        return "" if alive == owned else f"alive but not owned {alive - owned}, owned but not alive {owned - alive}"

    def _runs(self, row: Any) -> bool:
        instance = self.world.sandbox.market.instances.get(int(row["instance_id"]))
        return instance is not None and instance.phase in (Phase.LOADING, Phase.RUNNING, Phase.QUEUED)

    def final(self) -> None:
        """The checks once everything is at rest: what is left is what was agreed."""
        self.safety()
        now = self.world.clock.monotonic()
        for row in self.rows(_MACHINES):
            agreement, reservation = self._agreement(row["reservation_id"])
            if reservation["closing"] or reservation["failure"]:
                raise Violation("leak", f"{row['id']} is kept although its reservation is {reservation['closing']}")
            if agreement is None:
                continue
            if reservation["id"] in agreement.released or row["instance_id"] in agreement.destroyed:
                raise Violation("leak", f"{row['id']} is kept although it was released")
            if agreement.gone and not agreement.keep:
                raise Violation("leak", f"{row['id']} is kept although its caller is gone and can't find it")
            if agreement.ends_before is not None and now > agreement.ends_before + GRACE:
                raise Violation("leak", f"{row['id']} is kept {now - agreement.ends_before:.0f} s past its end")
            instance = self.world.sandbox.market.instances[int(row["instance_id"])]
            if round(instance.price) > row["ceiling"] + 1:  # a micro-dollar of rounding
                raise Violation("leak", f"{row['id']} costs {instance.price}, more than {row['ceiling']}")
        self._whole_or_nothing()
        no_working_machine_was_given_up(self.verdicts)

    def digest(self) -> list[object]:
        """Everything that happened, in order."""
        events = self.rows("SELECT * FROM events ORDER BY seq")
        return [*self.log, *(tuple(event.values()) for event in events)]

    def count_events(self, name: str) -> int:
        """The number of stored events with this name."""
        return int(self.rows("SELECT count(*) AS n FROM events WHERE event = ?", name)[0]["n"])

    def lifetimes_of_surplus(self, faults_ended: float) -> list[float]:
        """For how long each surplus machine ran while the marketplace answered, in the market's seconds."""
        ends = {gone.id: gone.destroyed_at for gone in self.world.sandbox.market.ended}
        return [max(0.0, ends[number] - max(began, faults_ended)) for number, began in self.surplus.items()]

    def _counts(self, rows: list[Any]) -> None:
        held: defaultdict[str, int] = defaultdict(int)
        for row in rows:
            if row["state"] in _KEEPABLE:
                held[row["reservation_id"]] += row["num_gpus"]
        for reservation in self.rows("SELECT id, count FROM reservations"):
            if held[reservation["id"]] > reservation["count"]:
                raise Violation(
                    "twin", f"{reservation['id']} holds {held[reservation['id']]} of {reservation['count']}"
                )

    def _meters(self, rows: list[Any]) -> None:
        metered = {row["lease_id"] for row in self.rows("SELECT lease_id FROM meters WHERE closed_at IS NULL")}
        billed = {row["id"] for row in rows if row["instance_id"] and row["state"] not in _TERMINAL}
        if metered != billed:
            raise Violation("broken", f"open meters {metered} are not the live machines {billed}")

    def _machine(self, label: str, several: list[Instance], by_label: Mapping[str, Any]) -> None:
        row = by_label.get(label)
        if row is None:
            raise Violation("leak", f"machines {[one.id for one in several]} run under {label}, which no row knows")
        if len(several) > 1:
            raise Violation("twin", f"{len(several)} machines run under {label}")
        if row["call_started_at"] is None:
            raise Violation("leak", f"a machine runs under {label}, whose create was never recorded as sent")
        if row["state"] not in _TERMINAL:
            return
        if row["instance_id"] is None and self.beyond:
            self.surplus.setdefault(several[0].id, several[0].created_at)
        else:
            raise Violation("twin", f"machine {several[0].id} runs although {row['id']} is {row['state']}")

    def _events(self) -> None:
        """Check that every release has a true reason."""
        for event in self.rows("SELECT * FROM events WHERE seq > ? ORDER BY seq", self._seq):
            self._seq = event["seq"]
            if event["event"] == "release":
                self._release(json.loads(event["data"]).get("reason", ""), event)

    def _release(self, reason: str, event: Any) -> None:
        agreement, _ = self._agreement(event["reservation_id"])
        lease = self.rows("SELECT * FROM leases WHERE id = ?", event["lease_id"])[0]
        said = f"{event['lease_id']} was released as {reason}"
        if agreement is None:
            return
        if reason == "EXPIRED" and self.early_ends:
            now = self.world.clock.monotonic()
            if agreement.ends_after is None or now < agreement.ends_after - 1:
                raise Violation("broken", f"{said} at {now}, but it was to run until {agreement.ends_after}")
        if reason == "RELEASED" and event["reservation_id"] not in agreement.release_asked:
            raise Violation("broken", f"{said}, but nobody asked for that")
        if reason == "DESTROYED" and lease["instance_id"] not in agreement.destroy_asked:
            raise Violation("broken", f"{said}, but nobody asked for that")
        if reason in ("CALLER_GONE", "CAME_TOO_LATE") and agreement.findable:
            raise Violation("broken", f"{said}, but its caller can find it")

    def _whole_or_nothing(self) -> None:
        """A call that was refused for having too few has none; nothing else is fewer without a word."""
        for reservation in self.rows("SELECT * FROM reservations WHERE failure IS NOT NULL"):
            if live := self.rows(_LIVE, reservation["id"]):
                raise Violation("leak", f"{reservation['id']} failed and still has {[row['id'] for row in live]}")

    def _agreement(self, reservation_id: str) -> tuple[Agreement | None, Any]:
        row = self.rows("SELECT * FROM reservations WHERE id = ?", reservation_id)[0]
        return self.agreements.get(self.ask_of(row) or ""), row

    def _alive_by_label(self) -> dict[str, list[Instance]]:
        found: defaultdict[str, list[Instance]] = defaultdict(list)
        for instance in self.world.sandbox.market.instances.values():
            if instance.id not in self.by_hand:
                found[plain_label(instance.label)].append(instance)
        return found
