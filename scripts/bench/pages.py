"""The dashboard: its pages over a long history, and what open dashboards cost a gRPC caller.

The history is that of `history.py`. The dashboards are streams of the page Now that are read by another process's
worth of clients; calls with and without them alternate in one run.
"""

import http.client
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

from gpuproxy.v1 import gpuproxy_pb2 as pb
from scripts.bench.history import MANY, make_books
from scripts.bench.report import Row, percentile
from tests.system.processes import KIND, UNPACED, Client, Market, Server, until

DASHBOARDS = 50
_PAGES = (
    "",
    "market",
    "market/prices",
    "reservations",
    "reservations?state=released",
    "pools",
    "health",
    "keys",
    "costs",
)
_TIMES = 15
_ROUNDS, _CALLS = 6, 300
_RENTED = 8


def measure(folder: Path) -> list[Row]:
    """The slowest page by its median, and the p99 of a gRPC call beside 50 open dashboards less that without them."""
    make_books(folder / "books.db", MANY)
    with Market(folder, "--machines", "200", *KIND) as market, Server(folder, market, **UNPACED) as server:
        cookie = _log_in(server)
        with server.client() as client:
            until(client.knows_offers)
            client.call("ReserveGPUs", pb.ReserveGPUsRequest(count=_RENTED))
            pages = {path: _page(server, cookie, path) for path in _PAGES}
            with_them, without = _paired(server, cookie, client)
    slowest = max(pages, key=lambda path: pages[path])
    shown = ", ".join(f"/{path} {taken:.0f}" for path, taken in pages.items())
    return [
        Row(
            name=f"the slowest page of the dashboard over {MANY:,} finished reservations",
            value=pages[slowest],
            unit="ms",
            at_most=300,
            note=f"medians of {_TIMES}: {shown}",
        ),
        Row(
            name=f"p99 of a gRPC call: {DASHBOARDS} open dashboards, less that without them",
            value=statistics.median(after - before for after, before in zip(with_them, without, strict=True)),
            unit="ms",
            at_most=5,
            note=f"{statistics.median(with_them):.1f} ms instead of {statistics.median(without):.1f} ms; "
            f"{_ROUNDS} rounds of {_CALLS} calls",
        ),
    ]


def _paired(server: Server, cookie: str, client: Client) -> tuple[list[float], list[float]]:
    with_them, without = [], []
    for _ in range(_ROUNDS):
        without.append(_p99(client))
        with _dashboards(server, cookie):
            with_them.append(_p99(client))
    return with_them, without


def _p99(client: Client) -> float:
    taken = []
    for _ in range(_CALLS):
        began = time.perf_counter()
        client.call("GetLoadBalancerStrategy", pb.GetLoadBalancerStrategyRequest())
        taken.append((time.perf_counter() - began) * 1000)
        time.sleep(0.005)  # otherwise the caller itself is the load
    return percentile(taken, 99)


@contextmanager
def _dashboards(server: Server, cookie: str) -> Iterator[None]:
    """Open streams, four a session as in as many tabs, each read by a thread that mostly waits."""
    cookies = [cookie, *(_log_in(server) for _ in range(DASHBOARDS // 4))]
    opened = []
    for number in range(DASHBOARDS):
        connection = _connected(server)
        connection.request("GET", "/ui/now/live", headers={"Cookie": cookies[number % len(cookies)]})
        answer = connection.getresponse()
        threading.Thread(target=_read, args=(answer,), daemon=True).start()
        opened.append(connection)
    try:
        yield
    finally:
        for connection in opened:
            connection.sock.shutdown(2)


def _read(answer: http.client.HTTPResponse) -> None:
    try:
        while answer.read1():
            pass
    except (OSError, http.client.HTTPException, ValueError):
        return


def _page(server: Server, cookie: str, path: str) -> float:
    """Milliseconds, the median."""
    connection, taken = _connected(server), []
    for turn in range(_TIMES + 2):
        began = time.perf_counter()
        connection.request("GET", f"/ui/{path}", headers={"Cookie": cookie})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"/ui/{path} answers {answer.status}")
        if turn > 1:
            taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken)


def _log_in(server: Server) -> str:
    connection = _connected(server)
    headers = {"Origin": f"http://{server.http}", "Content-Type": "application/x-www-form-urlencoded"}
    connection.request("POST", "/ui/login", urlencode({"key": server.key}), headers)
    return (connection.getresponse().getheader("Set-Cookie") or "").partition(";")[0]


def _connected(server: Server) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(server.http, timeout=60)
