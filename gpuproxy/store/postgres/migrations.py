"""The database schema of PostgreSQL as numbered migrations. A published migration never changes; new ones are appended.

Each migration is a transaction of its own under the writers' lock, so that servers of the version before go on between
two of them. The numbers are PostgreSQL's own: migration 1 is what SQLite has after its migration 20. Whoever appends a
migration to one database appends it to the other; a test compares the schemas.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gpuproxy.store.postgres import schema, triggers
from gpuproxy.store.postgres.commits import BEGIN
from gpuproxy.store.postgres.connecting import Connection, UnusableServer

TABLE = "gpuproxy_migrations"


@dataclass(frozen=True, slots=True)
class Migration:
    """Statements that are executed together, once."""

    name: str
    statements: Sequence[str]


def _collated(statements: Sequence[str]) -> list[str]:
    """Texts are ordered by their bytes."""
    return [statement.replace(" TEXT", ' TEXT COLLATE "C"') for statement in statements]


MIGRATIONS = (
    Migration(
        "the books of SQLite's migration 20",
        (
            *_collated((*schema.OWN, *schema.TABLES)),
            *schema.INDEXES,
            *schema.ROWS,
            *triggers.FUNCTIONS,
            *triggers.TRIGGERS,
        ),
    ),
    Migration("plans that are made once", triggers.PLANNED_ONCE),
)


def apply(connection: Connection) -> None:
    """Bring the database up to date. Raises UnusableServer if it is not ours, or of a later version."""
    if _done(connection) == len(MIGRATIONS):
        return
    for number, migration in enumerate(MIGRATIONS, start=1):
        connection.execute(BEGIN)
        try:
            done = _done(connection)
            if done < number:
                if done == 0:
                    _require_empty(connection)
                    connection.execute(
                        f"CREATE TABLE IF NOT EXISTS {TABLE} (number INTEGER PRIMARY KEY, name TEXT NOT NULL, "
                        "applied_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp())"
                    )
                connection.execute(";".join(migration.statements))
                connection.execute(
                    f"INSERT INTO {TABLE} (number, name) VALUES (%s, %s)",  # noqa: S608 - our own word
                    (number, migration.name),
                )
        except BaseException:
            connection.rollback()
            raise
        connection.execute("COMMIT")


def require_current(connection: Connection) -> None:
    """Raise UnusableServer unless the schema is that of this version."""
    if _done(connection) != len(MIGRATIONS):
        raise UnusableServer("its schema is of another version; start the server of this version once")


def _done(connection: Connection) -> int:
    """The number of the last migration; 0 before the first."""
    found = connection.execute(f"SELECT to_regclass('{TABLE}') IS NOT NULL AS ours").fetchone()
    if found is None or not found["ours"]:
        return 0
    row = connection.execute(f"SELECT coalesce(max(number), 0) AS last FROM {TABLE}").fetchone()  # noqa: S608
    last = 0 if row is None else int(row["last"])
    if last > len(MIGRATIONS):
        raise UnusableServer("its schema is of a later version of GPU Proxy; use that version")
    return last


def _require_empty(connection: Connection) -> None:
    """Raise UnusableServer for another program's database."""
    found = connection.execute(
        "SELECT 1 FROM pg_class WHERE relkind IN ('r', 'v', 'p') AND relnamespace = current_schema()::regnamespace"
    ).fetchone()
    if found is not None:
        raise UnusableServer("it is the database of another program; choose another database")
