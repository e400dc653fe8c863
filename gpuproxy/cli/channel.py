"""The gRPC channel to a server: plaintext, or TLS with files named by options or by the environment."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import grpc

from gpuproxy.client.channel import DEFAULT_SERVER, channel_options
from gpuproxy.client.errors import WrongArgument
from gpuproxy.client.servers import target_of

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"", "0", "false", "no", "off"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """A client's TLS settings: its certificate and the CA that it trusts. If any of them is set, TLS is used."""

    wanted: bool = False
    ca: str = ""
    """A PEM file. Empty: the public CAs are trusted."""
    cert: str = ""
    key: str = ""

    def __bool__(self) -> bool:
        return bool(self.wanted or self.ca or self.cert or self.key)

    def over(self, found: Mapping[str, str]) -> "Tls":
        """These options; each one that is not given is read from the environment `found`. Raises UsageError."""
        word = found.get("GPUPROXY_CLIENT_TLS", "").strip().lower()
        if word not in _TRUE | _FALSE:
            raise click.UsageError("GPUPROXY_CLIENT_TLS: must be true or false")
        return Tls(
            wanted=self.wanted or word in _TRUE,
            ca=self.ca or found.get("GPUPROXY_CLIENT_TLS_CA", ""),
            cert=self.cert or found.get("GPUPROXY_CLIENT_TLS_CERT", ""),
            key=self.key or found.get("GPUPROXY_CLIENT_TLS_KEY", ""),
        )


NO_TLS = Tls()


def channel_to(server: str, tls: Tls) -> grpc.Channel:
    """A channel that is not connected yet. Raises UsageError for files that can't be read, and for a wrong list."""
    options = channel_options(server, repeats=False)
    try:
        target = target_of(server, tls=bool(tls))
    except WrongArgument as error:
        raise click.UsageError(str(error)) from None
    if not tls:
        return grpc.insecure_channel(target, options=options)
    if bool(tls.cert) != bool(tls.key):
        missing = "--key (GPUPROXY_CLIENT_TLS_KEY)" if tls.cert else "--cert (GPUPROXY_CLIENT_TLS_CERT)"
        raise click.UsageError(f"{missing} is missing: TLS needs both the certificate and its key.")
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_read("--ca", tls.ca),
        private_key=_read("--key", tls.key),
        certificate_chain=_read("--cert", tls.cert),
    )
    return grpc.secure_channel(target, credentials, options=options)


def connection_error(server: str, tls: Tls, message: str) -> str:
    """Why a server that listens was not reached, from gRPC's error message; "" if nothing listens there."""
    if "CERTIFICATE_VERIFY_FAILED" in message:
        return f"{server} has a certificate that no trusted CA signed. Name its CA with --ca FILE."
    if "handshake failed" in message or "Peer name" in message or "Hostname" in message:
        return f"The TLS handshake with {server} failed. Does it use TLS, and is its certificate for this name?"
    if "http1.x server" in message:
        return (
            f"{server} speaks HTTP, not gRPC. The server prints the HOST:PORT of both when it starts "
            f"(gRPC's default is {DEFAULT_SERVER})."
        )
    if "Socket closed" not in message and "Connection reset" not in message:
        return ""
    if "failed to connect" in message:  # it sent nothing at all, not even the HTTP/2 settings
        required = "a client certificate (--cert, --key)" if tls else "TLS (--tls, --ca)"
        return f"{server} closed the connection at once. It may require {required}."
    return f"{server} closed the connection before it answered. It may have been stopped."


def _read(option: str, path: str) -> bytes | None:
    if not path:
        return None
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise click.UsageError(f"{option}: {path} can't be read: {error.strerror}") from None
    if b"-----BEGIN " not in content:
        raise click.UsageError(f"{option}: {path} is not a PEM file")
    return content
