"""The image and the compose file. No container engine runs here: what can be tried without one, is."""

import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.programs import FILES, ROOT, of_index, output
from tests.deploy.proxies import checked
from tests.edge.certificates import Pki
from tests.system.processes import PATIENCE

pytestmark = pytest.mark.long
IMAGE, COMPOSE = FILES / "Containerfile", FILES / "compose.yaml"
HEALTHCHECK = FILES / "healthcheck.py"
VOLUME = "/var/lib/gpuproxy"
SERVICE_KEYS = frozenset(
    [
        "build",
        "cap_drop",
        "command",
        "depends_on",
        "env_file",
        "environment",
        "healthcheck",
        "image",
        "networks",
        "ports",
        "read_only",
        "restart",
        "security_opt",
        "stop_grace_period",
        "tmpfs",
        "ulimits",
        "volumes",
    ]
)
"""Of the Compose specification, those that the file uses."""


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Containerfile and their arguments, each on one line."""
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", lines)
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in joined.splitlines()) if name]


def copied(text: str) -> list[tuple[str, str]]:
    """Each file or folder of the checkout that is copied into the image, and where to."""
    found = []
    for name, rest in instructions(text):
        if name in {"COPY", "ADD"} and "--from=" not in rest:
            *sources, target = rest.split()
            found += [(source, target) for source in sources]
    return found


def complaints(text: str) -> list[str]:
    """What is wrong with an image that this Containerfile makes, as far as it can be read off."""
    found = []
    listed = output("git", "ls-files", cwd=ROOT).split()
    for source, _ in copied(text):
        if not any(name == source or name.startswith(f"{source}/") for name in listed):
            found.append(f"COPY {source}: is not in the repository")
    last: dict[str, str] = dict(instructions(text))
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", last.get("USER", "")):
        found.append("USER: must be a number, so that an orchestrator can see that it is not root")
    if last.get("VOLUME") != VOLUME or last.get("WORKDIR") != VOLUME or f"sqlite:///{VOLUME}/" not in text:
        found.append("VOLUME: the database is not in it")
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    if last.get("ENTRYPOINT") not in {f'["{name}"]' for name in scripts} or last.get("CMD") != '["serve"]':
        found.append("ENTRYPOINT: is no program of this project")
    if set(last.get("EXPOSE", "").split()) != {"9090", "8080"}:
        found.append("EXPOSE: not the ports of the server")
    checks = last.get("HEALTHCHECK", "")
    targets = {target for source, target in copied(text) if source == "docs/deploy/healthcheck.py"}
    if not any(target in checks for target in targets):
        found.append("HEALTHCHECK: its script is not in the image")
    return found


def linted(folder: Path, text: str, *, ok: bool = True) -> str:
    (folder / "Containerfile").write_text(text)
    return output(of_index("hadolint"), str(folder / "Containerfile"), ok=ok)


def test_the_containerfile_is_complete_and_clean(tmp_path: Path) -> None:
    text = IMAGE.read_text()
    assert complaints(text) == []
    assert len(copied(text)) >= 6
    linted(tmp_path, text)


@pytest.mark.parametrize(
    ("right", "wrong", "words"),
    [
        ("COPY proto ./proto", "COPY protos ./protos", "COPY protos"),
        ("COPY gpuproxy ./gpuproxy", "COPY gpuproxy.db ./gpuproxy", "COPY gpuproxy.db"),
        ("USER 10001:10001", "USER gpuproxy", "USER"),
        ("USER 10001:10001", "USER 0:0", "USER"),
        ("VOLUME /var/lib/gpuproxy", "VOLUME /data", "VOLUME"),
        ('ENTRYPOINT ["gpuproxy"]', 'ENTRYPOINT ["gpu-proxy"]', "ENTRYPOINT"),
        ("EXPOSE 9090 8080", "EXPOSE 9090", "EXPOSE"),
        ("COPY docs/deploy/healthcheck.py", "COPY README.md", "HEALTHCHECK"),
    ],
)
def test_a_broken_image_is_noticed(right: str, wrong: str, words: str) -> None:
    assert right in IMAGE.read_text()
    assert [each for each in complaints(IMAGE.read_text().replace(right, wrong)) if each.startswith(words)]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("STOPSIGNAL", "STOPSIGNALS"),
        ("python:3.11-slim-bookworm AS build", "python AS build"),
        ("RUN useradd", "RUN sudo useradd"),
        ("WORKDIR /src", "WORKDIR src"),
        ("USER 10001:10001", "USER root"),
    ],
)
def test_the_linter_notices_a_broken_containerfile(right: str, wrong: str, tmp_path: Path) -> None:
    assert right in IMAGE.read_text()
    linted(tmp_path, IMAGE.read_text().replace(right, wrong), ok=False)


def built(folder: Path, text: str) -> "subprocess.CompletedProcess[str]":
    """Do what the first stage does: copy what it copies, and run its command, below `folder`."""
    stage = text.partition("\nFROM ")[2].partition("\nFROM ")[0]
    for source, target in copied(stage):
        place = folder / target
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, place / source if target == "./" else place)
    (command,) = (rest for name, rest in instructions(stage) if name == "RUN")
    for path in ("/opt/gpuproxy", "/constraints.txt"):
        command = command.replace(path, f"{folder}{path}")
    command = command.replace("python -m venv", f"{sys.executable} -m venv")
    (folder / "opt").mkdir()
    return subprocess.run(["/bin/sh", "-c", command], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.sampled(0)
def test_what_is_copied_installs_and_serves_and_is_healthy(tmp_path: Path) -> None:
    done = built(tmp_path, IMAGE.read_text())
    assert done.returncode == 0, done.stderr
    program, state = tmp_path / "opt/gpuproxy/bin/gpuproxy", tmp_path / "state"
    state.mkdir()
    env = {"GPUPROXY_GRPC_ADDR": "127.0.0.1:0", "GPUPROXY_HTTP_ADDR": "127.0.0.1:0", "PATH": os.environ["PATH"]}
    with subprocess.Popen(
        [str(program), "serve", "--sandbox"],
        cwd=state,
        env=env,
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("HTTP"))
        http = line.removeprefix("HTTP").strip()
        healthy = health(http)
        all_interfaces = health(f"0.0.0.0:{http.rpartition(':')[2]}")
        process.terminate()
        process.communicate(timeout=PATIENCE)
    assert (healthy, all_interfaces) == ("", "")
    assert "does not answer" in health(http)
    assert process.returncode == 0


@pytest.mark.sampled(0)
def test_an_image_without_a_part_does_not_install(tmp_path: Path) -> None:
    text = IMAGE.read_text().replace("COPY proto ./proto\n", "").replace("pip install", "pip install --no-deps")
    assert text.count("proto") == 0
    assert "proto" in built(tmp_path, text).stderr


def health(address: str, **settings: str) -> str:
    """What the health check prints; nothing if it exits with 0."""
    env = {"GPUPROXY_HTTP_ADDR": address, **settings}
    words = [sys.executable, str(HEALTHCHECK)]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (done.stderr == "")
    return done.stderr


class Answers(BaseHTTPRequestHandler):
    """A server whose /healthz answers 200, as long as it is healthy."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/healthz" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


class Unhealthy(Answers):
    status = 500


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("answers", [Answers, Unhealthy])
def test_the_health_check_uses_the_settings_of_the_server(answers: type[Answers], tls: bool, tmp_path: Path) -> None:
    settings = {}
    with ThreadingHTTPServer(("127.0.0.1", 0), answers) as server:
        if tls:
            files = Pki(tmp_path).files()
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(files.cert, files.key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
            settings = {"GPUPROXY_GRPC_TLS_CERT": str(files.cert)}
        threading.Thread(target=server.serve_forever, daemon=True).start()
        said = health(f"0.0.0.0:{server.server_port}", **settings)
        mutual = health(f"127.0.0.1:{server.server_port}", GPUPROXY_GRPC_TLS_CLIENT_CA="clients.pem", **settings)
        server.shutdown()
    assert said == ("" if answers is Answers else "/healthz answers 500\n")
    assert mutual == ""


def compose_complaints(text: str, folder: Path = FILES) -> list[str]:
    """What does not fit together in a compose file."""
    found, compose = [], yaml.safe_load(text)
    services: dict[str, dict[str, Any]] = compose["services"]
    for name, service in services.items():
        found += [f"{name}: {key} is unknown" for key in set(service) - SERVICE_KEYS]
        if not service.get("read_only") or service.get("restart") != "always":
            found.append(f"{name}: writable, or not restarted")
        found += [f"{name}: no service {each}" for each in service.get("depends_on", []) if each not in services]
        found += [f"{name}: no network {each}" for each in service["networks"] if each not in compose["networks"]]
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            if not source.startswith("."):
                found += [] if source in compose["volumes"] else [f"{name}: no volume {source}"]
            elif source != "./tls" and not (folder / source).exists():
                found.append(f"{name}: no file {source}")
    return found + _server_complaints(services, folder) + _database_complaints(services)


def _server_complaints(services: dict[str, dict[str, Any]], folder: Path) -> list[str]:
    found = []
    servers = {name: service for name, service in services.items() if service["image"] == "gpuproxy"}
    for name, server in servers.items():
        build = server["build"]
        if not (folder / build["context"] / build["dockerfile"]).is_file():
            found.append(f"{name}: no Containerfile")
        if server["volumes"] != [f"data:{VOLUME}"]:
            found.append(f"{name}: its key files are not in the volume of all servers")
        if "ports" in server:
            found.append(f"{name}: publishes a port without TLS")
        if "postgres" not in _first(services, name):
            found.append(f"{name}: starts before the database")
    if len(servers) < 2 or not any(set(servers) - {name} <= _first(services, name) for name in servers):
        found.append("the servers start at once, so that each would make key files")
    return found


def _first(services: dict[str, dict[str, Any]], name: str) -> set[str]:
    """The services that are healthy before this one starts."""
    found: set[str] = set()
    for each, how in services[name].get("depends_on", {}).items():
        if how["condition"] == "service_healthy":
            found |= {each} | (_first(services, each) if each in services else set())
    return found


def _database_complaints(services: dict[str, dict[str, Any]]) -> list[str]:
    database, found = services["postgres"], []
    if "healthcheck" not in database:
        found.append("postgres: has no health check, but servers wait for it")
    if not any(volume.endswith(":/var/lib/postgresql/data") for volume in database.get("volumes", [])):
        found.append("postgres: the database is not in a volume")
    if "ports" in database or set(database["networks"]) != {"stored"}:
        found.append("postgres: is open to others than the servers")
    if database.get("env_file") != "postgres.env" or "POSTGRES_PASSWORD" in database.get("environment", {}):
        found.append("postgres: its password is not in the env file")
    return found


def proxied(text: str) -> str:
    """nginx's configuration as the service makes it, with its own command."""
    compose = yaml.safe_load(text)
    command = compose["services"]["nginx"]["command"][-1].partition(" > ")[0]
    command = command.replace("/etc/gpuproxy/nginx.conf", str(FILES / "nginx.conf"))
    return output("/bin/sh", "-c", command)


def test_the_compose_file_fits_together(tmp_path: Path) -> None:
    text = COMPOSE.read_text()
    assert compose_complaints(text) == []
    services = yaml.safe_load(text)["services"]
    addresses = [
        service["networks"]["proxied"]["ipv4_address"]
        for service in services.values()
        if service["image"] == "gpuproxy"
    ]
    made = proxied(text)
    named = re.findall(r"server ([\d.]+:\d+);", made)
    assert named == [f"{address}:{port}" for port in (9090, 8080) for address in addresses]
    assert len(addresses) == 2
    checked("nginx", tmp_path, made)


def test_the_commands_of_the_page_make_the_env_files_of_the_compose_file() -> None:
    page = (FILES / "README.md").read_text()
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    for name in {service["env_file"] for service in services.values() if "env_file" in service}:
        assert f"> {name}" in page
    user, database = (services["postgres"]["environment"][f"POSTGRES_{each}"] for each in ("USER", "DB"))
    assert f"GPUPROXY_DATABASE_URL=postgresql://{user}:$password@postgres/{database}" in page
    assert "POSTGRES_PASSWORD=$password" in page


@pytest.mark.parametrize(
    ("right", "wrong", "words"),
    [
        ("- data:/var", "- datum:/var", "no volume"),
        ("data:/var/lib/gpuproxy", "data:/var/lib", "not in the volume"),
        ("./nginx.conf:", "./nginx.cfg:", "no file"),
        ("docs/deploy/Containerfile", "Containerfile", "no Containerfile"),
        ("stored: {}", "store: {}", "no network"),
        ("postgres: {condition", "server: {condition", "no service"),
        ("    read_only: true\n    tmpfs: [/etc", "    tmpfs: [/etc", "writable"),
        ("  env_file: gpuproxy.env", '  ports: ["9090:9090"]', "publishes"),
        ("stop_grace_period", "stop_grace", "unknown"),
        ("gpuproxy-1: {condition: service_healthy}", "postgres: {condition: service_healthy}", "at once"),
        ("postgres: {condition: service_healthy}", "postgres: {condition: service_started}", "before the database"),
        ("healthcheck:", "x-healthcheck:", "no health check"),
        ("database:/var/lib/postgresql/data", "database:/var/lib/postgresql", "is not in a volume"),
        ("    env_file: postgres.env", '    ports: ["5432:5432"]', "is open"),
        ("POSTGRES_USER: gpuproxy", "POSTGRES_PASSWORD: gpuproxy", "password"),
    ],
)
def test_a_broken_compose_file_is_noticed(right: str, wrong: str, words: str) -> None:
    assert right in COMPOSE.read_text()
    assert [each for each in compose_complaints(COMPOSE.read_text().replace(right, wrong)) if words in each]


def test_an_address_that_the_proxy_does_not_use_is_noticed() -> None:
    wrong = COMPOSE.read_text().replace("s/server 127", "s/server 128")
    assert "172.31.90.2" not in proxied(wrong)
