"""The database of this machine, opened by a single command. The server may be running or not.

A command that needs an existing database never creates one: in a wrong directory it would find no problems.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from gpuproxy.app.main import open_database
from gpuproxy.config.settings import ConfigError, Settings
from gpuproxy.model.errors import StatementRefused, Unavailable
from gpuproxy.store.sqlite.database import SqliteDatabase

T = TypeVar("T")


def with_database(
    settings: Settings, work: Callable[[SqliteDatabase], Awaitable[T]], *, alone: bool = False, may_create: bool = False
) -> T:
    """Run `work` on the database and return its result.

    `alone`: refuse while a server uses the database. `may_create`: create the database if there is none.
    Raises ConfigError if there is no database and it may not be created, or if it can't be read or written.
    """

    async def run() -> T:
        async with open_database(settings, alone=alone) as db:
            return await work(db)

    if not may_create:
        check_exists(settings)
    try:
        return asyncio.run(run())
    except (Unavailable, StatementRefused) as error:
        reason = error.__cause__ or error
        raise ConfigError(f"{settings.database_path}: {reason}; nothing was changed.") from error


def check_exists(settings: Settings) -> None:
    """Raise ConfigError if there is no database."""
    if not settings.database_path.is_file():
        raise ConfigError(
            f"There is no database at {settings.database_path.absolute()}. Set GPUPROXY_DATABASE_URL, or run this in "
            "the database's directory."
        )
