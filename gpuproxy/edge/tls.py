"""The TLS certificates of both interfaces: read from files, checked, and reloaded when the files change.

A certificate and its key are replaced together. If the new files are broken, half written or don't match, the old pair
stays in use and a warning is logged. The files are checked when a client connects, at most every few seconds. Existing
connections keep the certificate they were opened with.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import grpc
import structlog

from gpuproxy.ports import Clock

CERT = "GPUPROXY_GRPC_TLS_CERT"
KEY = "GPUPROXY_GRPC_TLS_KEY"
CLIENT_CA = "GPUPROXY_GRPC_TLS_CLIENT_CA"
CHECK_SECONDS = 2.0
"""Real seconds between two checks of the files."""

_Stamp = tuple[tuple[int, int, int] | None, ...]

log = structlog.get_logger(__name__)


class UnusableCertificates(Exception):
    """The files can't be used. The text names the setting and never quotes a file's content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Paths of PEM files. With `client_ca`, only clients with a certificate from one of its CAs can connect."""

    cert: Path
    """The certificate chain: the server's own certificate first, then the intermediate ones."""
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    pair: tuple[bytes, bytes]
    """Private key and certificate chain, in PEM."""
    client_ca: bytes | None
    context: ssl.SSLContext
    stamp: _Stamp


class Certificates:
    """The certificates for new connections. Thread-safe: grpc's own threads use it beside the event loop."""

    def __init__(self, files: TlsFiles, clock: Clock) -> None:
        """Load the files; raises UnusableCertificates."""
        self._files = files
        self._clock = clock
        self._lock = Lock()
        self._loaded = _load(files)
        self._checked_stamp = self._loaded.stamp
        self._checked_at = clock.monotonic()
        self._given_to_grpc = self._loaded
        self.context = self._loaded.context
        """For a listener. Each connection gets the context that is current when it is opened."""
        self.context.sni_callback = self._for_connection

    def credentials(self) -> grpc.ServerCredentials:
        """The credentials for a grpc port. grpc asks for changes at each handshake."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._given_to_grpc),
            self._changed,  # type: ignore[arg-type]  # None means "unchanged", which the stubs don't know
            require_client_authentication=self._files.client_ca is not None,
        )

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """The new configuration, or None if nothing has changed. grpc calls it at each handshake."""
        loaded = self._current()
        with self._lock:
            if loaded is self._given_to_grpc:
                return None
            self._given_to_grpc = loaded
        return _configuration(loaded)

    def _for_connection(self, connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _: ssl.SSLContext) -> None:
        """Set the context of one connection; OpenSSL calls it at each ClientHello.

        The whole context is replaced, so that a removed client CA is no longer accepted either.
        """
        connection.context = self._current().context

    def _current(self) -> _Loaded:
        with self._lock:
            now = self._clock.monotonic()
            if now - self._checked_at >= CHECK_SECONDS * self._clock.scale:
                self._checked_at = now
                self._reload_if_changed()
            return self._loaded

    def _reload_if_changed(self) -> None:
        stamp = _stamp(self._files)
        if stamp == self._checked_stamp:
            return
        self._checked_stamp = stamp
        try:
            self._loaded = _load(self._files)
        except UnusableCertificates as error:
            log.warning("certificates_rejected", problem=str(error))
            return
        self._checked_stamp = self._loaded.stamp
        log.info("certificates_reloaded")


def _load(files: TlsFiles) -> _Loaded:
    stamp = _stamp(files)
    cert, key = _read(files.cert, CERT, "CERTIFICATE"), _read(files.key, KEY, "PRIVATE KEY")
    client_ca = _read(files.client_ca, CLIENT_CA, "CERTIFICATE") if files.client_ca else None
    if b"ENCRYPTED" in key:
        raise UnusableCertificates(f"{KEY}: {files.key} is encrypted; use a key file without a password")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load_pair(context, files)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.num_tickets = (
            0  # no resumption: a returning client must show its certificate again, its CA may have been removed
        )
        context.options |= ssl.OP_NO_TICKET
        try:
            context.load_verify_locations(cadata=client_ca.decode("ascii"))
        except (ssl.SSLError, ValueError):
            raise UnusableCertificates(f"{CLIENT_CA}: {files.client_ca} has no readable certificate") from None
    if _stamp(files) != stamp:
        raise UnusableCertificates(f"{CERT}, {KEY}: the files changed while they were read")
    return _Loaded(pair=(key, cert), client_ca=client_ca, context=context, stamp=stamp)


def _load_pair(context: ssl.SSLContext, files: TlsFiles) -> None:
    try:
        context.load_cert_chain(files.cert, files.key, password="")
    except ssl.SSLError as error:
        if "key values mismatch" in str(error):
            raise UnusableCertificates(
                f"{KEY}: {files.key} is not the key of the certificate in {files.cert} ({CERT})"
            ) from None
        raise UnusableCertificates(
            f"{CERT}, {KEY}: TLS can't use {files.cert} with {files.key} ({error.reason or 'unreadable'})"
        ) from None
    except OSError as error:
        raise UnusableCertificates(f"{CERT}, {KEY}: can't be read: {error.strerror}") from None


def _read(path: Path, setting: str, kind: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnusableCertificates(f"{setting}: {path} can't be read: {error.strerror}") from None
    if f"{kind}-----".encode() not in content:
        raise UnusableCertificates(f"{setting}: {path} has no {kind} in PEM format")
    return content


def _stamp(files: TlsFiles) -> _Stamp:
    """Times, sizes and inodes of the files; changes when a file is written, replaced or removed."""
    return tuple(_one_stamp(path) for path in (files.cert, files.key, files.client_ca) if path is not None)


def _one_stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _configuration(loaded: _Loaded) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([loaded.pair], loaded.client_ca)
