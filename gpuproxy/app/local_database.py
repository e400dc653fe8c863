"""The database, opened by a single command. The server may be running or not.

A command that needs an existing database never creates one: in a wrong directory it would find no problems.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from gpuproxy.app.opening import OpenDatabase, open_database
from gpuproxy.config.environment import ConfigError
from gpuproxy.config.settings import Settings
from gpuproxy.model.errors import StatementRefused, Unavailable
from gpuproxy.store.sqlite.database import SqliteDatabase

T = TypeVar("T")


def with_database(
    settings: Settings, work: Callable[[OpenDatabase], Awaitable[T]], *, alone: bool = False, may_create: bool = False
) -> T:
    """Run `work` on the database and return its result.

    `alone`: refuse while a server uses the database. `may_create`: create the database if there is none.
    Raises ConfigError if there is no database and it may not be created, or if it can't be read or written.
    """

    async def run() -> T:
        async with open_database(settings, alone=alone, may_create=may_create) as db:
            if alone and not isinstance(db, SqliteDatabase) and await db.others():
                raise ConfigError(f"{settings.database_name} is in use by a GPU Proxy server. Stop all servers first.")
            return await work(db)

    if not may_create:
        check_exists(settings)
    try:
        return asyncio.run(run())
    except (Unavailable, StatementRefused) as error:
        reason = error.__cause__ or error
        raise ConfigError(f"{settings.database_name}: {reason}; nothing was changed.") from error


def check_exists(settings: Settings) -> None:
    """Raise ConfigError if there is no database file. Whether PostgreSQL has the database shows when it is opened."""
    if not settings.on_postgres and not settings.database_path.is_file():
        raise ConfigError(
            f"There is no database at {settings.database_path.absolute()}. Set GPUPROXY_DATABASE_URL, or run this in "
            "the database's directory."
        )
