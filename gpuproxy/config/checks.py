"""Checks of settings beyond their types. Each check raises ValueError with a text that names the setting."""

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from gpuproxy.adapters.proxies import proxy_at, unreadable_in
from gpuproxy.config.environment import is_postgres
from gpuproxy.config.pools import setting_of
from gpuproxy.model.demands import MAX_LEASE_DURATION, MIN_LEASE_DURATION
from gpuproxy.model.transactions import KEPT_AT_LEAST
from gpuproxy.warmpool.limits import PoolLimits

LEAST_ADMIN_KEY = 20
"""Characters."""
_HOST = re.compile(r"[^\s/\\?#@,;<>\"'|^`{}]+")
"""A host name or address. Only what can't be one is refused: resolving it is the system's part."""


def check_tls(cert: Path | None, key: Path | None, client_ca: Path | None) -> None:
    """The certificate needs its key, and the key and the client CA need the certificate. No file is read here."""
    if cert and not key:
        raise ValueError("GPUPROXY_GRPC_TLS_KEY: is missing. TLS needs it in addition to GPUPROXY_GRPC_TLS_CERT")
    if not cert and (key or client_ca):
        name = "KEY" if key else "CLIENT_CA"
        raise ValueError(f"GPUPROXY_GRPC_TLS_CERT: is missing. TLS needs it in addition to GPUPROXY_GRPC_TLS_{name}")


def check_accounts(
    setting: str, keys: Sequence[str], names: Sequence[str], given: Sequence[str], regions: Sequence[str]
) -> None:
    """The accounts of one marketplace must have different keys and names. Each key of `setting` is one account.

    `names`: the names of all accounts, defaults included. `given`, `regions`: the values of `<setting>_NAMES` and
    `<setting>_REGIONS`, at most one for each key.
    """
    if not all(key.isascii() and key.isprintable() for key in keys):
        raise ValueError(f"{setting}: a key must have only printable ASCII characters")
    if len(set(keys)) < len(keys):
        raise ValueError(f"{setting}: contains the same key twice")
    for name, values in (("NAMES", given), ("REGIONS", regions)):
        if len(values) > len(keys):
            raise ValueError(f"{setting}_{name}: has more values than {setting} has keys")
    if len(set(names)) < len(names):
        raise ValueError(f"{setting}_NAMES: two accounts have the same name")


def check_lease_duration(seconds: float) -> None:
    """The default lease duration has the same limits as the duration in a request. 0: no end."""
    least = MIN_LEASE_DURATION.total_seconds()
    if 0 < seconds < least or seconds > MAX_LEASE_DURATION.total_seconds():
        raise ValueError(
            f"GPUPROXY_LEASE_DURATION: must be 0 (no end) or at least {least:g} s, and at most "
            f"{MAX_LEASE_DURATION.days}d"
        )


def check_base_url(name: str, url: str, example: str) -> None:
    """The URL of setting `name` must be a base to which paths are appended: no user, query or fragment. "" is unset.

    The text does not quote the URL, because it may hold credentials.
    """
    if not url:
        return
    form = f"must be http:// or https:// and a host, for example {example}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # a port that is not a number, brackets without an address
        raise ValueError(f"{name}: {form}") from None
    if parts.scheme not in ("http", "https") or not host or port == 0 or not _HOST.fullmatch(host):
        raise ValueError(f"{name}: {form}")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError(f"{name}: {form}; without a user, a query (?) and a fragment (#)")


def check_keep_history(seconds: float) -> None:
    """History must be kept while charges can be corrected. 0: it is kept for ever."""
    if 0 < seconds < KEPT_AT_LEAST.total_seconds():
        raise ValueError(f"GPUPROXY_KEEP_HISTORY: must be 0 (for ever) or at least {KEPT_AT_LEAST.days}d")


def proxy_problems(https: SecretStr | None, http: SecretStr | None, exceptions: str) -> tuple[tuple[str, str], ...]:
    """The variables for proxies that can't be used, each with the reason.

    They stop no start by themselves, because they are set for all programs of a machine. No text quotes a value,
    because it may hold credentials.
    """
    found = []
    for name, value in (("HTTPS_PROXY", https), ("HTTP_PROXY", http)):
        try:
            proxy_at(value.get_secret_value() if value else "")
        except ValueError as error:
            found.append((name, str(error)))
    form = "must be a host name, an address or a network, for example example.com or 10.0.0.0/8; no http:// and no path"
    return (*found, *(("NO_PROXY", f"entry {place} {form}") for place in unreadable_in(exceptions)))


def check_pools(gpu: str, max_price: float | None, limits: PoolLimits) -> None:
    """The default pool needs both a GPU model and a price limit, and the numbers must fit together."""
    if bool(gpu.strip()) != (max_price is not None):
        given, missing = ("GPU", "MAX_PRICE") if gpu.strip() else ("MAX_PRICE", "GPU")
        raise ValueError(
            f"GPUPROXY_WARMPOOL_{missing}: is missing. Set it in addition to GPUPROXY_WARMPOOL_{given}, or set neither"
        )
    if problems := limits.problems():
        raise ValueError("\n".join(f"{', '.join(map(setting_of, fields))}: {text}" for fields, text in problems))


def check_database_url(url: str) -> None:
    """The URL must name an SQLite file or a PostgreSQL database. No message quotes it: it may have a password."""
    if is_postgres(url):
        if not urlsplit(url).path.strip("/"):
            raise ValueError(
                "GPUPROXY_DATABASE_URL: has no name of a database, for example postgresql://user:password@host/gpuproxy"
            )
        return
    path = url.removeprefix("sqlite:///")
    if path == url or not path:
        raise ValueError(
            "GPUPROXY_DATABASE_URL: must be sqlite:/// and a path, for example sqlite:///gpuproxy.db, or a "
            "PostgreSQL database, for example postgresql://user:password@host/gpuproxy"
        )
    if path == ":memory:":
        raise ValueError("GPUPROXY_DATABASE_URL: must be a file. A database in memory is lost when the server stops")


def check_admin_key(key: str) -> None:
    """The key must be too long to guess."""
    if problem := admin_key_problem(key):
        raise ValueError(
            f"GPUPROXY_ADMIN_API_KEY: {problem}. `openssl rand -hex 20` prints such a key. If the setting is empty, "
            "the server creates a key and keeps it in a file beside the database"
        )


def admin_key_problem(key: str, *, spaces: bool = True) -> str:
    """What is wrong with an admin's key, as the end of a sentence; "" if nothing is. `spaces`: it may have spaces."""
    if len(key) < LEAST_ADMIN_KEY:
        return f"must have at least {LEAST_ADMIN_KEY} characters"
    if not key.isprintable() or (" " in key and not spaces):
        return f"must have no {'' if spaces else 'spaces, '}line breaks and control characters"
    return ""
