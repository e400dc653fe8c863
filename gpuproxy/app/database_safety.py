"""Checks before a database is opened: an SQLite with a known fault, and a network file system, can lose commits.

Both are refused, and the message names the remedy. A setting can allow each of them; then the server only logs a
warning.
"""

import structlog

from gpuproxy.config.environment import ConfigError
from gpuproxy.config.settings import Settings
from gpuproxy.store.sqlite import driver, mounts
from gpuproxy.store.sqlite import files as database_files

log = structlog.get_logger(__name__)


def require_safe(settings: Settings, *, warn: bool) -> None:
    """Raise ConfigError if commits could be lost. If a setting allows that, log a warning if `warn`."""
    _require_sound_library(settings, warn=warn)
    _require_local_disk(settings, warn=warn)


def _require_sound_library(settings: Settings, *, warn: bool) -> None:
    if not driver.is_vulnerable(driver.VERSION):
        return
    version = ".".join(map(str, driver.VERSION))
    if not settings.allow_vulnerable_sqlite:
        raise ConfigError(
            f"SQLite {version} can lose a commit that races a checkpoint (fixed in 3.51.3, 3.50.7 and 3.44.6): the "
            "database was not opened. Install the package pysqlite3, or use a Python with a newer SQLite. To accept "
            "the risk, set GPUPROXY_ALLOW_VULNERABLE_SQLITE=true."
        )
    if warn:
        log.warning("vulnerable_sqlite_allowed", version=version, effect="a commit that races a checkpoint can be lost")


def _require_local_disk(settings: Settings, *, warn: bool) -> None:
    kind = mounts.network_file_system(database_files.real(settings.database_path))
    if not kind:
        return
    if not settings.allow_network_database:
        raise ConfigError(
            f"GPUPROXY_DATABASE_URL: {settings.database_path} is on a network file system ({kind}), where SQLite's "
            "locks are not reliable and commits can be lost: the database was not opened. Use a path on a local disk. "
            "Backups by `gpuproxy backup` may be on a network file system. To accept the risk, set "
            "GPUPROXY_ALLOW_NETWORK_DATABASE=true."
        )
    if warn:
        effect = "locks are not reliable: commits can be lost, and a second server can open the database"
        log.warning("network_database_allowed", file=str(settings.database_path), file_system=kind, effect=effect)
