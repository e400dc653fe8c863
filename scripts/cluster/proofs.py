"""Two proofs over three servers: many copies of one call rent once, and a budget for ten machines rents exactly ten."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from gpuproxy.v1 import gpuproxy_pb2 as pb
from scripts.cluster import observing, promises
from scripts.cluster.callers import LEASE, SERVERS, Rounds
from scripts.cluster.calls import Call, Client, Record
from scripts.cluster.world import World

Add = Callable[[str, str, list[str]], None]
_BUDGET, _CALLERS = 10, 50
_THREADS = 24
_PATIENCE = 600.0


def copies(world: World, record: Record, add: Add, count: int) -> None:
    """So many copies of one call, at all servers at once."""
    clients = [
        Client(800 + number, world.replicas, record, key=world.replicas.key, project="default")
        for number in range(_THREADS)
    ]
    began, before = time.monotonic(), len(world.market.state()["instances"])
    threads = ThreadPoolExecutor(_THREADS)
    started = threading.Barrier(_THREADS)

    def send(client: Client) -> list[Call]:
        started.wait()
        share = range(clients.index(client), count, _THREADS)
        return [client.reserve(number % SERVERS, "copies", count=2, patience=_PATIENCE) for number in share]

    calls = [call for sent in threads.map(send, clients) for call in sent]
    threads.shutdown()
    names = {call.reservation_id for call in calls if call.result == "answered"}
    results = Counter(call.result for call in calls)
    machines = len(world.market.state()["instances"]) - before
    stored = promises.rows(world.cluster, "SELECT id FROM reservations WHERE request_id = 'copies'")
    figures = (
        f"{len(calls)} calls with one request id at {SERVERS} servers in {time.monotonic() - began:.0f} s: "
        f"{dict(results)}, {len(stored)} reservation, {machines} machines for 2 GPUs"
    )
    fine = len(names) == len(stored) == 1 and results["answered"] == len(calls) and machines <= 2
    add("copies", figures, [] if fine else [f"copies of one call: {figures}"])
    release_all(clients[0])
    for client in clients:
        client.close()


def budget(world: World, record: Record, add: Add, unit: float) -> None:
    """Fifty callers, each for one machine, with a budget for ten."""
    keys = observing.add_keys(world.cluster, ["ten"])
    rounds = Rounds(world.replicas, record, {}, unit=unit, seed=1)
    rounds.set_limit("ten", _BUDGET)
    began = time.monotonic()
    clients = [Client(700 + n, world.replicas, record, key=keys["ten"], project="ten") for n in range(_CALLERS)]
    with ThreadPoolExecutor(_CALLERS) as threads:
        ready = threading.Barrier(_CALLERS)

        def ask(number: int) -> Call:
            """Ask until there is a machine or no money, as a client does: a create may fail, and an answer be lost."""
            ready.wait()
            server, turn = number, 0
            while True:
                request_id = f"ten-{number}-{turn}"
                call = clients[number].reserve(server % SERVERS, request_id, lease_seconds=LEASE, patience=_PATIENCE)
                server += 1
                if call.result == "refused" and call.reason != "BUDGET_EXCEEDED":
                    turn += 1
                elif call.result != "unknown":
                    return call

        calls = list(threads.map(ask, range(_CALLERS)))
    results = Counter(f"{call.result} {call.reason}".strip() for call in calls)
    machines = sum(len(call.contracts) for call in calls)
    figures = (
        f"{_CALLERS} callers at {SERVERS} servers with a budget for {_BUDGET} machines in "
        f"{time.monotonic() - began:.0f} s: {dict(results)}, {machines} machines"
    )
    fine = results["answered"] == machines == _BUDGET and results["refused BUDGET_EXCEEDED"] == _CALLERS - _BUDGET
    add("budget", figures, [] if fine else [f"a budget for {_BUDGET}: {figures}"])
    release_all(clients[0])
    for client in clients:
        client.close()
    rounds.close()


def price_of_one(world: World, record: Record) -> float:
    """USD per hour of one machine with its disk."""
    client = Client(799, world.replicas, record, key=world.replicas.key, project="default")
    request = pb.ReserveGPUsRequest(count=1, max_price=5, verified_only=False, dry_run=True)
    answer = client.ask("ReserveGPUs", request)
    client.close()
    return float(answer.price_per_hour)


def release_all(client: Client) -> None:
    """Release every reservation of the client's project that is not over. An admin's are all."""
    token, ids = "", []
    while True:
        request = pb.ListReservationsRequest(page_size=200, page_token=token)
        page = client.ask("ListReservations", request)
        ids += [one.reservation_id for one in page.reservations if one.state not in ("released", "failed")]
        token = page.next_page_token
        if not token:
            break
    for reservation_id in ids:
        client.ask("ReleaseReservation", pb.ReleaseReservationRequest(reservation_id=reservation_id))
