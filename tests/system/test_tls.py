"""The real program with TLS: it starts, the command line and curl-like clients reach it, and bad files stop it."""

import os
import ssl
import subprocess
import urllib.request
from pathlib import Path

import grpc
import pytest
import trustme

from gpuproxy import Client
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests import forked
from tests.edge.certificates import Pki
from tests.system.processes import UNPACED, Server


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


def settings(pki: Pki, *, mutual: bool = False) -> dict[str, str]:
    files = pki.files(mutual=mutual)
    found = {"GPUPROXY_GRPC_TLS_CERT": str(files.cert), "GPUPROXY_GRPC_TLS_KEY": str(files.key)}
    return found | ({"GPUPROXY_GRPC_TLS_CLIENT_CA": str(files.client_ca)} if files.client_ca else {})


def program(directory: Path, env: dict[str, str], *command: str) -> "subprocess.CompletedProcess[str]":
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("GPUPROXY_", "VASTAI_"))}
    return forked.run(directory, inherited | env, *command)


def test_the_command_line_and_http_reach_a_server_that_wants_certificates(pki: Pki, tmp_path: Path) -> None:
    client = pki.client(by=pki.clients)
    assert client.cert is not None
    assert client.key is not None
    for name, content in (("ca.pem", client.ca), ("cert.pem", client.cert), ("key.pem", client.key)):
        (tmp_path / name).write_bytes(content)
    with Server(tmp_path, **settings(pki, mutual=True), **UNPACED) as server:
        asked = ["strategy", "--server", server.address, "--api-key", server.key, "--ca", "ca.pem"]
        shown = program(tmp_path, {}, *asked, "--cert", "cert.pem", "--key", "key.pem")
        assert "least_connections" in shown.stdout
        assert program(tmp_path, {}, *asked).returncode == 3
        credentials = grpc.ssl_channel_credentials(client.ca, client.key, client.cert)
        with Client(server.address, server.key, credentials=credentials) as caller:
            assert caller.call(caller.stub.GetLoadBalancerStrategy, pb.GetLoadBalancerStrategyRequest()).strategy
        with urllib.request.urlopen(f"https://{server.http}/healthz", context=client.context(tmp_path)) as answer:
            assert answer.status == 200
        with pytest.raises(OSError, match=r"(?i)certificate required|reset|eof|alert|closed"):
            anonymous = ssl.create_default_context(cadata=client.ca.decode())
            urllib.request.urlopen(f"https://{server.http}/healthz", context=anonymous).read()


def test_files_that_do_not_match_stop_the_start_and_nothing_is_opened(pki: Pki, tmp_path: Path) -> None:
    env = settings(pki) | {"GPUPROXY_DATABASE_URL": f"sqlite:///{tmp_path}/books.db"}
    Path(env["GPUPROXY_GRPC_TLS_KEY"]).write_bytes(trustme.CA().issue_cert("localhost").private_key_pem.bytes())
    ended = program(tmp_path, env, "serve", "--sandbox")
    assert (ended.returncode, "GPUPROXY_GRPC_TLS_KEY: " in ended.stderr) == (2, True)
    assert not (tmp_path / "books.db").exists()
