"""`make chaos`: the real server with its real database, killed with kill -9 at random times while callers rent.

After each restart, and before any caller calls again, the database and the market must agree on the machines within a
limited market time, and everything that was answered to a caller must still be known. At the end everything is
released. The market is a process of its own and is never killed. It has the limits and faults of the real one: rate
limits, 64 offers in a search, wrong first rows. Both clocks run SCALE times as fast.

Environment: KILLS (default 200), SEED (1), SCALE (30), and LOG, a file for the server's log. Exit code 0: nothing was
lost or kept twice.
"""

import os
import random
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from gpuproxy.v1 import gpuproxy_pb2 as pb
from scripts.callers import Ledger, RandomCaller, release_everything
from scripts.evidence import account, loud, twins, until
from scripts.variables import refuse_arguments
from tests.system.processes import Client, Market, Server

KILLS = int(os.environ.get("KILLS", "200"))
SEED = int(os.environ.get("SEED", "1"))
SCALE = os.environ.get("SCALE", "30")
_MARKET = ("--time-scale", SCALE, "--create-latency", "3")
"""Slow creates, so that many kills come after the market has executed a create and before it has answered."""
_CALLERS = 4
_MOST = 24
_LONGEST_LIFE = 3.0  # real seconds under load
_AGREED_WITHIN = 300.0  # seconds of the market, beside the marketplace's own interval between destroys
_DESTROY_INTERVAL = 3.0
_ENDED_WITHIN = 1800.0  # an outcome that is unknown may take twice the quarantine and three listings
_RENTED = frozenset({"starting", "active", "stopped"})


@dataclass
class Report:
    """The figures and the errors of a run."""

    agreed_after: list[float] = field(default_factory=list)
    """For each restart, the market's seconds until the database and the market agreed."""
    unknown: int = 0
    """The number of unknown outcomes right after the restarts."""
    alive: int = 0
    """The number of machines alive right after the restarts."""
    checked: int = 0
    """The number of answered reservations that were looked up after the restarts."""
    broken: int = 0
    """How many of these were not known or not complete."""
    wrong: list[str] = field(default_factory=list)


def main() -> int:
    """Kill, restart and compare. Returns the exit code."""
    dice, ledger, report = random.Random(SEED), Ledger(), Report()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name, Market(Path(name), *_MARKET) as market:
        server = Server(Path(name), market, GPUPROXY_TIME_SCALE=SCALE)
        for kill in range(1, KILLS + 1):
            _live(server, ledger, dice)
            _start(server)
            _compare(server, market, ledger, report, f"after kill {kill}")
            if kill % 20 == 0:
                print(f"{kill} kills, {time.monotonic() - began:.0f} s", flush=True)
        with server:
            _end(server, market, report)
            complaints = loud(server.log())
            if (log := os.environ.get("LOG")) is not None:
                Path(log).write_text(server.log())
        state = market.state()
    _print(report, ledger, state, complaints)
    return 1 if report.wrong or ledger.unexpected else 0


def _live(server: Server, ledger: Ledger, dice: random.Random) -> None:
    """Run callers for a random time. They stop when the server does not answer any more."""
    ended = threading.Event()
    seeds = [dice.getrandbits(32) for _ in range(_CALLERS)]
    threads = [threading.Thread(target=_call, args=(server, ledger, seed, ended), daemon=True) for seed in seeds]
    for thread in threads:
        thread.start()
    time.sleep(dice.random() * _LONGEST_LIFE)
    server.kill()
    ended.set()
    for thread in threads:
        thread.join()


def _call(server: Server, ledger: Ledger, seed: int, ended: threading.Event) -> None:
    with server.client() as client:
        caller = RandomCaller(client, ledger, seed, most=_MOST)
        while not ended.is_set() and caller.act():
            pass


def _start(server: Server) -> None:
    try:
        server.start()
    except AssertionError:
        print(server.log()[-3000:], file=sys.stderr)
        raise


def _compare(server: Server, market: Market, ledger: Ledger, report: Report, when: str) -> None:
    with server.client() as client:
        books = client.instances()
        report.unknown += sum(one.status == "unknown" for one in books)
        report.alive += len(alive := market.alive())
        limit = _AGREED_WITHIN + _DESTROY_INTERVAL * len(alive)
        took = until(market, lambda: _agree(client, market), limit)
        if took is None:
            report.wrong.append(
                f"{when}: books and market did not agree within {limit:.0f} s: {_drift(client, market)}"
            )
        else:
            report.agreed_after.append(took)
        for reservation_id, contracts in list(ledger.told.items()):
            report.checked += 1
            if complaint := _forgotten(client, reservation_id, contracts):
                report.broken += 1
                report.wrong.append(f"{when}: {complaint}")


def _agree(client: Client, market: Market) -> bool:
    return not _drift(client, market)


def _drift(client: Client, market: Market) -> str:
    """The differences between the machines of the market and those of the database; "" if there are none.

    A machine that runs although it is stopped by the database is a difference, too.
    """
    alive = market.alive()
    books = client.instances()
    rented = {one.contract_id for one in books if one.status in _RENTED}
    stopped = {one.contract_id for one in books if one.status == "stopped"}
    running = sorted(contract for contract in stopped & set(alive) if alive[contract]["status"] != "stopped")
    if set(alive) == rented and not running:
        return ""
    others = [f"{one.status} {one.lease_id}" for one in books if one.status not in _RENTED]  # unknown: no machine yet
    lost, dead = sorted(set(alive) - rented), sorted(rented - set(alive))
    return f"market only {lost}, database only {dead}, running though stopped {running}, others {others}"


def _forgotten(client: Client, reservation_id: str, contracts: frozenset[str]) -> str:
    """What was answered to a caller and is not in the database any more; "" if nothing is missing."""
    request = pb.GetReservationRequest(reservation_id=reservation_id)
    try:
        found = client.call("GetReservation", request).reservation
    except grpc.RpcError as error:
        return f"{reservation_id} was answered and is not known: {error.code().name}"
    missing = contracts - {outcome.instance_id for outcome in found.outcomes}
    return f"{reservation_id} has lost {sorted(missing)}" if missing else ""


def _end(server: Server, market: Market, report: Report) -> None:
    """Release everything, and wait until nothing is billed and no outcome is unknown."""
    with server.client() as client:
        release_everything(client)
        if until(market, lambda: not client.instances() and not market.alive(), _ENDED_WITHIN) is None:
            left = [f"{one.status} {one.contract_id}" for one in client.instances()]
            report.wrong.append(f"at the end: market {sorted(market.alive())}, database {left}")


def _print(report: Report, ledger: Ledger, state: dict[str, Any], complaints: dict[str, int]) -> None:
    if doubled := twins(state):
        report.wrong.append(f"labels of more than one machine: {doubled}")
    counts = ", ".join(f"{name} {count}" for name, count in sorted(ledger.counts.items()))
    took = sorted(report.agreed_after) or [0.0]
    print(f"chaos      {KILLS} kills, scale {SCALE}, seed {SEED}")
    print(f"callers    {counts}")
    print(f"market     {account(state)}; {len(twins(state))} labels twice")
    print(f"restarts   {report.alive} machines alive in all, {report.unknown} outcomes unknown")
    print(
        f"agreement  median {statistics.median(took):.0f} s, p95 {took[int(len(took) * 0.95)]:.0f} s, "
        f"longest {took[-1]:.0f} s of the market"
    )
    print(f"promises   {report.checked} looked up, {report.broken} broken")
    print(f"log        {complaints or 'no warning'}")
    for line in (*report.wrong, *ledger.unexpected):
        print(f"WRONG      {line}")


if __name__ == "__main__":
    refuse_arguments(__doc__)
    sys.exit(main())
