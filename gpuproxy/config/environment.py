"""The environment and `.env`, as text: what the client commands read too, without the packages of a server."""

from collections.abc import Mapping
from pathlib import Path

from gpuproxy.config.env_file import values_in
from gpuproxy.store.sqlite import files as database_files

ENV_FILE = Path(".env")
DEFAULT_DATABASE = "sqlite:///gpuproxy.db"


class ConfigError(Exception):
    """The program can't run with this configuration. The text is for the operator and contains no secret."""


def read_environment(env: Mapping[str, str], env_file: Path | None = ENV_FILE) -> dict[str, str]:
    """The variables of `.env` and `env`, without blank ones; `env` takes precedence. Raises ConfigError."""
    try:
        from_file = values_in(env_file) if env_file is not None and env_file.is_file() else {}
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return {name: value for name, value in {**from_file, **env}.items() if value.strip()}


def admin_key_file(database_url: str) -> Path:
    """The file beside the database that holds the first admin's key."""
    return database_files.kept_beside(files_of(database_url), ".admin-key")


def is_postgres(database_url: str) -> bool:
    """True for the URL of a PostgreSQL database."""
    return database_url.startswith(("postgresql://", "postgres://"))


def files_of(database_url: str) -> Path:
    """The path beside which the server keeps its files: the SQLite file; with PostgreSQL, the working directory."""
    return Path("gpuproxy") if is_postgres(database_url) else Path(database_url.removeprefix("sqlite:///"))
