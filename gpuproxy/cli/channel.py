"""How the command line reaches a server: in plaintext, or by TLS with the files of options or of the environment."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import grpc

from gpuproxy.client.channel import DEFAULT_SERVER, channel_options

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"", "0", "false", "no", "off"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """What a client shows and trusts. Any of its files is a wish for TLS."""

    wanted: bool = False
    ca: str = ""
    """A file; without it the public CAs are trusted."""
    cert: str = ""
    key: str = ""

    def __bool__(self) -> bool:
        return bool(self.wanted or self.ca or self.cert or self.key)

    def over(self, found: Mapping[str, str]) -> "Tls":
        """These options where they are given, else what the environment says; raises UsageError."""
        word = found.get("GPUPROXY_CLIENT_TLS", "").strip().lower()
        if word not in _TRUE | _FALSE:
            raise click.UsageError("GPUPROXY_CLIENT_TLS: should be true or false")
        return Tls(
            wanted=self.wanted or word in _TRUE,
            ca=self.ca or found.get("GPUPROXY_CLIENT_TLS_CA", ""),
            cert=self.cert or found.get("GPUPROXY_CLIENT_TLS_CERT", ""),
            key=self.key or found.get("GPUPROXY_CLIENT_TLS_KEY", ""),
        )


NO_TLS = Tls()


def channel_to(server: str, tls: Tls) -> grpc.Channel:
    """Not connected yet; raises UsageError for files that can't be read."""
    options = channel_options(server, repeats=False)
    if not tls:
        return grpc.insecure_channel(server, options=options)
    if bool(tls.cert) != bool(tls.key):
        missing = "--key (GPUPROXY_CLIENT_TLS_KEY)" if tls.cert else "--cert (GPUPROXY_CLIENT_TLS_CERT)"
        raise click.UsageError(f"{missing} is missing: a certificate and its key go together.")
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_read("--ca", tls.ca),
        private_key=_read("--key", tls.key),
        certificate_chain=_read("--cert", tls.cert),
    )
    return grpc.secure_channel(server, credentials, options=options)


def misunderstanding(server: str, tls: Tls, said: str) -> str:
    """Why a server that is there was not reached, by what grpc said of it; "" when nothing listens there."""
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return f"{server} shows a certificate that no trusted CA signed; --ca FILE says whom to trust."
    if "handshake failed" in said or "Peer name" in said or "Hostname" in said:
        return f"{server} did not speak TLS as it should: is it TLS, and is its certificate for this name?"
    if "http1.x server" in said:
        return (
            f"{server} speaks HTTP, not gRPC: the server's start prints HOST:PORT of both ({DEFAULT_SERVER} is gRPC's)."
        )
    if "Socket closed" not in said and "Connection reset" not in said:
        return ""
    if "failed to connect" in said:  # it said nothing at all, not even that it speaks HTTP/2
        wanted = "a certificate of ours (--cert, --key)" if tls else "TLS (--tls, --ca)"
        return f"{server} closed the connection at once: it may want {wanted}."
    return f"{server} ended the connection before it answered: it may have been stopped."


def _read(option: str, path: str) -> bytes | None:
    if not path:
        return None
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise click.UsageError(f"{option}: {path} can't be read: {error.strerror}") from None
    if b"-----BEGIN " not in content:
        raise click.UsageError(f"{option}: {path} is not in PEM")
    return content
