"""The books of this machine, opened for one command that works on them itself, beside a running server or without one.

A command that is about existing books never makes new ones: in a wrong directory it would say that all is well.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from gpuproxy.app.main import open_books
from gpuproxy.config.settings import ConfigError, Settings
from gpuproxy.model.errors import Unavailable
from gpuproxy.store.sqlite.database import SqliteDatabase
from gpuproxy.store.sqlite.driver import sqlite3

T = TypeVar("T")


def with_database(
    settings: Settings, work: Callable[[SqliteDatabase], Awaitable[T]], *, alone: bool = False, may_create: bool = False
) -> T:
    """What `work` makes of the books; `alone`: refused while a server runs on them.

    Raises ConfigError where there are none, unless it `may_create` them, and when they can't be read or written.
    """

    async def run() -> T:
        async with open_books(settings, alone=alone) as db:
            return await work(db)

    if not may_create:
        check_exists(settings)
    try:
        return asyncio.run(run())
    except (Unavailable, sqlite3.Error) as error:
        reason = error.__cause__ or error
        raise ConfigError(f"{settings.database_path}: {reason}; nothing was changed.") from error


def check_exists(settings: Settings) -> None:
    """Raise ConfigError where there is no database."""
    if not settings.database_path.is_file():
        raise ConfigError(
            f"There is no database at {settings.database_path.absolute()}; set GPUPROXY_DATABASE_URL or go to its "
            "directory."
        )
