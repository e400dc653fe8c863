"""`make cluster`: three servers on one PostgreSQL with a synchronous standby, under load and incidents.

Callers on all servers reserve, repeat calls with the same request ids elsewhere, read, release, and use budgets and
quotas up; watchers follow reservations from server to server. Meanwhile servers are killed and paused, connections
cut, backends ended at their COMMIT, and the database fails over. Every 25 incidents and at the end, the database and
the market must agree on the machines. Then every promise is looked up, and the recorded history is checked for
linearizability by Porcupine, which needs Go.

Before the incidents come two proofs: many copies of one call rent once, and a budget for ten machines rents ten.

Environment: INCIDENTS (default 200), SEED (1), SCALE (10), how much faster than real time both clocks run, COPIES
(5000) of one call, LOGS, a folder for the logs, and HISTORY, a file for the recorded history. SEED fixes which
incidents are drawn, not what the processes do meanwhile. PostgreSQL must be installed. Exit code 0: no promise was
broken.
"""

import os
import random
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from scripts.cluster import history, observing, promises, proofs
from scripts.cluster.callers import LEASE, Load, Roamer, Rounds, Shared
from scripts.cluster.calls import Client, Record
from scripts.cluster.incidents import Incidents
from scripts.cluster.postgres import binaries
from scripts.cluster.watching import Watcher, of_watches
from scripts.cluster.world import World, running
from scripts.evidence import account, loud
from scripts.variables import refuse_arguments, whole

INCIDENTS = whole("INCIDENTS", 200)
SEED = whole("SEED", 1, least=0)
SCALE = float(whole("SCALE", 10))
COPIES = whole("COPIES", 5000)
_CALLERS = 6
_WATCHERS = 3
_PAUSE = 0.5
_CHECK_EVERY = 25
_AGREED_WITHIN = 3600.0  # seconds of the market; an outcome that is unknown may take twice the quarantine
_OFFERS_READ_AGAIN = 150.0
"""Seconds of the market after which each server knows that the machines are free again."""


@dataclass
class Report:
    """The figures and the errors of a run."""

    agreed_after: list[float] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def add(self, title: str, figures: str, wrong: list[str] | None = None) -> None:
        """Print a line of the report, and remember what is wrong."""
        self.lines.append(f"{title:<11} {figures}")
        print(self.lines[-1], flush=True)
        self.wrong += wrong or []


def main() -> int:
    """Run everything. Returns the exit code."""
    if binaries() is None or not history.can_check():
        print("needs PostgreSQL and Go (Debian: apt-get install postgresql golang)", file=sys.stderr)
        return 1
    history.test_checker()
    report, record = Report(), Record()
    print(f"cluster     3 servers, {INCIDENTS} incidents, scale {SCALE:g}, seed {SEED}", flush=True)
    with running(SCALE, "--create-latency", "3") as world:
        proofs.copies(world, record, report.add, COPIES)
        _agree(world, record, report, "after the copies")
        time.sleep(_OFFERS_READ_AGAIN / SCALE)
        proofs.budget(world, record, report.add, _unit(world, record))
        _run(world, record, report)
    for line in (*report.wrong, *record.wrong):
        print(f"WRONG       {line}")
    return 1 if report.wrong or record.wrong else 0


def _run(world: World, record: Record, report: Report) -> None:
    """Incidents under load, the end, and the judgement."""
    dice = random.Random(SEED)
    unit = _unit(world, record)
    projects = [f"{kind}{number}" for number in range(100) for kind in ("quota", "budget")]
    keys = observing.add_keys(world.cluster, projects)
    rounds = Rounds(world.replicas, record, keys, unit=unit, seed=dice.getrandbits(32))
    shared, helpers = Shared(), ThreadPoolExecutor(4 * _CALLERS)
    clients = [
        Client(number, world.replicas, record, key=world.replicas.key, project="default") for number in range(_CALLERS)
    ]
    roamers = [Roamer(client, shared, dice.getrandbits(32), helpers) for client in clients]
    incidents = Incidents(
        world.cluster, world.replicas.all, world.market, record, seed=dice.getrandbits(32), scale=SCALE
    )
    began, done, checked = time.monotonic(), 0, 0
    watchers = [Watcher(world.replicas, record, shared, dice.getrandbits(32)) for _ in range(_WATCHERS)]
    load = Load([*(each.act for each in roamers), *(each.act for each in watchers), rounds.play], record, pause=_PAUSE)
    try:
        while done < INCIDENTS and not incidents.failures:
            done += incidents.happen(INCIDENTS - done)
            if done // _CHECK_EVERY > checked:
                checked = done // _CHECK_EVERY
                print(f"{done} incidents, {time.monotonic() - began:.0f} s", flush=True)
                with load.paused():
                    _agree(world, record, report, f"after {done} incidents")
    finally:
        load.end()
        helpers.shutdown()
        rounds.close()
        for watcher in watchers:
            watcher.close()
    report.wrong += incidents.failures
    figures = ", ".join(f"{name} {count}" for name, count in sorted(incidents.counts.items()))
    report.add("incidents", f"{done} in {time.monotonic() - began:.0f} s: {figures}")
    report.add("terminated", f"{incidents.terminated} backends at their COMMIT")
    _end(world, record, report)
    _judge(world, record, report, rounds)
    report.add("watches", *of_watches(world.cluster, [watch for watcher in watchers for watch in watcher.done]))


def _agree(world: World, record: Record, report: Report, when: str) -> None:
    """Wait until the database and the market agree, and check that what was released is gone."""
    world.market.control("DELETE", "faults")
    began = world.market_now()
    while found := promises.drift(world.cluster, world.market.alive()):
        if world.market_now() - began > _AGREED_WITHIN:
            report.wrong.append(f"{when}: no agreement: {found}")
            return
        time.sleep(0.3)
    report.agreed_after.append(world.market_now() - began)
    _, wrong = promises.of_releases(record, world.market.alive())
    report.wrong += [f"{when}: {each}" for each in wrong]


def _end(world: World, record: Record, report: Report) -> None:
    """Release everything, and wait until nothing is alive."""
    _agree(world, record, report, "at the end")
    admin = Client(901, world.replicas, record, key=world.replicas.key, project="default")
    proofs.release_all(admin)
    _agree(world, record, report, "after everything was released")
    if left := sorted(world.market.alive()):
        report.wrong.append(f"at the end, machines are alive: {left}")
    took = sorted(report.agreed_after) or [0.0]
    report.add(
        "agreement",
        f"{len(took)} times: median {statistics.median(took):.0f} s, longest {took[-1]:.0f} s of the market",
    )
    admin.close()


def _judge(world: World, record: Record, report: Report, rounds: Rounds) -> None:
    """Look every promise up, and check the history."""
    state = world.market.state()
    stored = promises.truth(world.cluster, time.time_ns())
    report.add("callers", ", ".join(f"{name} {count}" for name, count in sorted(record.counts.items())))
    doubled = promises.twins(state)
    report.add("market", f"{account(state)}; {len(doubled)} labels twice", [f"{each} twice" for each in doubled])
    report.add("answers", *promises.of_request_ids(world.cluster, record, stored.stored))
    report.add("releases", *promises.of_releases(record, world.market.alive()))
    report.add("events", *promises.of_events(world.cluster))
    report.add("ledger", *promises.of_ledger(world.cluster))
    report.add("limits", *promises.of_limits(world.cluster, rounds.done, state))
    changes = observing.claim_changes(world.cluster)
    doubled_owners = history.one_owner_per_process(changes)
    takes = sum(change.kind == "take" for change in changes)
    owners = len({change.owner for change in changes})
    report.add("claims", f"{takes} taken by {owners} processes, {len(doubled_owners)} names used twice", doubled_owners)
    path = Path(os.environ.get("HISTORY") or world.folder / "history.jsonl")
    calls = record.of("reserve", "read", "release", "destroy")
    history.write(path, chain(
        history.registers(calls, stored), history.counters(calls, rounds.done, stored),
        history.locks(changes, world.effects.all, stored),
    ))  # fmt: skip
    fine, said = history.check(path)
    report.add(
        "history", "linearizable" if fine else "NOT linearizable", [] if fine else ["the history is not linearizable"]
    )
    print(said, end="", flush=True)
    starts = sum(replica.starts for replica in world.replicas.all)
    complaints = loud("\n".join(replica.log() for replica in world.replicas.all))
    report.add("log", f"{starts} starts; {complaints or 'no warning'}")


def _unit(world: World, record: Record) -> float:
    """What one machine costs for the time of a budget round, in USD, disk included."""
    return proofs.price_of_one(world, record) * LEASE / 3600


if __name__ == "__main__":
    refuse_arguments(__doc__)
    sys.exit(main())
