"""Watchers: each follows a reservation from server to server, always with the last resume token.

However often a stream breaks, a watcher must get every change once and in order. That is judged at the end against the
events in the database.
"""

import random
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import grpc

from gpuproxy.v1 import gpuproxy_pb2 as pb
from scripts.cluster.callers import SERVERS, Shared
from scripts.cluster.calls import MAYBE, Record, reason_of
from scripts.cluster.postgres import Cluster
from scripts.cluster.promises import rows
from scripts.cluster.servers import Replicas

_STREAMS = (0.3, 1.0, 3.0)
"""Real seconds after which a watcher leaves a server for another one."""
_WATCH = 20.0
"""Real seconds for which a reservation is followed."""


@dataclass
class Watch:
    """What one watcher got of one reservation."""

    reservation_id: str
    tokens: list[int] = field(default_factory=list)
    """The sequence number of the snapshot, then one of each change."""
    streams: int = 0
    over: bool = False


class Watcher:
    """A thread that follows one reservation after another."""

    def __init__(self, replicas: Replicas, record: Record, shared: Shared, seed: int) -> None:
        self.done: list[Watch] = []
        self._stubs = replicas.stubs()
        self._metadata = (("x-api-key", replicas.key),)
        self._record = record
        self._shared = shared
        self._dice = random.Random(seed)

    def act(self) -> None:
        """Follow one reservation that is open, until it is over or for some seconds."""
        with self._shared.lock:
            known = list(self._shared.open.values())
        if not known:
            return
        watch, until = Watch(self._dice.choice(known)), time.monotonic() + _WATCH
        self.done.append(watch)
        while not watch.over and time.monotonic() < until:
            self._follow(watch)

    def _follow(self, watch: Watch) -> None:
        """One stream, at any of the servers."""
        request = pb.WatchReservationRequest(reservation_id=watch.reservation_id)
        if watch.tokens:
            request.resume_token = str(watch.tokens[-1])
        stub, seconds = self._stubs.all[self._dice.randrange(SERVERS)], self._dice.choice(_STREAMS)
        watch.streams += 1
        try:
            for answer in stub.WatchReservation(request, metadata=self._metadata, timeout=seconds):
                watch.tokens.append(int(answer.resume_token))
            watch.over = True
        except grpc.RpcError as error:
            if error.code() not in MAYBE:
                self._record.complain(f"watch of {watch.reservation_id}: {error.code().name} {error.details()}")
                watch.over = True
            elif reason_of(error):  # the server or its database is away
                time.sleep(0.2)

    def close(self) -> None:
        """Close the channels."""
        self._stubs.close()


def of_watches(cluster: Cluster, watches: Iterable[Watch]) -> tuple[str, list[str]]:
    """Each watcher got every change between its first and its last one, once and in order."""
    stored: defaultdict[str, list[int]] = defaultdict(list)
    for row in rows(cluster, "SELECT reservation_id, seq FROM events ORDER BY seq"):
        stored[row["reservation_id"]].append(row["seq"])
    begun = [watch for watch in watches if watch.tokens]
    wrong = []
    for watch in begun:
        first, last = watch.tokens[0], watch.tokens[-1]
        expected = [seq for seq in stored[watch.reservation_id] if first <= seq <= last]
        if watch.tokens != expected:
            wrong.append(f"a watcher of {watch.reservation_id} got {watch.tokens}, and the events are {expected}")
    changes = sum(len(watch.tokens) - 1 for watch in begun)
    streams = sum(watch.streams for watch in begun)
    over = sum(watch.over for watch in begun)
    figures = f"{len(begun)} reservations over {streams} streams, {over} to their end: {changes} changes"
    return f"{figures}, {len(wrong)} wrong", wrong
