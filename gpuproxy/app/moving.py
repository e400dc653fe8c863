"""The command that moves the database from SQLite to PostgreSQL, and the refusal to use a file that was moved."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from gpuproxy.app.opening import open_database
from gpuproxy.config.environment import ConfigError
from gpuproxy.config.settings import Settings
from gpuproxy.model.errors import Unavailable
from gpuproxy.store.sqlite.database import SqliteDatabase

if TYPE_CHECKING:
    from gpuproxy.store.moving import MovedTable


async def migrate(source: Settings, target: Settings) -> "Sequence[MovedTable]":
    """Copy the SQLite database of `source` into the empty PostgreSQL database of `target`, and mark the file as moved.

    Raises ConfigError; then nothing was moved.
    """
    _check(source, target)
    async with open_database(source) as old, open_database(target) as new:
        from psycopg import Error

        from gpuproxy.store import moving
        from gpuproxy.store.postgres.connecting import connect

        if not isinstance(old, SqliteDatabase) or isinstance(new, SqliteDatabase):
            raise TypeError("the databases are of the kinds that were checked")
        if await new.others():
            raise ConfigError(f"{target.database_name} is in use by a GPU Proxy server. Stop all servers first.")
        try:
            with closing(connect(target.database_url)) as connection:
                return moving.move(old.connection, connection, target.database_name)
        except moving.NotMoved as error:
            raise ConfigError(f"{source.database_name} was not moved: {error}.") from error
        except (Error, Unavailable) as error:
            raise ConfigError(
                f"{source.database_name} was not moved, or it is not known: {error}. Run the command again; if it says "
                "that the file was moved and the PostgreSQL database is empty, use --undo first."
            ) from error


async def undo(source: Settings) -> bool:
    """Remove the mark of a file that was moved; False if it has none. Raises ConfigError."""
    from gpuproxy.store import moving

    if source.on_postgres or not source.database_path.is_file():
        raise ConfigError(f"There is no SQLite database at {source.database_name}.")
    async with open_database(source, moved=True) as old:
        return isinstance(old, SqliteDatabase) and moving.unmark(old.connection)


def _check(source: Settings, target: Settings) -> None:
    if source.on_postgres or not target.on_postgres:
        raise ConfigError("Databases are moved from sqlite:/// to postgresql:// only.")
    if not source.database_path.is_file():
        raise ConfigError(f"There is no database at {source.database_path.absolute()}.")


def files_to_copy(source: Settings, target: Settings) -> list[tuple[Path, Path]]:
    """The files with keys beside the SQLite file that exist, and where each server on PostgreSQL looks for its copy."""
    pairs = (
        (source.admin_key_file, target.admin_key_file),
        (source.fingerprint_key_file, target.fingerprint_key_file),
        (source.pool_secrets_key_file, target.pool_secrets_key_file),
    )
    return [(old, new) for old, new in pairs if old.is_file() and old != new]
