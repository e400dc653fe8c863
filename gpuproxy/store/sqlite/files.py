"""Where a database is, and the files of ours beside it: the same ones, whatever name the database is reached by.

SQLite resolves symbolic links before it names its own files (`-wal`, `-shm`). Ours follow the same rule.
"""

import os
from pathlib import Path

ENDS = ("", "-wal", "-shm", "-journal", ".lock", ".ballast", ".admin-key", ".demand-key", ".sandbox")
"""What the names of a database and of all files beside it end with."""


def real(database: Path) -> Path:
    """The absolute path of the file itself, without symbolic links; it need not exist."""
    return Path(os.path.realpath(database))


def beside(database: Path, end: str) -> Path:
    """The file of a database whose name ends with `end`, beside the real file."""
    return Path(f"{real(database)}{end}")


def kept_beside(database: Path, end: str) -> Path:
    """As `beside`, for a file that must be found again: one that exists beside a symbolic link is used.

    Earlier versions made it there. A database that is no link keeps its name as it is written, also a relative one.
    """
    named = Path(f"{database}{end}")
    return beside(database, end) if database.is_symlink() and not os.path.lexists(named) else named


def all_of(database: Path) -> frozenset[Path]:
    """Resolved paths of the database and of every file that may be beside it, under each name."""
    return frozenset(real(Path(f"{name}{end}")) for name in (database, real(database)) for end in ENDS)
