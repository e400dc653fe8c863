"""The load: callers that reserve, repeat calls at other servers, read and release, as long as the run lasts.

Callers of the general project rent what they like. Rounds use a limit up: several callers on all servers take one
machine each until the limit refuses, so that each refusal and each answer is evidence about one counter.
"""

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from gpuproxy.v1 import gpuproxy_pb2 as pb
from scripts.cluster.calls import Call, Client, Record, all_servers
from scripts.cluster.servers import Replicas

SERVERS = 3
QUOTA = 4
"""GPUs that each quota project may use at once."""
_SIZES = (1, 1, 1, 2, 2, 4)
_MOST = 24
_PLAYERS = 6
LEASE = 7200
"""Seconds of the market for which each machine of a budget round is rented."""


@dataclass
class Shared:
    """What the callers of the general project know together."""

    open: dict[str, str] = field(default_factory=dict)
    """Reservations that were answered and not released, by their request ids."""
    lost: list[str] = field(default_factory=list)
    """Request ids of calls whose result is not known."""
    old: list[str] = field(default_factory=list)
    machines: dict[str, frozenset[str]] = field(default_factory=dict)
    """The machines of each answer, by request id."""
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of each request id, the GPUs and the seconds of the lease."""
    lock: threading.Lock = field(default_factory=threading.Lock)


class Roamer:
    """One caller of the general project. `act` does one random thing."""

    def __init__(self, client: Client, shared: Shared, seed: int, helpers: ThreadPoolExecutor) -> None:
        self._client = client
        self._shared = shared
        self._dice = random.Random(seed)
        self._helpers = helpers

    def act(self) -> None:
        """Do one random thing."""
        full = len(self._shared.open) >= _MOST
        acts: Sequence[Callable[[], None]] = (self._reserve, self._repeat, self._read, self._release, self._destroy)
        self._dice.choices(acts, (1 if full else 4, 3, 3, 6 if full else 1, 2 if full else 1))[0]()

    def _reserve(self) -> None:
        dice = self._dice
        request_id = f"g{self._client.number}-{dice.getrandbits(48):x}"
        size = dice.choice(_SIZES)
        lease = dice.choice((0, 0, dice.randrange(600, 3600)))
        with self._shared.lock:
            self._shared.sizes[request_id] = (size, lease)
        copies = dice.choice((1, 1, 2, 3, 6))
        servers = [dice.randrange(SERVERS) for _ in range(copies)]
        self._send(request_id, servers)

    def _repeat(self) -> None:
        dice, shared = self._dice, self._shared
        with shared.lock:
            if shared.lost:
                request_id = shared.lost.pop(dice.randrange(len(shared.lost)))
            elif shared.old:
                request_id = dice.choice(shared.old[-60:])
            else:
                return
        self._send(request_id, [dice.randrange(SERVERS) for _ in range(dice.choice((1, 1, 2)))])

    def _send(self, request_id: str, servers: Sequence[int]) -> None:
        """Send copies of one call at once."""
        size, lease = self._shared.sizes[request_id]
        patience = self._dice.choice((3.0, 30.0, 30.0))

        def send(server: int) -> Call:
            return self._client.reserve(server, request_id, count=size, lease_seconds=lease, patience=patience)

        calls = list(self._helpers.map(send, servers))
        with self._shared.lock:
            answered = [call for call in calls if call.result == "answered"]
            if answered:
                if request_id not in self._shared.old:
                    self._shared.old.append(request_id)
                    self._shared.open[request_id] = answered[0].reservation_id
                    self._shared.machines[request_id] = answered[0].contracts
            elif any(call.result == "unknown" for call in calls):
                self._shared.lost.append(request_id)

    def _read(self) -> None:
        with self._shared.lock:
            known = [*self._shared.old[-60:], *self._shared.lost]
        if known:
            self._client.read(self._dice.randrange(SERVERS), self._dice.choice(known))

    def _taken(self) -> tuple[str, str] | None:
        """An open reservation, which is no longer open."""
        with self._shared.lock:
            if not self._shared.open:
                return None
            request_id = self._dice.choice(list(self._shared.open))
            return request_id, self._shared.open.pop(request_id)

    def _release(self) -> None:
        if (taken := self._taken()) is not None:
            call = self._client.release(self._dice.randrange(SERVERS), *taken)
            if call.result != "answered":
                self._put_back(*taken)

    def _destroy(self) -> None:
        if (taken := self._taken()) is None:
            return
        request_id, reservation_id = taken
        for contract in sorted(self._shared.machines[request_id]):
            self._client.destroy(self._dice.randrange(SERVERS), request_id, contract)
        self._put_back(request_id, reservation_id)

    def _put_back(self, request_id: str, reservation_id: str) -> None:
        with self._shared.lock:
            self._shared.open[request_id] = reservation_id


@dataclass
class Round:
    """One project whose limit was used up."""

    project: str
    kind: str
    """"budget" or "quota"."""
    limit: int
    """Machines that fit."""


class Rounds:
    """Callers of projects with limits, one project after the other."""

    def __init__(self, replicas: Replicas, record: Record, keys: dict[str, str], *, unit: float, seed: int) -> None:
        """`keys`: of unused projects, by project. `unit`: what one machine of a budget round costs, in USD."""
        self.done: list[Round] = []
        self._replicas = replicas
        self._record = record
        self._keys = keys
        self._unit = unit
        self._dice = random.Random(seed)
        self._admin = Client(900, replicas, record, key=replicas.key, project="default")
        self._pool = ThreadPoolExecutor(9, "round")

    def play(self) -> None:
        """Play one round with the next project. Does nothing when none is left."""
        if not self._keys:
            return
        project, key = self._keys.popitem()
        number = 1000 + 10 * len(self.done)
        clients = [
            Client(number + each, self._replicas, self._record, key=key, project=project) for each in range(_PLAYERS)
        ]
        try:
            (self._quota if project.startswith("quota") else self._budget)(project, clients)
            self._release(clients[0])
        finally:
            for client in clients:
                client.close()

    def _budget(self, project: str, clients: Sequence[Client]) -> None:
        fits = self._dice.choice((2, 3, 5))
        self.set_limit(project, fits)
        self.done.append(Round(project, "budget", fits))
        ids = [f"b-{project}-{number}" for number in range(2 * fits + 2)]
        self.take(clients, ids)

    def set_limit(self, project: str, fits: int) -> None:
        """Set a limit that has room for so many machines, and for half of another one."""
        limit = pb.SetSpendingLimitRequest(
            window="24h", limit=(fits + 0.5) * self._unit, project=project, policy="no_new"
        )
        self._admin.ask("SetSpendingLimit", limit)

    def take(self, clients: Sequence[Client], ids: Sequence[str]) -> None:
        """Ask for one machine under each id, on all servers at once, until each id has a certain result."""

        def ask(number: int) -> None:
            dice = random.Random(ids[number])
            client = clients[number % len(clients)]
            for _ in range(40):
                call = client.reserve(dice.randrange(SERVERS), ids[number], lease_seconds=LEASE)
                if call.result != "unknown":
                    return
                time.sleep(0.2)

        list(self._pool.map(ask, range(len(ids))))

    def _quota(self, project: str, clients: Sequence[Client]) -> None:
        self.done.append(Round(project, "quota", QUOTA))

        def take_and_give(client: Client) -> None:
            dice = random.Random(f"{project}/{client.number}")
            for turn in range(3):
                request_id = f"q-{client.number}-{turn}"
                calls = [client.reserve(server, request_id) for server in all_servers(dice, 2)]
                if (had := next((call for call in calls if call.result == "answered"), None)) is not None:
                    self._give(client, dice, had)

        list(self._pool.map(take_and_give, clients))

    def _give(self, client: Client, dice: random.Random, had: Call) -> None:
        """Release a machine and wait until that has been seen."""
        for _ in range(60):
            if client.release(dice.randrange(SERVERS), had.request_id, had.reservation_id).result == "answered":
                break
            time.sleep(0.2)
        for _ in range(30):
            if client.read(dice.randrange(SERVERS), had.request_id).reason == "released":
                return
            time.sleep(0.5)

    def _release(self, client: Client) -> None:
        """Release all reservations of the project."""
        request = pb.ListReservationsRequest(page_size=200)
        found = client.ask("ListReservations", request)
        for one in found.reservations:
            if one.state not in ("released", "failed"):
                client.release(self._dice.randrange(SERVERS), one.request_id, one.reservation_id)

    def close(self) -> None:
        """End the callers."""
        self._pool.shutdown()
        self._admin.close()


class Load:
    """Callers in threads, which can be made to pause."""

    def __init__(self, acts: Sequence[Callable[[], None]], record: Record, *, pause: float) -> None:
        """Each of `acts` runs in a thread of its own, again and again, with about `pause` real seconds between."""
        self.ending = threading.Event()
        self._going = threading.Event()
        self._going.set()
        self._record = record
        self._pause = pause
        self._idle = threading.Semaphore(0)
        self._threads = [threading.Thread(target=self._run, args=(act,), daemon=True) for act in acts]
        for thread in self._threads:
            thread.start()

    @contextmanager
    def paused(self) -> Any:
        """In this block no caller calls."""
        self._going.clear()
        for _ in self._threads:
            self._idle.acquire()
        try:
            yield
        finally:
            self._going.set()

    def end(self) -> None:
        """Wait until all calls have ended."""
        self.ending.set()
        for thread in self._threads:
            thread.join()

    def _run(self, act: Callable[[], None]) -> None:
        dice = random.Random()
        while not self.ending.is_set():
            if not self._going.is_set():
                self._idle.release()
                self._going.wait()
            try:
                act()
            except Exception as error:  # noqa: BLE001 - a caller that ended would be missed by nobody
                self._record.complain(f"a caller failed: {error!r}")
            time.sleep(dice.random() * 2 * self._pause)
