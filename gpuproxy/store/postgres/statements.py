"""Statements with their values in them, as bytes for the wire, so that several of them go in one message.

The driver would merge them too, in five times the time. Values are literals without a type, as in the text of a
statement, and the server infers the types.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from math import isfinite
from typing import Any

import psycopg

from gpuproxy.store.postgres.dialect import pieces

_TARGET = re.compile(r"\s*(?:INSERT INTO|UPDATE|DELETE FROM)\s+(\w+)")
_SOURCES = re.compile(r"\b(?:FROM|JOIN)\s+(\w+)")


def statement(sql: str, params: Sequence[Any] = ()) -> bytes:
    """A statement of the repositories in PostgreSQL's words. Raises psycopg.ProgrammingError for wrong values."""
    parts = pieces(sql)
    if len(parts) != len(params) + 1:
        raise psycopg.ProgrammingError(f"the statement takes {len(parts) - 1} values, not {len(params)}")
    if not params:
        return parts[0].encode()
    merged = [parts[0]]
    for value, part in zip(params, parts[1:], strict=True):
        merged += (literal(value), part)
    return "".join(merged).encode()


def literal(value: Any) -> str:
    """A value as PostgreSQL reads it in a statement. Raises psycopg.ProgrammingError for one without a type there."""
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return _text(str(value))
    if isinstance(value, bool):  # a flag is a number, as in SQLite
        return "1" if value else "0"
    if isinstance(value, int):
        return f" {int(value)}"  # the space: a minus before it and its own would begin a comment
    if isinstance(value, float):
        return f" {value!r}" if isfinite(value) else f"'{value!r}'::float8"
    raise psycopg.ProgrammingError(f"there is no type for a {type(value).__name__}")


def _text(value: str) -> str:
    """A text without the character 0, which PostgreSQL has no place for: what it stands in is still stored."""
    if "\x00" in value:
        value = value.replace("\x00", "\ufffd")
    if "'" in value:
        value = value.replace("'", "''")
    if "\\" in value:  # a plain literal would depend on the server's settings
        return " E'" + value.replace("\\", "\\\\") + "'"
    return f"'{value}'"


@lru_cache(maxsize=2048)
def changed_table(sql: str) -> str:
    """The table that a statement changes; "" for one that is none of INSERT, UPDATE and DELETE."""
    found = _TARGET.match(sql)
    return found[1] if found else ""


@lru_cache(maxsize=2048)
def read_tables(sql: str) -> frozenset[str]:
    """The tables that a query reads."""
    return frozenset(_SOURCES.findall(sql))
