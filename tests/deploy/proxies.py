"""nginx and Envoy with their files of docs/deploy, on free ports and in front of a server of a test."""

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.deploy.conftest import listens
from tests.deploy.programs import FILES, debian, of_index, output
from tests.edge.certificates import Pki
from tests.ports import free_port

SHELL = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/log;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/t1;
    proxy_temp_path {folder}/t2;
    fastcgi_temp_path {folder}/t3;
    uwsgi_temp_path {folder}/t4;
    scgi_temp_path {folder}/t5;
    include {folder}/gpuproxy.conf;
}}
"""
"""What Debian's own nginx.conf has around a file of conf.d."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Of the server, and of the proxy."""

    grpc: int = 9090
    http: int = 8080
    proxy: int = 443
    others: tuple[tuple[int, int], ...] = ()
    """The ports of further servers: gRPC, HTTP."""


def nginx_files(folder: Path, ports: Ports, text: str | None = None) -> list[str]:
    """Write the configuration, or another `text` of it, with these ports. Returns nginx's command."""
    text = (FILES / "nginx.conf").read_text() if text is None else text
    text = text.replace("    listen 443 ssl", f"    listen 127.0.0.1:{ports.proxy} ssl")
    (folder / "gpuproxy.conf").write_text(_placed(text, folder, ports))
    (folder / "nginx.conf").write_text(("user root;" if os.geteuid() == 0 else "") + SHELL.format(folder=folder))
    return [debian("nginx"), "-p", str(folder), "-e", str(folder / "log"), "-c", str(folder / "nginx.conf")]


def envoy_files(folder: Path, ports: Ports, text: str | None = None) -> list[str]:
    """The same for Envoy."""
    text = (FILES / "envoy.yaml").read_text() if text is None else text
    text = text.replace("0.0.0.0, port_value: 443", f"127.0.0.1, port_value: {ports.proxy}")
    text = text.replace("port_value: 9901", "port_value: 0")
    (folder / "envoy.yaml").write_text(_placed(text, folder, ports))
    return [of_index("envoy"), "-c", str(folder / "envoy.yaml"), "--concurrency", "1", "--disable-hot-restart"]


COMMANDS = {"nginx": nginx_files, "envoy": envoy_files}
CHECKS = {"nginx": ["-t"], "envoy": ["--mode", "validate"]}


def checked(
    kind: str, folder: Path, text: str | None = None, *, ok: bool = True, others: Sequence[tuple[int, int]] = ()
) -> str:
    """Let the program judge its file."""
    Pki(folder).files()
    command = COMMANDS[kind](folder, Ports(proxy=free_port(), others=tuple(others)), text)
    return output(*command, *CHECKS[kind], ok=ok)


@contextmanager
def proxy(
    kind: str, folder: Path, grpc: int, http: int, text: str | None = None, *, others: Sequence[tuple[int, int]] = ()
) -> Iterator[tuple[int, Pki]]:
    """The port of a running proxy, and the CA of its certificate. `others`: ports of further servers, gRPC and HTTP."""
    pki = Pki(folder)
    pki.files()
    ports = Ports(grpc=grpc, http=http, proxy=free_port(), others=tuple(others))
    command = COMMANDS[kind](folder, ports, text)
    with (folder / "log").open("a") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            listens(ports.proxy, process, folder)
            yield ports.proxy, pki
        finally:
            process.terminate()


def _placed(text: str, folder: Path, ports: Ports) -> str:
    text = text.replace("/etc/gpuproxy/tls/", f"{folder}/")
    for usual, all_ in zip((9090, 8080), zip((ports.grpc, ports.http), *ports.others, strict=True), strict=True):
        text = re.sub(rf"(    server 127\.0\.0\.1:){usual};", _lines(r"\g<1>{};", all_), text)
        endpoint = rf"( *- endpoint: .* port_value: ){usual}(.*)"
        text = re.sub(endpoint, _lines(r"\g<1>{}\g<2>", all_), text)
    return text


def _lines(line: str, ports: Sequence[int]) -> str:
    return "\n".join(line.format(port) for port in ports)
