"""A unit of work on PostgreSQL: its statements go in as few messages as its queries allow.

What nobody waits for is kept: the beginning of the transaction, statements without a result (`write`), queries that
will be made (`ahead`). It goes with the next query, in one message and in this order, so each statement still finds
what those before it have done. What is left at the end of a unit goes with the COMMIT.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from gpuproxy.store.postgres import commits, errors
from gpuproxy.store.postgres.connecting import Connection
from gpuproxy.store.postgres.errors import Unique
from gpuproxy.store.postgres.statements import changed_table, read_tables, statement
from gpuproxy.store.postgres.triggers import KEPT
from gpuproxy.store.rows import moment
from gpuproxy.store.units import UnitTx

_MOST = 500
"""Statements that are kept. More go in a message of their own."""
_Result = tuple[int, list[Mapping[str, Any]]]


@dataclass(slots=True)
class _Query:
    """A query that will be made."""

    text: bytes
    tables: frozenset[str]
    rows: list[Mapping[str, Any]] | None = None
    """None until it is read."""


class PostgresTx(UnitTx):
    """The Tx port: one unit of work on one connection."""

    def __init__(
        self,
        connection: Connection,
        unique: Unique,
        begin: Sequence[bytes],
        *,
        clock: Callable[[], datetime] | None,
        scaled: Callable[[datetime], datetime],
        no_space_until: datetime | None = None,
        whole: bool = True,
    ) -> None:
        """`begin` is sent before the unit's first statement. `clock`: the time instead of the database's.

        `no_space_until`: until when nothing may be paid for. `whole`: nothing is left for the COMMIT's message.
        """
        super().__init__()
        self.at: datetime | None = None if clock is None else clock()
        """The time of the unit before it is scaled; None until the database has told it."""
        self.begun = False
        """Whether `begin` was executed."""
        self._connection = connection
        self._unique = unique
        self._begin = begin
        self._scaled = scaled
        self._no_space_until = no_space_until
        self._whole = whole
        self._writes: list[tuple[bytes, Exception | None]] = []
        self._queries: dict[tuple[str, tuple[Any, ...]], _Query] = {}

    def write(self, sql: str, params: Sequence[Any] = (), *, otherwise: Exception | None = None) -> None:
        """As the port: the statement is sent with the next query."""
        self._require_whole()
        self._writes.append((self._statement(sql, params), otherwise))
        self._changes(sql)
        if len(self._writes) >= _MOST:
            self._exchange()

    def ahead(self, sql: str, params: Sequence[Any] = ()) -> None:
        """As the port: the query is sent with the next one."""
        key = (sql, tuple(params))
        if self.failure is None and key not in self._queries:
            tables = read_tables(sql)
            if tables & KEPT:
                raise ValueError("triggers change this table: what was read ahead could be old")
            self._queries[key] = _Query(self._statement(sql, params), tables)

    def finish(self) -> None:
        """Send what is left, unless it goes with the COMMIT."""
        if self._whole and self._writes:
            self._exchange()

    def start(self) -> None:
        """Send what was kept, and learn the time. Raises psycopg.Error."""
        self._sent(None)

    def unsent(self) -> list[bytes]:
        """What is left for the COMMIT's message. A write that was to change a row, and does not, fails there."""
        writes = (text if otherwise is None else _or_fail(text) for text, otherwise in self._writes)
        return [*(() if self.begun else self._begin), *writes]

    def before_spending(self) -> None:
        """Raise DiskFull for ten seconds after a write failed because the database's disk is full."""
        if self._no_space_until is not None:
            self.now()
            if self.at is None or self.at < self._no_space_until:
                raise errors.disk_full()

    def _time(self) -> datetime:
        if self.at is None:
            self._exchange()
        if self.at is None:
            raise psycopg.InterfaceError("the database did not tell its time")
        return self._scaled(self.at)

    def _run(self, sql: str, params: Sequence[Any], *, rows: bool = False) -> _Result:
        self._require_whole()
        if rows and self._queries and (known := self._queries.get((sql, tuple(params)))) is not None:
            if known.rows is None:
                self._exchange()
            found = known.rows or []
            return len(found), found
        result = self._exchange(self._statement(sql, params))
        if not rows:
            self._changes(sql)
        return result

    def _changes(self, sql: str) -> None:
        """Forget what was read ahead of a table that is changed now."""
        if self._queries:
            table = changed_table(sql)
            for key, query in [*self._queries.items()]:
                if query.rows is not None and (not table or table in query.tables):
                    del self._queries[key]

    def _statement(self, sql: str, params: Sequence[Any]) -> bytes:
        try:
            return statement(sql, params)
        except psycopg.Error as error:
            self.failure = errors.of_statement(error, self._unique)
            raise self.failure from error

    def _exchange(self, text: bytes | None = None) -> _Result:
        """Send what was kept and this statement. Raises the errors of the port, of any of them."""
        try:
            return self._sent(text)
        except psycopg.Error as error:
            self.failure = errors.of_statement(error, self._unique)
            raise self.failure from error

    def _sent(self, text: bytes | None) -> _Result:
        begin, writes = [] if self.begun else self._begin, self._writes
        asked = [query for query in self._queries.values() if query.rows is None]
        time = [commits.NOW.encode()] if self.at is None else []
        message = [*begin, *time, *(each for each, _ in writes), *(query.text for query in asked)]
        if text is not None:
            message.append(text)
        if not message:
            return 0, []
        results = commits.exchanged(self._connection, message)
        self.begun, self._writes = True, []
        answer = results.pop() if text is not None else (0, [])
        for query in reversed(asked):
            query.rows = results.pop()[1]
        unchanged = [otherwise for _, otherwise in reversed(writes) if results.pop()[0] == 0 and otherwise is not None]
        if time:
            self.at = moment(results.pop()[1][0]["now"])
        if unchanged:
            self.failure = unchanged[-1]
            raise self.failure
        return answer


def _or_fail(text: bytes) -> bytes:
    """A statement that changes no row divides by zero. Its unit is then run again to find out which one it was."""
    return b"WITH changed AS (" + text + b" RETURNING 1) SELECT 1 / count(*) FROM changed"
