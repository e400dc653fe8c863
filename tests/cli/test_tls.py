"""The command line and a server with TLS: the files that it needs, and the messages if they are missing."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import trustme
from click.testing import CliRunner, Result

from gpuproxy.cli import root
from tests.cli.world import KEY, World, served

ENVIRONMENT = {
    "ca": "GPUPROXY_CLIENT_TLS_CA",
    "cert": "GPUPROXY_CLIENT_TLS_CERT",
    "key": "GPUPROXY_CLIENT_TLS_KEY",
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def ca(tmp_path: Path) -> trustme.CA:
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    leaf = made.issue_cert("client@example.test")
    leaf.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    leaf.private_key_pem.write_to_path(tmp_path / "key.pem")
    return made


@pytest.fixture
def server(ca: trustme.CA, request: pytest.FixtureRequest) -> Iterator[str]:
    leaf = ca.issue_cert("127.0.0.1")
    mutual = getattr(request, "param", False)
    pair = (leaf.private_key_pem.bytes(), leaf.cert_chain_pems[0].bytes())
    with served(World(), grpc.ssl_server_credentials([pair], ca.cert_pem.bytes() if mutual else None, mutual)) as at:
        yield at


def listed(server: str, *options: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(root, ["list", "--server", server, "--api-key", KEY, *options], env=env)


def test_a_named_ca_is_trusted(server: str) -> None:
    assert "RTX 4090" in listed(server, "--ca", "ca.pem").output
    assert "RTX 4090" in listed(server, env={"GPUPROXY_CLIENT_TLS_CA": "ca.pem"}).output


@pytest.mark.parametrize("options", [["--tls"], ["--ca", "other.pem"]])
def test_a_server_with_an_untrusted_certificate_is_refused(server: str, options: list[str]) -> None:
    result = listed(server, *options)
    assert (result.exit_code, "that no trusted CA signed" in result.output) == (3, True)


def test_the_environment_can_turn_on_tls_without_files(server: str) -> None:
    assert "no trusted CA" in listed(server, env={"GPUPROXY_CLIENT_TLS": "true"}).output
    assert "It may require TLS" in listed(server, env={"GPUPROXY_CLIENT_TLS": "false"}).output
    wrong = listed(server, env={"GPUPROXY_CLIENT_TLS": "perhaps"})
    assert (wrong.exit_code, "GPUPROXY_CLIENT_TLS" in wrong.output) == (2, True)


@pytest.mark.parametrize("server", [True], indirect=True)
def test_a_client_certificate_is_sent_to_a_server_that_requires_one(server: str) -> None:
    ours = {"ca": "ca.pem", "cert": "cert.pem", "key": "key.pem"}
    assert "RTX 4090" in listed(server, *(word for name, file in ours.items() for word in (f"--{name}", file))).output
    assert "RTX 4090" in listed(server, env={ENVIRONMENT[name]: file for name, file in ours.items()}).output
    without = listed(server, "--ca", "ca.pem")
    assert (without.exit_code, "(--cert, --key)" in without.output) == (3, True)


def test_a_plaintext_server_fails_the_tls_handshake(ca: trustme.CA) -> None:
    with served(World()) as plain:
        result = listed(plain, "--ca", "ca.pem")
    assert (result.exit_code, "The TLS handshake with" in result.output) == (3, True)


def test_with_tls_an_unreachable_server_is_reported_as_without(ca: trustme.CA) -> None:
    result = listed("127.0.0.1:1", "--ca", "ca.pem")
    assert (result.exit_code, "Nothing answers at 127.0.0.1:1" in result.output) == (3, True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ca", "gone.pem"], "--ca: gone.pem can't be read"),
        (["--ca", "text"], "--ca: text is not a PEM file"),
        (["--cert", "cert.pem"], "--key (GPUPROXY_CLIENT_TLS_KEY) is missing"),
        (["--key", "key.pem"], "--cert (GPUPROXY_CLIENT_TLS_CERT) is missing"),
    ],
)
def test_unusable_tls_files_are_named(ca: trustme.CA, tmp_path: Path, options: list[str], said: str) -> None:
    (tmp_path / "text").write_text("hello")
    result = listed("127.0.0.1:1", *options)
    assert (result.exit_code, said in result.output) == (2, True)


def test_a_server_that_dies_during_a_call_is_no_tls_error() -> None:
    with socket.socket() as listening, ThreadPoolExecutor(max_workers=1) as pool:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        pool.submit(_die_during_a_call, listening)
        result = listed(f"127.0.0.1:{listening.getsockname()[1]}")
    assert (result.exit_code, "TLS" in result.output) == (3, False)
    assert "closed the connection before it answered" in result.output


def _die_during_a_call(listening: socket.socket) -> None:
    connection, _ = listening.accept()
    with connection:
        connection.sendall(bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))  # HTTP/2: empty settings
        heard = b""
        while b"gpuproxy.v1" not in heard and (more := connection.recv(4096)):
            heard += more
