"""The path of a database and of our files beside it. They are the same for every symbolic link to the database.

SQLite resolves symbolic links before it names its own files (`-wal`, `-shm`). Our files follow the same rule.
"""

import os
from pathlib import Path

ENDS = ("", "-wal", "-shm", "-journal", ".lock", ".ballast", ".admin-key", ".demand-key", ".secrets-key", ".sandbox")
"""The suffixes of the database ("") and of all files beside it."""


def real(database: Path) -> Path:
    """The absolute path of the file without symbolic links; the file doesn't have to exist."""
    return Path(os.path.realpath(database))


def beside(database: Path, end: str) -> Path:
    """The file with the suffix `end` beside the real database file."""
    return Path(f"{real(database)}{end}")


def kept_beside(database: Path, end: str) -> Path:
    """Like `beside`, but a file that exists beside the symbolic link is used, because earlier versions put it there.

    If the database isn't a link, the path keeps its form, also a relative one.
    """
    named = Path(f"{database}{end}")
    return beside(database, end) if database.is_symlink() and not os.path.lexists(named) else named


def all_of(database: Path) -> frozenset[Path]:
    """The resolved paths of the database and of all files that may be beside it, for the link and the real file."""
    return frozenset(real(Path(f"{name}{end}")) for name in (database, real(database)) for end in ENDS)
