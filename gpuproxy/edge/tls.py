"""The certificates of both faces: read from files, judged, and read again when the files change.

A pair is taken over whole or not at all: what is broken, half written or does not match leaves the present one in
use, and a warning in the log. The files are looked at when a connection is being made, every few seconds at most; a
connection keeps what it was made with.
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
LOOK_SECONDS = 2.0
"""Real seconds between two looks at the files."""

_Stamp = tuple[tuple[int, int, int] | None, ...]

log = structlog.get_logger(__name__)


class WrongFiles(Exception):
    """The files can't be used; the text names the setting, and holds nothing of a file's content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """In PEM. With `client_ca` only clients with a certificate of such a CA are let in."""

    cert: Path
    """The server's own first, then those between it and its CA."""
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    pair: tuple[bytes, bytes]
    """Key, certificates."""
    client_ca: bytes | None
    context: ssl.SSLContext
    stamp: _Stamp


class Certificates:
    """What new connections are made with. Used by the loop and by grpc's own threads."""

    def __init__(self, files: TlsFiles, clock: Clock) -> None:
        """Raises WrongFiles."""
        self._files = files
        self._clock = clock
        self._lock = Lock()
        self._loaded = _load(files)
        self._judged = self._loaded.stamp
        self._looked = clock.monotonic()
        self._given = self._loaded  # to grpc
        self.context = self._loaded.context
        """For a listener; each connection gets the context of its own time."""
        self.context.sni_callback = self._for_connection

    def credentials(self) -> grpc.ServerCredentials:
        """For a port of grpc's."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._given),
            self._changed,  # type: ignore[arg-type]  # None is "as before", which the stubs don't know
            require_client_authentication=self._files.client_ca is not None,
        )

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Asked by grpc at each handshake; None: as before."""
        loaded = self._present()
        with self._lock:
            if loaded is self._given:
                return None
            self._given = loaded
        return _configuration(loaded)

    def _for_connection(self, connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _: ssl.SSLContext) -> None:
        """Asked by OpenSSL at each hello. The whole context is exchanged, so that an old client CA is forgotten too."""
        connection.context = self._present().context

    def _present(self) -> _Loaded:
        with self._lock:
            now = self._clock.monotonic()
            if now - self._looked >= LOOK_SECONDS * self._clock.scale:
                self._looked = now
                self._look()
            return self._loaded

    def _look(self) -> None:
        stamp = _stamp(self._files)
        if stamp == self._judged:
            return
        self._judged = stamp
        try:
            self._loaded = _load(self._files)
        except WrongFiles as error:
            log.warning("certificates_kept", problem=str(error))
            return
        self._judged = self._loaded.stamp
        log.info("certificates_loaded")


def _load(files: TlsFiles) -> _Loaded:
    stamp = _stamp(files)
    cert, key = _read(files.cert, CERT, "CERTIFICATE"), _read(files.key, KEY, "PRIVATE KEY")
    client_ca = _read(files.client_ca, CLIENT_CA, "CERTIFICATE") if files.client_ca else None
    if b"ENCRYPTED" in key:
        raise WrongFiles(f"{KEY}: {files.key} is encrypted; the server needs a key without a password")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load_pair(context, files)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.num_tickets = 0  # who comes back shows the certificate again: its CA may be gone by then
        context.options |= ssl.OP_NO_TICKET
        try:
            context.load_verify_locations(cadata=client_ca.decode("ascii"))
        except (ssl.SSLError, ValueError):
            raise WrongFiles(f"{CLIENT_CA}: {files.client_ca} holds no certificate that can be read") from None
    if _stamp(files) != stamp:
        raise WrongFiles(f"{CERT}, {KEY}: they are being written just now")
    return _Loaded(pair=(key, cert), client_ca=client_ca, context=context, stamp=stamp)


def _load_pair(context: ssl.SSLContext, files: TlsFiles) -> None:
    try:
        context.load_cert_chain(files.cert, files.key, password="")
    except ssl.SSLError as error:
        if "key values mismatch" in str(error):
            raise WrongFiles(f"{KEY}: {files.key} is not the key of the certificate in {files.cert} ({CERT})") from None
        raise WrongFiles(
            f"{CERT}, {KEY}: {files.cert} and {files.key} are no pair that TLS takes ({error.reason or 'unreadable'})"
        ) from None
    except OSError as error:
        raise WrongFiles(f"{CERT}, {KEY}: can't be read: {error.strerror}") from None


def _read(path: Path, setting: str, kind: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WrongFiles(f"{setting}: {path} can't be read: {error.strerror}") from None
    if f"{kind}-----".encode() not in content:
        raise WrongFiles(f"{setting}: {path} holds no {kind} in PEM")
    return content


def _stamp(files: TlsFiles) -> _Stamp:
    """Differs once a file was written, replaced or removed."""
    return tuple(_one_stamp(path) for path in (files.cert, files.key, files.client_ca) if path is not None)


def _one_stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _configuration(loaded: _Loaded) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([loaded.pair], loaded.client_ca)
