"""The addresses and certificates of the interfaces. An error names the setting that is wrong."""

import asyncio
import errno
import math
import os
import resource
from dataclasses import replace

import structlog

from gpuproxy.adapters.system import ScaledClock
from gpuproxy.config.environment import ConfigError
from gpuproxy.config.settings import Settings
from gpuproxy.config.values import Address
from gpuproxy.edge.interfaces import Interfaces
from gpuproxy.edge.tls import Certificates, TlsFiles, UnusableCertificates

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_COMPLAINT_SECONDS = 60.0

log = structlog.get_logger(__name__)


def certificates_of(settings: Settings) -> Certificates | None:
    """The server's certificates. None: plaintext. Raises ConfigError for files that can't be used."""
    if settings.grpc_tls_cert is None or settings.grpc_tls_key is None:
        return None
    files = TlsFiles(cert=settings.grpc_tls_cert, key=settings.grpc_tls_key, client_ca=settings.grpc_tls_client_ca)
    try:
        return Certificates(files, ScaledClock())
    except UnusableCertificates as error:
        raise ConfigError(f"{error}: not started.") from None


def allow_many_files() -> None:
    """Raise the limit of open files to the maximum. The usual default is low for a server."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def complain_rarely(loop: asyncio.AbstractEventLoop) -> None:
    """Log at most one line a minute while connections can't be accepted. asyncio alone logs a traceback for each."""
    last = -math.inf

    def complain(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        nonlocal last
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in _EXHAUSTED and "socket" in context):
            loop.default_exception_handler(context)
        elif loop.time() - last >= _COMPLAINT_SECONDS:
            last = loop.time()
            log.error("accept_failed", error=os.strerror(error.errno or 0))

    loop.set_exception_handler(complain)


async def listen(settings: Settings, interfaces: Interfaces, certificates: Certificates | None) -> tuple[str, str]:
    """Start to listen, and return the addresses of gRPC and HTTP. Raises ConfigError if one is not available."""
    try:
        grpc = await interfaces.grpc.start(str(settings.grpc_addr), certificates)
    except RuntimeError as error:
        raise ConfigError(_not_available("GRPC", settings.grpc_addr)) from error
    try:
        http = await interfaces.http.start(settings.http_addr.host, settings.http_addr.port, certificates)
    except OSError as error:
        raise ConfigError(_not_available("HTTP", settings.http_addr)) from error
    return str(replace(settings.grpc_addr, port=grpc)), str(replace(settings.http_addr, port=http))


def _not_available(interface: str, address: Address) -> str:
    return f"GPUPROXY_{interface}_ADDR: can't listen on {address}. Is another program using it?"
