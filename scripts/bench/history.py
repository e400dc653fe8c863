"""Costs that must not depend on history: the real server on books of 100 and of 100,000 finished reservations.

Both servers run at the same time, each on its own market, and take turns. `tests.past` makes the books at once.
"""

import asyncio
import statistics
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import randbytes

from gpuproxy.store.sqlite.database import SqliteDatabase
from gpuproxy.v1 import gpuproxy_pb2 as pb
from scripts.bench.report import Row
from tests.past import fill
from tests.system.processes import KIND, UNPACED, Client, Market, Server

FEW, MANY = 100, 100_000
_ROUNDS = 60
_STARTS = 5
_AT_MOST = 1.2
_RAN = (timedelta(days=365), timedelta(days=20))
"""Before now: the first and the last of the finished reservations."""
_CALLS = {
    "HealthCheck": pb.HealthCheckRequest(),
    "ListReservations": pb.ListReservationsRequest(page_size=50),
    "GetTransactions": pb.GetTransactionsRequest(limit=50),
}
Timed = Callable[[], object]


def measure(folder: Path) -> list[Row]:
    """The medians of both servers, and of the ratios of two measurements that followed each other."""
    with ExitStack() as stack:
        servers = []
        for number in (FEW, MANY):
            own = folder / str(number)
            own.mkdir()
            make_books(own / "books.db", number)
            market = stack.enter_context(Market(own, "--machines", "200", *KIND))
            servers.append(Server(own, market, **UNPACED))
            stack.callback(servers[-1].kill)
        # The first start has read all events, as the one after an upgrade does. These are usual ones.
        rows = [_row("start", "s", *_starts(servers), note=f"median of {_STARTS}")]
        clients = [stack.enter_context(server.client()) for server in servers]
        for name, calls in _timed(servers, clients).items():
            rows.append(_row(name, "ms", *_rounds(*calls), note=f"median of {_ROUNDS}"))
        memory = [server.memory_kb() / 1024 for server in servers]
    rows.append(_row("resident memory", "MB", *([each] for each in memory), note="after all of these calls"))
    return rows


def make_books(path: Path, number: int) -> None:
    """A database with so many finished reservations."""
    now = datetime.now(UTC)
    db = SqliteDatabase(str(path), lambda: now, threads=False)
    fill(db._writer.conn, number, now - _RAN[0], now - _RAN[1])  # noqa: SLF001 - a bulk load, past the port
    asyncio.run(db.close())
    key = path.with_name(f"{path.name}.demand-key")  # without it, the fingerprints of the books could not be compared
    key.write_bytes(b64encode(randbytes(32)))
    key.chmod(0o600)


def _starts(servers: list[Server]) -> tuple[list[float], list[float]]:
    taken: tuple[list[float], list[float]] = ([], [])
    for turn in range(_STARTS):
        for which in (0, 1) if turn % 2 else (1, 0):
            servers[which].kill()
            began = time.perf_counter()
            servers[which].start()
            taken[which].append(time.perf_counter() - began)
    return taken


def _timed(servers: list[Server], clients: list[Client]) -> dict[str, list[Timed]]:
    def scrape(server: Server) -> Timed:
        request = urllib.request.Request(f"http://{server.http}/metrics", headers={"X-API-Key": server.key})
        return lambda: urllib.request.urlopen(request, timeout=60).read()  # noqa: S310 - loopback

    def call(client: Client, name: str) -> Timed:
        return lambda: client.call(name, _CALLS[name])

    calls = {name: [call(client, name) for client in clients] for name in _CALLS}
    return {**calls, "/metrics": [scrape(server) for server in servers]}


def _rounds(few: Timed, many: Timed) -> tuple[list[float], list[float]]:
    taken: tuple[list[float], list[float]] = ([], [])
    for turn in range(_ROUNDS + 5):
        for which, run in ((0, few), (1, many)) if turn % 2 else ((1, many), (0, few)):
            began = time.perf_counter()
            run()
            if turn >= 5:  # the first ones warm up
                taken[which].append((time.perf_counter() - began) * 1000)
    return taken


def _row(name: str, unit: str, few: list[float], many: list[float], *, note: str = "") -> Row:
    least, most = statistics.median(few), statistics.median(many)
    return Row(
        name=f"{name}: {MANY:,} finished reservations instead of {FEW}",
        value=statistics.median(after / before for before, after in zip(few, many, strict=True)),
        unit="x",
        at_most=_AT_MOST,
        note=f"{most:.3g} {unit} instead of {least:.3g} {unit}{'; ' if note else ''}{note}",
    )
