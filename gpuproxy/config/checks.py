"""What settings must be beside their type: each check raises ValueError with a text that names the setting."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from gpuproxy.model.demands import MIN_LEASE_DURATION

LEAST_ADMIN_KEY = 20
"""Characters."""


def check_tls(cert: Path | None, key: Path | None, client_ca: Path | None) -> None:
    """A half of TLS is none: nobody must rely on it. Whether the files are good is seen when they are loaded."""
    if cert and not key:
        raise ValueError("GPUPROXY_GRPC_TLS_KEY: is missing; GPUPROXY_GRPC_TLS_CERT alone is no TLS")
    if not cert and (key or client_ca):
        name = "KEY" if key else "CLIENT_CA"
        raise ValueError(f"GPUPROXY_GRPC_TLS_CERT: is missing; GPUPROXY_GRPC_TLS_{name} alone is no TLS")


def check_accounts(
    setting: str, keys: Sequence[str], names: Sequence[str], given: Sequence[str], regions: Sequence[str]
) -> None:
    """Each key of `setting` is one account; `names` are theirs, `given` and `regions` what was written by position."""
    if len(set(keys)) < len(keys):
        raise ValueError(f"{setting}: the same key is given twice")
    for name, values in (("NAMES", given), ("REGIONS", regions)):
        if len(values) > len(keys):
            raise ValueError(f"{setting}_{name}: names more accounts than {setting} has keys")
    if len(set(names)) < len(names):
        raise ValueError(f"{setting}_NAMES: two accounts have the same name")


def check_lease_duration(seconds: float) -> None:
    """What a request may not ask for is no default either."""
    least = MIN_LEASE_DURATION.total_seconds()
    if 0 < seconds < least:
        raise ValueError(f"GPUPROXY_LEASE_DURATION: should be 0 (no end) or at least {least:g} s")


def check_otel_endpoint(url: str) -> None:
    """A base address, to which /v1/traces is added."""
    parts = urlsplit(url)
    if url and (parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query):
        raise ValueError(
            "GPUPROXY_OTEL_ENDPOINT: should be http:// or https:// and a host, as in http://127.0.0.1:4318"
        )


def check_database_url(url: str) -> None:
    """Only what keeps the books, and what is built."""
    if url.startswith(("postgresql://", "postgres://")):
        raise ValueError("GPUPROXY_DATABASE_URL: PostgreSQL is not built yet; use sqlite:///gpuproxy.db")
    path = url.removeprefix("sqlite:///")
    if path == url or not path:
        raise ValueError("GPUPROXY_DATABASE_URL: should be sqlite:/// and a path, as in sqlite:///gpuproxy.db")
    if path == ":memory:":
        raise ValueError("GPUPROXY_DATABASE_URL: the books must survive the process; use a file")


def check_admin_key(key: str) -> None:
    """Nobody must guess it."""
    if len(key) < LEAST_ADMIN_KEY:
        raise ValueError(
            f"GPUPROXY_ADMIN_API_KEY: must have at least {LEAST_ADMIN_KEY} characters, as `openssl rand -hex 20` makes "
            "them; without it a key is made and kept beside the database"
        )
