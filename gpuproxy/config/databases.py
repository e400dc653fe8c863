"""The settings of the database, the files beside it, and its name in messages.

The URL of a PostgreSQL database may have a password. Messages use `database_name`, which has none.
"""

from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from gpuproxy.config.environment import DEFAULT_DATABASE, ConfigError, admin_key_file, files_of, is_postgres
from gpuproxy.config.names import env_name
from gpuproxy.store.sqlite import files as database_files


class DatabaseSettings(BaseSettings):
    """The part of Settings about the database."""

    model_config = SettingsConfigDict(alias_generator=env_name, validate_by_name=True, validate_by_alias=True)

    database_url: str = Field(
        DEFAULT_DATABASE,
        repr=False,
        description="database: `sqlite:///` and the path of the file, or `postgresql://user:password@host/name`: "
        "[postgres.md](postgres.md)",
    )
    database_listen_url: SecretStr | None = Field(
        None,
        description="URL of the same PostgreSQL database without a pooler, for notifications between servers. Needed "
        "only behind PgBouncer; without it, servers there see each other's changes after a second",
    )
    allow_network_database: bool = Field(
        False, description="allow a database on a network file system, where SQLite can lose commits"
    )
    allow_vulnerable_sqlite: bool = Field(
        False, description="allow an SQLite version with the WAL-reset fault, which can lose commits"
    )
    allow_unsafe_postgres: bool = Field(
        False, description="allow a PostgreSQL server that can lose commits: with `fsync` or `synchronous_commit` off"
    )
    admin_key_path: Path | None = Field(
        None,
        alias="GPUPROXY_ADMIN_KEY_FILE",
        description="file (mode 0600) for the first admin's key, which the server makes unless the file exists; such a "
        "key has at least 20 characters. Default: a file beside the database",
    )
    demand_key_file: Path | None = Field(
        None,
        description="file (mode 0600) with the key by which a repeated request_id is recognised; the same on each "
        "server of a deployment. Default: a file beside the database, created at the first start",
    )

    @property
    def on_postgres(self) -> bool:
        """True if the database is PostgreSQL's."""
        return is_postgres(self.database_url)

    @property
    def database_name(self) -> str:
        """The database for messages, without user, password and parameters."""
        if not self.on_postgres:
            return str(self.database_path)
        parts = urlsplit(self.database_url)
        return f"postgresql://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def database_secrets(self) -> frozenset[str]:
        """The passwords in the URLs, as they are written and decoded."""
        listen = self.database_listen_url.get_secret_value() if self.database_listen_url else ""
        found: set[str] = set()
        for url in (self.database_url, listen):
            if is_postgres(url):
                parts = urlsplit(url)
                found |= {parts.password or "", unquote(parts.password or "")}
                found |= {
                    value for name in ("password", "sslpassword") for value in parse_qs(parts.query).get(name, ())
                }
        return frozenset(found - {""})

    @property
    def database_path(self) -> Path:
        """The SQLite file. Raises ConfigError for PostgreSQL, which has none."""
        if self.on_postgres:
            raise ConfigError(
                "The database is in PostgreSQL, not in a file. Use PostgreSQL's own tools: docs/postgres.md."
            )
        return files_of(self.database_url)

    @property
    def admin_key_file(self) -> Path:
        """The file (mode 0600) with the first admin's key, if the server created the key."""
        return self.admin_key_path or admin_key_file(self.database_url)

    @property
    def fingerprint_key_file(self) -> Path:
        """The file (mode 0600) with the key that demands are hashed with."""
        return self.demand_key_file or database_files.kept_beside(files_of(self.database_url), ".demand-key")

    @property
    def sandbox_state_file(self) -> Path:
        """The file in which the sandbox of `serve --sandbox` keeps its market."""
        return database_files.kept_beside(files_of(self.database_url), ".sandbox")
