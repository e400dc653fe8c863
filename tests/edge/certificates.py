"""A CA, its certificates, and the files from which a server reads them; created for one test."""

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import trustme

from gpuproxy.edge.tls import TlsFiles


@dataclass
class Pki:
    """`ca` signs servers, `clients` their clients."""

    directory: Path
    ca: trustme.CA = field(default_factory=trustme.CA)
    clients: trustme.CA = field(default_factory=trustme.CA)
    written: int = 0

    def files(self, *, mutual: bool = False) -> TlsFiles:
        """As a server reads them, with a first certificate in them."""
        files = TlsFiles(
            cert=self.directory / "server.pem",
            key=self.directory / "server.key",
            client_ca=self.directory / "clients.pem" if mutual else None,
        )
        self.renew(files)
        if files.client_ca:
            self.write(files.client_ca, self.clients.cert_pem.bytes())
        return files

    def renew(self, files: TlsFiles) -> trustme.LeafCert:
        """A new certificate of the same CA in the files."""
        leaf = self.ca.issue_cert("127.0.0.1", "localhost")
        self.write(files.cert, b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        self.write(files.key, leaf.private_key_pem.bytes())
        return leaf

    def write(self, path: Path, content: bytes) -> None:
        """As a later file than any before, however quick the test is."""
        path.write_bytes(content)
        self.written += 1
        os.utime(path, (self.written, self.written))

    def client(self, *, by: trustme.CA | None = None, trusting: trustme.CA | None = None) -> "ClientFiles":
        """What a client needs: without `by` it has no certificate of its own."""
        leaf = by.issue_cert("client@example.test") if by else None
        return ClientFiles(
            ca=(trusting or self.ca).cert_pem.bytes(),
            cert=leaf.cert_chain_pems[0].bytes() if leaf else None,
            key=leaf.private_key_pem.bytes() if leaf else None,
        )


@dataclass(frozen=True)
class ClientFiles:
    """In PEM."""

    ca: bytes
    cert: bytes | None
    key: bytes | None

    def context(self, directory: Path) -> ssl.SSLContext:
        """For HTTP."""
        context = ssl.create_default_context(cadata=self.ca.decode())
        if self.cert and self.key:
            pair = directory / "client.pem"
            pair.write_bytes(self.key + self.cert)
            context.load_cert_chain(pair)
        return context
