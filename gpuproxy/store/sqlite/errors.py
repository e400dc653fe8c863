"""SQLite's errors as those of the database port. No exception of the driver leaves this package.

The driver's exception is the `__cause__`, for the log.
"""

import re

from gpuproxy.model.errors import Busy, DiskFull, ReadOnly, StatementRefused, Taken, Unavailable
from gpuproxy.model.reasons import Reason
from gpuproxy.store.sqlite.driver import sqlite3

_UNIQUE = re.compile(r"UNIQUE constraint failed: (.+)")
_BUGS = ("SQLITE_ERROR", "SQLITE_MISMATCH", "SQLITE_RANGE", "SQLITE_TOOBIG", "SQLITE_CONSTRAINT")
"""The beginnings of the names of results that a statement or its values cause, and not the state of the database."""
_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED")
_READ_ONLY = ("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH")


def of_statement(error: sqlite3.Error) -> Exception:
    """The error of a statement of a unit of work."""
    if (found := _UNIQUE.fullmatch(str(error))) is not None:
        names = [name.partition(".") for name in found[1].split(", ")]
        return Taken(names[0][0], tuple(column for _, _, column in names))
    wrong = isinstance(error, sqlite3.ProgrammingError) and "closed" not in str(error)  # such as too few parameters
    if wrong or isinstance(error, sqlite3.InterfaceError) or _name(error).startswith(_BUGS):
        return StatementRefused(str(error))
    return unavailable(error)


def unavailable(error: BaseException | None) -> Unavailable:
    """The error of a transaction or of a connection: why the database can't be used now."""
    failure = _unavailable(_name(error))
    failure.__cause__ = error
    return failure


def is_busy(error: sqlite3.Error) -> bool:
    """True if another connection has a lock that the statement needs."""
    return _name(error).startswith(_BUSY)


def _unavailable(name: str) -> Unavailable:
    if name == "SQLITE_FULL":
        return disk_full()
    text = "The server can't use its database at the moment. Nothing was changed. Repeat the call later."
    if name.startswith(_BUSY):
        return Busy(text)
    return ReadOnly(text) if name.startswith(_READ_ONLY) else Unavailable(text, reason=Reason.DATABASE)


def disk_full() -> DiskFull:
    """The error of a write that needs space which the disk does not have."""
    return DiskFull(
        "The server can't write its database because its disk is full. Nothing was changed. Repeat the call later."
    )


def files_changed() -> Unavailable:
    """The refusal to rent while the database's path names other files than the open ones."""
    return Unavailable(
        "The server's database files were removed or replaced while it runs. Nothing was changed. Until the files are "
        "put back, nothing can be rented or started; releases still work.",
        reason=Reason.DATABASE,
    )


def _name(error: BaseException | None) -> str:
    """SQLite's name of the result, such as SQLITE_BUSY_SNAPSHOT; "" if the driver itself raised the error."""
    return str(getattr(error, "sqlite_errorname", None) or "")
