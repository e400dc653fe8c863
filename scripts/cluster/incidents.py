"""The incidents: what happens to the servers, to the database, to the network and to the market.

An incident ends before the next one begins; some are drawn together and happen at once. Those that change the
database's topology exclude each other. A server that was killed is started again by its keeper.
"""

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

import psycopg

from scripts.cluster.calls import Record
from scripts.cluster.postgres import Cluster
from scripts.cluster.servers import Replica
from tests.system.processes import Market

_BETWEEN = 1.0
_TOGETHER = 0.3
_FAULTS = (
    ("create", ("hang_after", "reset_after", "reset_before", "status_500_after", "status_500_before", "refused_200",
                "malformed_json", "rate_limited", "no_capacity", "offer_gone")),
    ("list", ("malformed_json", "empty_list", "missing_page", "status_500_before", "hang_before", "rate_limited")),
    ("destroy", ("status_500_after", "status_500_before", "reset_after", "destroy_ignored", "rate_limited")),
    ("any", ("refuse_connection", "status_500_before", "reset_before")),
)  # fmt: skip


class Incidents:
    """Draws incidents and lets them happen."""

    def __init__(
        self, cluster: Cluster, replicas: Sequence[Replica], market: Market, record: Record, *, seed: int, scale: float
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.terminated = 0
        """Backends that were ended at their COMMIT."""
        self.failures: list[str] = []
        self._cluster = cluster
        self._replicas = replicas
        self._market = market
        self._record = record
        self._dice = random.Random(seed)
        self._scale = scale
        self._topology = threading.Lock()
        self._kinds: Sequence[tuple[str, int, Callable[[random.Random], None]]] = (
            ("server killed", 5, self._kill),
            ("server paused", 5, self._pause),
            ("connections cut", 4, self._cut),
            ("backend terminated at COMMIT", 4, self._terminate),
            ("database failed over", 3, self._fail_over),
            ("database restarted", 1, self._restart),
            ("replication stalled", 2, self._stall),
            ("market failing", 4, self._market_fails),
        )

    def happen(self, most: int) -> int:
        """Let one incident happen, or several at once but at most `most`. Returns their number."""
        time.sleep(self._dice.random() * 2 * _BETWEEN)
        number = min(most, self._dice.choice((2, 2, 3)) if self._dice.random() < _TOGETHER else 1)
        weights = [weight for _, weight, _ in self._kinds]
        threads = []
        for name, _, incident in self._dice.choices(self._kinds, weights, k=number):
            dice = random.Random(self._dice.getrandbits(64))
            threads.append(threading.Thread(target=self._run, args=(name, incident, dice)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return number

    def _run(self, name: str, incident: Callable[[random.Random], None], dice: random.Random) -> None:
        self.counts[name] += 1
        try:
            incident(dice)
        except Exception as error:  # noqa: BLE001 - the run ends with it, after the other incidents
            self.failures.append(f"{name}: {error!r}")

    def _market_seconds(self, dice: random.Random, least: float, most: float) -> float:
        """Real seconds that are so many of the market, with short times as likely as long ones."""
        return float(least * (most / least) ** dice.random()) / self._scale

    def _kill(self, dice: random.Random) -> None:
        dice.choice(self._replicas).kill()

    def _pause(self, dice: random.Random) -> None:
        replica = dice.choice(self._replicas)
        replica.signal(signal.SIGSTOP)
        try:
            time.sleep(self._market_seconds(dice, 1, 60))
        finally:
            replica.signal(signal.SIGCONT)

    def _cut(self, dice: random.Random) -> None:
        """Cut all connections of a server; sometimes it can't reach the database or the market for a while."""
        replica = dice.choice(self._replicas)
        replica.to_database.cut()
        replica.to_market.cut()
        if dice.random() < 0.5:
            away = dice.choice((replica.to_database, replica.to_market))
            away.stall()
            try:
                time.sleep(self._market_seconds(dice, 1, 60))
            finally:
                away.flow()

    def _terminate(self, dice: random.Random) -> None:
        """End up to three backends while they run COMMIT."""
        with suppressed_connection(self._cluster) as connection:
            limit = time.monotonic() + 6
            left = dice.choice((1, 2, 3))
            which = dice.choice((_TERMINATE, _TERMINATE_WAITING))
            while left and time.monotonic() < limit and connection is not None:
                try:
                    rows = connection.execute(which).fetchall()
                except psycopg.Error:
                    return
                left -= len(rows)
                self.terminated += len(rows)
                time.sleep(0.001)

    def _fail_over(self, dice: random.Random) -> None:
        with self._topology:
            how = dice.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGINT))
            for replica in self._replicas:
                replica.to_database.cut(refuse=True)
            self._cluster.fail_over(how)
            for replica in self._replicas:
                replica.to_database.point_to(self._cluster.primary.port)
            self._cluster.add_standby()

    def _restart(self, dice: random.Random) -> None:
        with self._topology:
            self._cluster.restart(dice.choice((signal.SIGKILL, signal.SIGINT)))
            self._cluster.wait_until_synchronous()

    def _stall(self, dice: random.Random) -> None:
        """No commit reaches the standby. Backends may be ended while they wait, and the primary may be lost."""
        with self._topology:
            self._cluster.stall_replication()
            try:
                if dice.random() < 0.5:
                    self._terminate(dice)
                time.sleep(self._market_seconds(dice, 1, 30))
                lost = dice.random() < 0.5
                if lost:
                    for replica in self._replicas:
                        replica.to_database.cut(refuse=True)
                    self._cluster.lose_primary()
            finally:
                self._cluster.resume_replication()
            if lost:
                self._cluster.fail_over(signal.SIGKILL)
                for replica in self._replicas:
                    replica.to_database.point_to(self._cluster.primary.port)
                self._cluster.add_standby()
            self._cluster.wait_until_synchronous()

    def _market_fails(self, dice: random.Random) -> None:
        call, faults = dice.choice(_FAULTS)
        fault = dice.choice(faults)
        seconds = {"seconds": dice.choice((0.5, 2.0, 5.0))} if fault.startswith("hang") else {}
        self._market.arm(call, fault, times=dice.choice((1, 1, 2, 4)), after=dice.choice((0, 0, 1)), **seconds)
        time.sleep(self._market_seconds(dice, 1, 30))


_TERMINATE = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name LIKE 'server%' AND state = 'active' AND query LIKE '%COMMIT' LIMIT 1"""
_TERMINATE_WAITING = _TERMINATE.replace(" LIMIT 1", " AND wait_event = 'SyncRep' LIMIT 1")
"""The commit is on the primary's disk, and not yet on the standby's."""


class suppressed_connection:  # noqa: N801 - it is used like a function
    """A connection to the primary, or None if there can't be one now."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None

    def __enter__(self) -> "psycopg.Connection[tuple[object, ...]] | None":
        try:
            self._connection = self._cluster.primary.connect()
        except psycopg.Error:
            self._connection = None
        return self._connection

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()
