"""TLS and mTLS on real sockets: who can connect, and certificates that change while connections are open."""

import asyncio
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import grpc
import pytest
import structlog
import trustme
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gpuproxy.adapters.system import ScaledClock
from gpuproxy.edge.tls import CHECK_SECONDS, Certificates, TlsFiles, UnusableCertificates
from tests.edge.certificates import ClientFiles, Pki
from tests.edge.http_face import Both, both_faces


class Hand(ScaledClock):
    """A clock that the test moves."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


@asynccontextmanager
async def secure(files: TlsFiles, clock: ScaledClock | None = None) -> AsyncIterator[Both]:
    async with both_faces(object(), certificates=Certificates(files, clock or Hand())) as both:
        yield both


async def by_grpc(both: Both, client: ClientFiles) -> bool:
    """True if a new gRPC connection succeeds; the health check needs no key."""
    credentials = grpc.ssl_channel_credentials(client.ca, client.key, client.cert)
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with aio.secure_channel(f"127.0.0.1:{both.grpc.port}", credentials, options=options) as channel:
        return await _healthy(channel)


async def _healthy(channel: aio.Channel) -> bool:
    try:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=120)
    except aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        return False
    return True


async def by_http(both: Both, client: ClientFiles, pki: Pki) -> bool:
    """True if a new connection succeeds."""
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"https://127.0.0.1:{both.port}/healthz", ssl=client.context(pki.directory)) as reply,
        ):
            return reply.status == 200
    except aiohttp.ClientError:
        return False


async def let_in(both: Both, client: ClientFiles, pki: Pki) -> tuple[bool, bool]:
    """By gRPC, by HTTP."""
    return await by_grpc(both, client), await by_http(both, client, pki)


async def test_both_interfaces_accept_clients_that_trust_the_ca(pki: Pki) -> None:
    async with secure(pki.files()) as both:
        assert await let_in(both, pki.client(), pki) == (True, True)


async def test_a_client_that_trusts_another_ca_does_not_connect(pki: Pki) -> None:
    async with secure(pki.files()) as both:
        assert await let_in(both, pki.client(trusting=trustme.CA()), pki) == (False, False)


async def test_plaintext_gets_no_answer_on_a_tls_port(pki: Pki) -> None:
    async with secure(pki.files()) as both:
        async with aio.insecure_channel(f"127.0.0.1:{both.grpc.port}") as channel:
            assert not await _healthy(channel)
        assert b"HTTP/1.1 200" not in await both.raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")


async def test_with_a_client_ca_only_its_clients_can_connect(pki: Pki) -> None:
    async with secure(pki.files(mutual=True)) as both:
        assert await let_in(both, pki.client(by=pki.clients), pki) == (True, True)
        assert await let_in(both, pki.client(), pki) == (False, False)
        assert await let_in(both, pki.client(by=trustme.CA()), pki) == (False, False)
        assert await let_in(both, pki.client(by=pki.ca), pki) == (False, False)


@pytest.mark.parametrize(("version", "spoken"), [(ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_1, False)])
async def test_versions_older_than_tls_1_2_are_refused(pki: Pki, version: ssl.TLSVersion, spoken: bool) -> None:
    async with secure(pki.files()) as both:
        for port in (both.grpc.port, both.port):
            assert await asyncio.to_thread(_speaks, port, version.name) is spoken


def _speaks(port: int, version: str) -> bool:
    """Run in another program, because Python's ssl module warns about old versions."""
    code = (
        "import socket, ssl, sys, warnings; warnings.simplefilter('ignore')\n"
        "context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT); context.check_hostname = False\n"
        "context.verify_mode = ssl.CERT_NONE; context.set_ciphers('ALL:@SECLEVEL=0')\n"
        "context.set_alpn_protocols(['h2', 'http/1.1'])\n"
        "context.minimum_version = context.maximum_version = ssl.TLSVersion[sys.argv[2]]\n"
        "with socket.create_connection(('127.0.0.1', int(sys.argv[1])), 10) as plain:\n"
        "    print(context.wrap_socket(plain).version())\n"
    )
    command = [sys.executable, "-c", code, str(port), version]
    ended = subprocess.run(command, capture_output=True, timeout=1200, check=False)
    return ended.returncode == 0


# ------------------------------------------------------------------------------------------------------------- reload


async def serial(port: int) -> str:
    """The certificate of a new connection."""
    return await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port), timeout=120)


async def serials(both: Both) -> set[str]:
    return {await serial(both.grpc.port), await serial(both.port)}


async def test_new_connections_get_the_new_certificate_while_old_ones_continue(pki: Pki) -> None:
    files, clock, client = pki.files(), Hand(), pki.client()
    async with secure(files, clock) as both:
        credentials = grpc.ssl_channel_credentials(client.ca)
        old = await asyncio.open_connection("127.0.0.1", both.port, ssl=client.context(pki.directory))
        async with aio.secure_channel(f"127.0.0.1:{both.grpc.port}", credentials) as channel:
            assert await _healthy(channel)
            assert await _asked(*old)
            before = await serials(both)
            leaf = pki.renew(files)
            clock.seconds += CHECK_SECONDS
            after = await serials(both)
            assert after == {leaf.cert_chain_pems[0].bytes().decode()}
            assert not after & before
            assert await _healthy(channel)
            assert channel.get_state() is grpc.ChannelConnectivity.READY
            assert await _asked(*old)
            assert await let_in(both, client, pki) == (True, True)
        old[1].close()


async def _asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """One request on a connection that stays open."""
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(120):
        return b'{"status":"ok"}' in await reader.readuntil(b"}")


async def test_the_files_are_checked_only_every_few_seconds(pki: Pki) -> None:
    files, clock = pki.files(), Hand()
    async with secure(files, clock) as both:
        before = await serials(both)
        pki.renew(files)
        clock.seconds += CHECK_SECONDS - 0.1
        assert await serials(both) == before
        clock.seconds += 0.1
        assert await serials(both) != before


async def test_a_new_client_ca_excludes_the_clients_of_the_old_one(pki: Pki) -> None:
    files, clock, other = pki.files(mutual=True), Hand(), trustme.CA()
    async with secure(files, clock) as both:
        assert await let_in(both, pki.client(by=pki.clients), pki) == (True, True)
        assert files.client_ca is not None
        pki.write(files.client_ca, other.cert_pem.bytes())
        clock.seconds += CHECK_SECONDS
        assert await let_in(both, pki.client(by=pki.clients), pki) == (False, False)
        assert await let_in(both, pki.client(by=other), pki) == (True, True)


BREAKS: dict[str, Callable[[Pki, TlsFiles], object]] = {
    "a key of another pair": lambda pki, files: pki.write(
        files.key, pki.ca.issue_cert("localhost").private_key_pem.bytes()
    ),
    "half a certificate": lambda pki, files: pki.write(files.cert, files.cert.read_bytes()[:400]),
    "a certificate that is gone": lambda _, files: files.cert.unlink(),
    "an empty key": lambda pki, files: pki.write(files.key, b""),
}


@pytest.mark.parametrize("damage", BREAKS.values(), ids=BREAKS)
async def test_broken_new_certificates_are_rejected_and_logged_once(
    pki: Pki, damage: Callable[[Pki, TlsFiles], object]
) -> None:
    files, clock = pki.files(), Hand()
    with structlog.testing.capture_logs() as logs:
        async with secure(files, clock) as both:
            before = await serials(both)
            damage(pki, files)
            for _ in range(3):
                clock.seconds += CHECK_SECONDS
                assert await serials(both) == before
            pki.renew(files)
            clock.seconds += CHECK_SECONDS
            assert not await serials(both) & before
    said = [(line["event"], line["log_level"]) for line in logs if line["event"].startswith("certificates")]
    assert said == [("certificates_rejected", "warning"), ("certificates_reloaded", "info")]
    assert "GPUPROXY_GRPC_TLS_" in next(line["problem"] for line in logs if line["event"] == "certificates_rejected")
    assert "-----" not in str(logs)


# -------------------------------------------------------------------------------------------------------------- start

WRONG: dict[str, tuple[Callable[[Pki, TlsFiles], object], str]] = {
    "no certificate": (lambda _, files: files.cert.unlink(), "GPUPROXY_GRPC_TLS_CERT: "),
    "no key": (lambda _, files: files.key.unlink(), "GPUPROXY_GRPC_TLS_KEY: "),
    "no CA": (lambda _, files: files.client_ca and files.client_ca.unlink(), "GPUPROXY_GRPC_TLS_CLIENT_CA: "),
    "a key as the certificate": (
        lambda pki, files: pki.write(files.cert, files.key.read_bytes()),
        "GPUPROXY_GRPC_TLS_CERT: ",
    ),
    "another key": (BREAKS["a key of another pair"], "GPUPROXY_GRPC_TLS_KEY: "),
    "half a certificate": (BREAKS["half a certificate"], "GPUPROXY_GRPC_TLS_CERT"),
    "a directory": (
        lambda _, files: (files.key.unlink(), files.key.mkdir()),
        "GPUPROXY_GRPC_TLS_KEY: ",
    ),
    "a CA of nonsense": (
        lambda pki, files: files.client_ca and pki.write(files.client_ca, b"-----BEGIN CERTIFICATE-----\nnot\n"),
        "GPUPROXY_GRPC_TLS_CLIENT_CA: ",
    ),
    "a key with a password": (
        lambda pki, files: pki.write(files.key, b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMA==\n"),
        "GPUPROXY_GRPC_TLS_KEY: ",
    ),
}


@pytest.mark.parametrize(("damage", "said"), WRONG.values(), ids=WRONG)
def test_unusable_files_are_named(pki: Pki, damage: Callable[[Pki, TlsFiles], object], said: str) -> None:
    files = pki.files(mutual=True)
    damage(pki, files)
    with pytest.raises(UnusableCertificates) as error:
        Certificates(files, Hand())
    assert str(error.value).startswith(said)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_key_is_named(pki: Pki) -> None:
    files = pki.files()
    files.key.chmod(0)
    with pytest.raises(UnusableCertificates, match="GPUPROXY_GRPC_TLS_KEY"):
        Certificates(files, Hand())
