"""The text that the server prints at startup. Programs parse the first words of its lines, so they must not change."""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from gpuproxy.adapters.proxies import is_loopback
from gpuproxy.config.settings import Settings

_MOST_ACCOUNTS = 8
"""Account names in one line of the banner."""


def banner(settings: Settings, grpc: str, http: str, sandbox: str) -> str:
    """The addresses of the server and the sandbox, the place of the admin key, and an example command to paste."""
    scheme = "http" if settings.grpc_tls_cert is None else "https"
    lines = [f"gRPC       {grpc}", f"HTTP       {http}", f"dashboard  {scheme}://{http}/ (log in with the admin key)"]
    if settings.grpc_tls_cert is not None:
        clients = "; clients need a certificate" if settings.grpc_tls_client_ca else ""
        lines.append(f"TLS        for both, with {settings.grpc_tls_cert}{clients}")
    if sandbox:
        lines += [f"sandbox    {sandbox}", "           a simulated market on this machine: nothing costs money"]
    warned = [] if sandbox else _money(settings)
    lines += warned
    key = "as configured" if settings.admin_api_key else f"in {settings.admin_key_file}"
    lines.append(f"admin key  {key}")
    shown = '"$GPUPROXY_ADMIN_API_KEY"' if settings.admin_api_key else f'"$(cat {settings.admin_key_file})"'
    tls = "--tls " if settings.grpc_tls_cert is not None else ""
    lines += [
        "",
        "Rent four GPUs, which costs money:" if warned else "Rent four GPUs:",
        f"  {_program()} reserve 4 --min-vram 16 --max-price 2 --server {grpc} {tls}--api-key {shown}",
    ]
    return "\n".join(lines)


def _money(settings: Settings) -> list[str]:
    """The warning that machines cost money, with the marketplaces and the names of the accounts that pay."""
    real: dict[str, list[str]] = {}
    for account in settings.accounts:
        if not is_loopback(urlsplit(account.base_url).hostname or ""):
            real.setdefault(account.provider, []).append(account.name)
    if not real:
        return []
    lines = [f"market     {name}, paid by {_listed(names)}" for name, names in real.items()]
    return [
        *lines,
        "           machines that you rent here COST MONEY until they are released:",
        f"           at most ${settings.max_price:g} per GPU-hour (GPUPROXY_MAX_PRICE) where a call sets no max_price",
    ]


def _listed(names: Sequence[str]) -> str:
    word = "account" if len(names) == 1 else "accounts"
    shown = ", ".join(names[:_MOST_ACCOUNTS])
    more = len(names) - _MOST_ACCOUNTS
    return f"{word} {shown}" + (f" and {more} more" if more > 0 else "")


def _program() -> str:
    """The command that starts this program from the current directory."""
    if shutil.which("gpuproxy"):
        return "gpuproxy"
    python = Path(sys.executable)
    script = python.with_name("gpuproxy")
    return shlex.join([_near(script)] if script.is_file() else [_near(python), "-m", "gpuproxy"])


def _near(path: Path) -> str:
    """The path, relative if it is below the current directory."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
