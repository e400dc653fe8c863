"""Connections to PostgreSQL, and what a server must be so that its commits last.

No connection has a state of its own that outlives a transaction: no SET, no prepared statement, no session lock. So a
connection may lead through PgBouncer in transaction mode. Parameters are merged into the statement by the driver, as
quoted literals: a statement is one round trip, and the server infers the types as in the text of a statement.

A server that holds its socket open and says nothing (a stopped process, a proxy that forwards nothing) is noticed here,
because the kernel at the other end still acknowledges what is sent: see `LimitedConnection`.
"""

from collections.abc import Mapping
from time import monotonic
from typing import Any, TypeVar

import psycopg
from psycopg import ClientCursor
from psycopg.abc import PQGen
from psycopg.adapt import Dumper, Loader
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row

from gpuproxy.store.postgres.errors import Unique

Connection = psycopg.Connection[dict[str, Any]]
T = TypeVar("T")

SILENT_AFTER = 35.0
"""Seconds without a byte of an answer, after which a connection counts as broken. PostgreSQL ends a statement after 30
seconds by itself (`commits.LIMITS`), so only a server that can't do that is silent for longer."""
_OLDEST = 140_000
_DEFAULTS = {
    "application_name": "gpuproxy",
    "client_encoding": "utf8",
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
    "target_session_attrs": "read-write",
}
"""Of several hosts the one that can be written is used, and one that is gone is noticed after about ten seconds. One
that is only silent is noticed by `LimitedConnection`."""
_STATE = """SELECT current_setting('synchronous_commit') AS synchronous, current_setting('fsync') AS fsync,
    current_setting('synchronous_standby_names') AS standbys, current_setting('server_encoding') AS encoding,
    current_setting('server_version_num')::int AS version, pg_is_in_recovery() AS standby"""


class UnusableServer(Exception):
    """The server can't hold our database, or could lose commits. The text is for the operator, without secrets."""


class Silent(psycopg.OperationalError):
    """The server has not answered for too long. The connection is closed; what became of the statement is open."""


class LimitedConnection(Connection):
    """A connection that never waits for a silent server for longer than `limit`. It is closed then."""

    limit = SILENT_AFTER
    """Seconds."""

    def wait(self, gen: PQGen[T], *args: Any, **kwargs: Any) -> T:
        """As psycopg's, which all answers are waited for with. Raises Silent."""
        try:
            return super().wait(_limited(gen, self.limit), *args, **kwargs)
        except Silent:
            self.close()
            raise


def _limited(gen: PQGen[T], seconds: float) -> PQGen[T]:
    """The same steps of waiting. psycopg comes back ten times a second even if nothing was received."""
    try:
        wanted, until = next(gen), monotonic() + seconds
        while True:
            ready = yield wanted
            if ready:
                until = monotonic() + seconds
            elif monotonic() >= until:
                raise Silent(f"the database has not answered for {seconds:g} seconds")
            wanted = gen.send(ready)
    except StopIteration as end:
        result: T = end.value
        return result


class _TextDumper(Dumper):
    """A text without the character 0, which PostgreSQL has no place for: what it stands in is still stored."""

    def dump(self, obj: str) -> bytes:
        return str(obj).replace("\x00", "\ufffd").encode()

    def quote(self, obj: str) -> bytes:
        return psycopg.pq.Escaping(self.connection.pgconn if self.connection else None).escape_literal(self.dump(obj))


class _FlagDumper(Dumper):
    """A flag is a number, as in SQLite."""

    def dump(self, obj: bool) -> bytes:
        return b"1" if obj else b"0"

    def quote(self, obj: bool) -> bytes:
        return self.dump(obj)


class _FlagLoader(Loader):
    def load(self, data: Any) -> int:
        return int(bytes(data) == b"t")


class _NumberLoader(Loader):
    """A sum of whole numbers is whole; the port knows no decimals."""

    def load(self, data: Any) -> int | float:
        text = bytes(data).decode()
        return int(text) if text.lstrip("-").isdigit() else float(text)


def conninfo(url: str) -> str:
    """The parameters of a connection. Those of the URL come before our own."""
    given: Mapping[str, Any] = conninfo_to_dict(url)
    return make_conninfo("", **{**_DEFAULTS, **given})


def connect(url: str) -> Connection:
    """A new connection, each statement its own transaction unless one is begun. Raises psycopg.Error."""
    return prepared(LimitedConnection.connect(conninfo(url), autocommit=True, row_factory=dict_row))


def prepared(connection: Connection) -> Connection:
    """The connection with our conversions. Nothing is sent."""
    connection.prepare_threshold = None
    connection.cursor_factory = ClientCursor
    adapters = connection.adapters
    adapters.register_dumper(str, _TextDumper)
    adapters.register_dumper(bool, _FlagDumper)
    adapters.register_loader("bool", _FlagLoader)
    adapters.register_loader("numeric", _NumberLoader)
    return connection


def require_sound(connection: Connection, *, unsafe: bool) -> None:
    """Raise UnusableServer unless commits on this server last. `unsafe`: a commit may be lost when it crashes."""
    found = connection.execute(_STATE).fetchone()
    if found is None or found["standby"]:
        raise UnusableServer(
            "it is a standby, which can only be read. Name the primary, or all hosts: with several hosts in the URL, "
            "the one that can be written is used"
        )
    if found["version"] < _OLDEST:
        raise UnusableServer(f"its version is {found['version'] // 10_000}; PostgreSQL 14 is the oldest that works")
    if found["encoding"] != "UTF8":
        raise UnusableServer(f"its encoding is {found['encoding']}; create the database with ENCODING 'UTF8'")
    if not unsafe:
        require_durable(found)


def require_durable(found: Mapping[str, Any]) -> None:
    """Raise UnusableServer for settings (fsync, synchronous, standbys) by which an answered commit can be lost."""
    lost = "a commit that was answered can be lost, and with it the knowledge of a machine that is paid for"
    remedy = "To accept the risk, set GPUPROXY_ALLOW_UNSAFE_POSTGRES=true"
    if found["fsync"] != "on":
        raise UnusableServer(f"fsync is off, so {lost}. Set fsync = on. {remedy}")
    if found["synchronous"] == "off":
        raise UnusableServer(f"synchronous_commit is off, so {lost}. Set synchronous_commit = on. {remedy}")
    if found["synchronous"] == "local" and found["standbys"]:
        raise UnusableServer(
            f"synchronous_commit is local, so after a failover {lost}. Set synchronous_commit = on. {remedy}"
        )


def unique_keys(connection: Connection) -> Unique:
    """The unique indexes of the database."""
    rows = connection.execute(
        "SELECT i.relname AS index, t.relname AS table, array_to_string(ARRAY("
        "SELECT a.attname FROM unnest(x.indkey) WITH ORDINALITY AS k (number, place) "
        "JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.number ORDER BY k.place), ',') AS columns "
        "FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid "
        "WHERE x.indisunique AND t.relnamespace = current_schema()::regnamespace"
    ).fetchall()
    return {row["index"]: (row["table"], tuple(row["columns"].split(","))) for row in rows}
