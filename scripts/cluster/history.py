"""The recorded calls as histories for the checker.

There is a register for each request id, a counter for each limit, and a lock for each claim. What became of a call
without an answer is read from the database afterwards. It may have stored its reservation at any time after it began.
"""

import json
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from scripts.cluster.callers import Round
from scripts.cluster.calls import Call
from scripts.cluster.market import Effect
from scripts.cluster.observing import ClaimChange

CHECKER = Path(__file__).parent / "checker"
_HARNESS = 9999
_PRESENCE = "replica:"
"""Claims on a process's own name, which say that it lives. Nobody else ever takes them."""
Key = tuple[str, str]
"""A project and a request id."""


@dataclass(slots=True)
class Operation:
    """One line for the checker. See its `Op`."""

    model: str
    key: str
    client: int
    call: int
    kind: str
    name: str = ""
    names: Sequence[str] = ()
    amount: int = 0
    limit: int = 0
    # The word of the checker's format is a keyword here, so the field is renamed when it is written.
    end: int = 0

    def line(self) -> str:
        """As JSON."""
        fields = asdict(self)
        return json.dumps({**fields, "return": fields.pop("end")})


@dataclass(frozen=True, slots=True)
class Stored:
    """A reservation as it is in the database at the end."""

    id: str
    failure: str = ""
    """The reason of a call that failed after it was stored; "" if it did not."""
    gone_by_itself: bool = False
    """All of its machines have ended without a release by its caller."""


@dataclass
class Truth:
    """What the database says at the end."""

    stored: dict[Key, Stored] = field(default_factory=dict)
    freed: dict[Key, list[str]] = field(default_factory=dict)
    """Reservations that have rented nothing and given their request id free."""
    labels: dict[str, str] = field(default_factory=dict)
    """The reservation of each label that a machine was created with."""
    read: int = 0
    """When it was read: nanoseconds since 1970."""


def registers(calls: Iterable[Call], truth: Truth) -> Iterator[Operation]:
    """One register for each request id. At the end it is read from the database."""
    began: dict[Key, int] = {}
    for call in calls:
        key = (call.project, call.request_id)
        began[key] = min(call.began, began.get(key, call.began))
        operation = Operation("register", "/".join(key), call.client, call.began, "reserve", end=call.ended)
        stored = truth.stored.get(key)
        if call.kind == "read" and call.result == "answered":
            operation.kind, operation.names = "read", call.found
        elif call.kind != "reserve":
            continue
        elif call.result == "answered":
            operation.name = call.reservation_id
        elif call.result == "unknown":
            operation.kind, operation.end = "maybe", 0
            operation.names = [*truth.freed.get(key, ()), *([stored.id] if stored else [])]
        elif stored is not None and stored.failure == call.reason:
            operation.name = stored.id
        else:
            operation.kind = "refused"
        yield operation
    for key, first in began.items():
        for name in truth.freed.get(key, ()):
            yield Operation("register", "/".join(key), _HARNESS, first, "free", name)
        found = [truth.stored[key].id] if key in truth.stored else []
        yield Operation("register", "/".join(key), _HARNESS, truth.read, "read", names=found, end=truth.read)


def counters(calls: Sequence[Call], rounds: Iterable[Round], truth: Truth) -> Iterator[Operation]:
    """One counter for each project with a limit."""
    by_key: defaultdict[Key, list[Call]] = defaultdict(list)
    for call in calls:
        by_key[call.project, call.request_id].append(call)
    for played in rounds:
        for key, own in by_key.items():
            if key[0] == played.project:
                yield from _counted(played, key[1], own, truth.stored.get(key))
                yield from _held_for_nothing(played, own, truth.freed.get(key, ()))


def _held_for_nothing(played: Round, calls: Sequence[Call], freed: Iterable[str]) -> Iterator[Operation]:
    """A call that has rented nothing was counted while it ran. Nobody knows when that was, after its begin."""
    for name in freed:
        began = min(call.began for call in calls if call.kind == "reserve")
        for kind in ("take", "give"):
            yield Operation("counter", played.project, _HARNESS, began, kind, name, amount=1, limit=played.limit)


def _counted(played: Round, request_id: str, calls: Sequence[Call], stored: Stored | None) -> Iterator[Operation]:
    """What the calls with one request id mean for the limit: refusals, one machine, and its end."""
    reserves = [call for call in calls if call.kind == "reserve"]
    failed = stored is not None and stored.failure != ""

    def operation(kind: str, client: int, began: int, end: int) -> Operation:
        return Operation(
            "counter", played.project, client, began, kind, request_id, amount=1, limit=played.limit, end=end
        )

    for call in reserves:
        if call.result == "refused" and call.reason in ("BUDGET_EXCEEDED", "QUOTA_EXCEEDED") and not failed:
            yield operation("refused", call.client, call.began, call.ended)
    if stored is None:
        return
    took = [call for call in reserves if call.result != "refused" or call.reason == stored.failure]
    answers = [call.ended for call in took if call.result == "answered"]
    answers += [call.ended for call in calls if call.kind == "read" and call.found]
    began = min(call.began for call in took)
    yield operation("take", took[0].client, began, min(answers, default=0))
    releases = [call.began for call in calls if call.kind in ("release", "destroy")]
    if failed or stored.gone_by_itself:
        yield operation("give", took[0].client, began, 0)
    elif releases:
        seen = [call.ended for call in calls if call.kind == "read" and call.reason == "released"]
        yield operation("give", took[0].client, min(releases), min(seen, default=0))


def locks(changes: Iterable[ClaimChange], effects: Iterable[Effect], truth: Truth) -> Iterator[Operation]:
    """One lock for each claim, used by the creates and destroys that the market has received."""
    known: set[str] = set()
    processes: dict[str, str] = {}
    for change in changes:
        if change.name.startswith(_PRESENCE):
            continue
        known.add(change.name)
        if change.kind == "take":
            processes[change.owner] = change.process
        # A claim that is over may be dropped by another process than its owner's, which ends the work.
        owner = processes.get(change.owner, change.owner)
        yield Operation(
            "lock", change.name, _HARNESS, change.began, change.kind, owner, amount=change.fence, end=change.ended
        )
    for effect in effects:
        if effect.kind == "destroy":
            name = f"account:vast.ai:{effect.account}"
        else:
            name = f"reservation:{truth.labels.get(effect.label.partition('.')[0], '')}"
        if name in known:
            yield Operation(
                "lock", name, _HARNESS, effect.sent, "act", effect.server, end=max(effect.sent, effect.answered)
            )


def one_owner_per_process(changes: Iterable[ClaimChange]) -> list[str]:
    """Complaints if a process took claims under two names, or if two processes used one name."""
    of_process: defaultdict[str, set[str]] = defaultdict(set)
    of_owner: defaultdict[str, set[str]] = defaultdict(set)
    for change in changes:
        if change.kind == "take":
            of_process[change.process].add(change.owner)
            of_owner[change.owner].add(change.process)
    doubled = [f"{name} has the names {found}" for name, found in of_process.items() if len(found) > 1]
    return doubled + [f"{name} is used by {found}" for name, found in of_owner.items() if len(found) > 1]


def write(path: Path, operations: Iterable[Operation], models: Collection[str] = ()) -> None:
    """Write the histories to a file."""
    with path.open("w") as file:
        file.writelines(f"{each.line()}\n" for each in operations if not models or each.model in models)


def can_check() -> bool:
    """Whether Go is here."""
    return shutil.which("go") is not None


def test_checker() -> None:
    """Make sure that the checker refuses planted histories. Raises RuntimeError."""
    done = subprocess.run(["go", "test", "./..."], cwd=CHECKER, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the checker is wrong or can't be built:\n{done.stdout}{done.stderr}")


def check(path: Path) -> tuple[bool, str]:
    """Whether the histories in a file are linearizable, and what the checker says."""
    with path.open() as file:
        done = subprocess.run(
            ["go", "run", "."], cwd=CHECKER, stdin=file, capture_output=True, text=True, check=False
        )  # fmt: skip
    return done.returncode == 0, done.stdout + done.stderr
