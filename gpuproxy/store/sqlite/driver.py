"""The SQLite driver: the module that sqlite-utils uses, and whether its SQLite library has a known fault.

If pysqlite3 is installed, sqlite-utils uses it; it contains its own SQLite. Otherwise it uses Python's sqlite3. The two
have different exception classes, so all code that opens a database or catches its errors imports `sqlite3` from here.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3  # noqa: TID251 - pysqlite3 has the same interface, and no types
else:
    from sqlite_utils.utils import sqlite3

__all__ = ["VERSION", "is_vulnerable", "sqlite3"]

VERSION: tuple[int, int, int] = sqlite3.sqlite_version_info
"""The version of the SQLite library, not of the Python module."""

_FIRST_WITH_WAL = (3, 7, 0)
_FIXED = (3, 51, 3)
_FIXED_BRANCHES = ((3, 50, 7), (3, 44, 6))


def is_vulnerable(version: tuple[int, int, int]) -> bool:
    """True for a library with the WAL-reset fault: a commit during another connection's checkpoint can be lost.

    SQLite has the fault since 3.7.0, which introduced WAL. It is fixed in 3.51.3, and in 3.50.7 and 3.44.6 for two
    older branches.
    """
    if not _FIRST_WITH_WAL <= version < _FIXED:
        return False
    return not any(version[:2] == fixed[:2] and version >= fixed for fixed in _FIXED_BRANCHES)
