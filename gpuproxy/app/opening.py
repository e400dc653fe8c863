"""Opens the database that the settings name, and gives its units the deployment's time."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Union

import structlog

from gpuproxy.adapters.system import SystemRandom
from gpuproxy.app import deployment
from gpuproxy.app.database_safety import require_safe
from gpuproxy.config.environment import ConfigError
from gpuproxy.config.settings import Settings
from gpuproxy.model.errors import Unavailable
from gpuproxy.store import meta
from gpuproxy.store.sqlite import files as database_files
from gpuproxy.store.sqlite.ballast import Ballast
from gpuproxy.store.sqlite.database import SqliteDatabase
from gpuproxy.store.sqlite.location import DatabaseLocked, UnusableLocation

if TYPE_CHECKING:
    from gpuproxy.store.postgres.database import PostgresDatabase

log = structlog.get_logger(__name__)
OpenDatabase = Union[SqliteDatabase, "PostgresDatabase"]


@asynccontextmanager
async def open_database(
    settings: Settings, *, alone: bool = True, may_create: bool | None = None, moved: bool = False
) -> AsyncIterator[OpenDatabase]:
    """Open the database, and close it at the end of the block. Raises ConfigError if it can't be opened.

    `alone`: for a server, or a command that works like one. Another process with the same SQLite file is refused.
    `may_create`: bring PostgreSQL's schema up to date; None: as `alone`. `moved`: also a file whose content was moved.
    """
    if settings.on_postgres:
        db: OpenDatabase = _on_postgres(settings, serves=alone, migrate=alone if may_create is None else may_create)
    else:
        db = _file(settings, alone=alone)
    try:
        if not moved and isinstance(db, SqliteDatabase):
            await _require_not_moved(db, settings)
        yield db
    finally:
        await db.close()


def _file(settings: Settings, *, alone: bool) -> SqliteDatabase:
    require_safe(settings, warn=alone)  # the stdout of a command is only for its result
    path = settings.database_path
    ballast = Ballast(database_files.beside(path, ".ballast")) if alone else None
    try:
        return SqliteDatabase(str(path), lambda: datetime.now(UTC), alone=alone, ballast=ballast)
    except DatabaseLocked as error:
        raise ConfigError(f"{error} Stop it first, or set GPUPROXY_DATABASE_URL to another file.") from error
    except (UnusableLocation, OSError) as error:
        raise ConfigError(f"GPUPROXY_DATABASE_URL: {settings.database_path} can't be opened: {error}.") from error


async def _require_not_moved(db: SqliteDatabase, settings: Settings) -> None:
    found = await db.read(lambda tx: meta.read(tx, meta.MOVED))
    if found is not None:
        raise ConfigError(
            f"{settings.database_name} was moved to {json.loads(found)['to']}: not opened. Set GPUPROXY_DATABASE_URL "
            "to that database. If no server has used it yet, `gpuproxy migrate-books --undo "
            f"{settings.database_url}` lets the file be used again."
        )


def _on_postgres(settings: Settings, *, serves: bool, migrate: bool) -> "PostgresDatabase":
    try:
        from gpuproxy.store.postgres.connecting import UnusableServer
        from gpuproxy.store.postgres.database import PostgresDatabase
    except ImportError:
        raise ConfigError(
            "GPUPROXY_DATABASE_URL names a PostgreSQL database, but the driver is not installed. Install "
            "gpuproxy[postgres], or use an SQLite file."
        ) from None
    listen = settings.database_listen_url
    if settings.allow_unsafe_postgres and serves:
        log.warning("unsafe_postgres_allowed", effect="a commit can be lost when the PostgreSQL server crashes")
    try:
        return PostgresDatabase(
            settings.database_url,
            SystemRandom().token(16),
            listen_url=listen.get_secret_value() if listen else "",
            serves=serves,
            migrate=migrate,
            unsafe=settings.allow_unsafe_postgres,
        )
    except UnusableServer as error:
        raise ConfigError(f"GPUPROXY_DATABASE_URL: {settings.database_name} can't be used: {error}.") from error
    except Unavailable as error:
        reason = str(error.__cause__ or error).strip()
        raise ConfigError(f"GPUPROXY_DATABASE_URL: {settings.database_name} can't be opened: {reason}.") from error


async def use_clock(db: OpenDatabase, now: Callable[[], datetime]) -> None:
    """Make the deployment's time that of the units: of SQLite `now`, of PostgreSQL the same function of its own time.

    So servers that share a database never disagree on whether a claim is over.
    """
    if isinstance(db, SqliteDatabase):
        db.use_clock(now)
    else:
        db.use_scale(await db.read(deployment.stored_clock))
