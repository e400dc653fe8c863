"""PostgreSQL's errors as those of the database port. No exception of the driver leaves this package.

The driver's exception is the `__cause__`, for the log. The text never has what the server says: it can have values.
"""

from collections.abc import Mapping

import psycopg
from psycopg import errors as states

from gpuproxy.model.errors import Busy, DiskFull, ReadOnly, StatementRefused, Taken, Unavailable
from gpuproxy.model.reasons import Reason

Unique = Mapping[str, tuple[str, tuple[str, ...]]]
"""The table and the columns of each unique index, by its name."""

_BUGS = (psycopg.IntegrityError, psycopg.DataError, psycopg.ProgrammingError, psycopg.NotSupportedError)
_BUSY = (states.LockNotAvailable, states.QueryCanceled)
_READ_ONLY = (states.ReadOnlySqlTransaction, states.InsufficientPrivilege)
_TEXT = "The server can't use its database at the moment. {} Repeat the call later."
_NOTHING = "Nothing was changed."
_UNKNOWN = "It is not known whether the change was stored."


def of_statement(error: psycopg.Error, unique: Unique) -> Exception:
    """The error of a statement of a unit of work."""
    if isinstance(error, states.UniqueViolation):
        name = error.diag.constraint_name or ""
        return Taken(*unique.get(name, (error.diag.table_name or "", ())))
    if isinstance(error, states.RaiseException):  # by one of our triggers
        return StatementRefused(error.diag.message_primary or "")
    if isinstance(error, _BUGS) and not isinstance(error, _READ_ONLY):
        return StatementRefused(str(error))
    return unavailable(error)


def unavailable(error: BaseException | None) -> Unavailable:
    """The error of a transaction or of a connection: why the database can't be used now. Nothing was written."""
    failure = _unavailable(error)
    failure.__cause__ = error
    return failure


def _unavailable(error: BaseException | None) -> Unavailable:
    text = _TEXT.format(_NOTHING)
    if isinstance(error, states.DiskFull):
        return disk_full()
    if isinstance(error, _BUSY):
        return Busy(text)
    return ReadOnly(text) if isinstance(error, _READ_ONLY) else Unavailable(text, reason=Reason.DATABASE)


def ambiguous(error: BaseException) -> Unavailable:
    """The error of a commit of which nobody could find out whether it was done."""
    failure = Unavailable(_TEXT.format(_UNKNOWN), reason=Reason.DATABASE)
    failure.__cause__ = error
    return failure


def disk_full() -> DiskFull:
    """The error of a write that needs space which the database's disk does not have."""
    return DiskFull(
        "The database can't be written because its disk is full. Nothing was changed. Repeat the call later."
    )


def is_transient(error: BaseException | None) -> bool:
    """True if the transaction was rolled back for a conflict with another one, and may be run again at once."""
    return isinstance(error, psycopg.Error) and (error.sqlstate or "").startswith("40")
