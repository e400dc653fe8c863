"""Tells the watchers of this process what other servers have changed, and other servers that this one runs.

A notification is only a hint that `changes` should be read. It is read once a second in any case, so a notification
that is lost costs a second. Behind a pooler that swaps connections nothing is listened to, and only the second counts.
"""

import threading
from collections.abc import Callable, Sequence
from time import monotonic

import psycopg
import structlog

from gpuproxy.store.postgres import commits
from gpuproxy.store.postgres.connecting import Connection, UnusableServer

log = structlog.get_logger(__name__)

POLL = 1.0
"""Seconds."""
_OWN = 20
"""Notifications of this process that are passed over: what it has changed it knows, and reads only now and then."""
_MOST = 1000
"""Changes that are read at once. After more, all watchers are woken."""


def last_change(connection: Connection) -> int:
    """The number of the newest change; 0 if there is none."""
    row = connection.execute("SELECT coalesce(max(seq), 0) AS last FROM changes").fetchone()
    return 0 if row is None else int(row["last"])


class Listener:
    """A thread with a connection of its own."""

    def __init__(
        self,
        connect: Callable[[], Connection],
        own: str,
        wake: Callable[[Sequence[str] | None], None],
        *,
        seen: int,
        poll: float = POLL,
    ) -> None:
        """`seen` is the last change before the first watcher came.

        `wake` is called from the thread with the topics that others than the writer `own` changed; None: all.
        """
        self._connect = connect
        self._own = own
        self._wake = wake
        self._poll = poll
        self._seen = seen
        self._alive_until = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpuproxy-listener", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self) -> None:
        """Ask the thread to end; it does so within a second."""
        self._ended.set()

    def join(self) -> None:
        """Wait for the end of the thread."""
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._follow()
            except (psycopg.Error, UnusableServer) as error:
                log.warning("database_listening_failed", error=type(error).__name__)
                self._ended.wait(self._poll)

    def _follow(self) -> None:
        with self._connect() as connection:
            self._say_alive(connection)
            row = connection.execute("SELECT pg_backend_pid() AS pid").fetchone()
            pooled = row is None or row["pid"] != connection.info.backend_pid  # a pooler gives a number of its own
            if not pooled:
                connection.execute(f"LISTEN {commits.CHANNEL}")
            if (last := last_change(connection)) < self._seen:  # another server, which lacks the last changes
                self._seen = last
                self._wake(None)
            self._read(connection)
            while not self._ended.is_set():
                if pooled:
                    self._ended.wait(self._poll)
                else:
                    self._listen(connection)
                if monotonic() >= self._alive_until:
                    self._say_alive(connection)
                self._read(connection)
            commits.say_alive(connection, self._own, alive=False)

    def _listen(self, connection: Connection) -> None:
        """Return when another server has changed something, or after a while."""
        until, own = monotonic() + self._poll, 0
        while (left := until - monotonic()) > 0 and own < _OWN and not self._ended.is_set():
            for heard in connection.notifies(timeout=min(left, POLL), stop_after=1):
                if heard.payload != self._own:
                    return
                own += 1

    def _say_alive(self, connection: Connection) -> None:
        commits.say_alive(connection, self._own)
        self._alive_until = monotonic() + commits.ALIVE_EVERY

    def _read(self, connection: Connection) -> None:
        rows = connection.execute(
            "SELECT seq, writer, topic FROM changes WHERE seq >= %s ORDER BY seq LIMIT %s", (self._seen, _MOST + 1)
        ).fetchall()
        fresh = [row for row in rows if row["seq"] > self._seen]
        if not fresh:
            return
        lost = self._seen > 0 and rows[0]["seq"] != self._seen
        self._seen = int(fresh[-1]["seq"])
        others = {str(row["topic"]) for row in fresh if row["writer"] != self._own}
        if lost or len(rows) > _MOST:
            self._wake(None)
        elif others:
            self._wake(tuple(others))
