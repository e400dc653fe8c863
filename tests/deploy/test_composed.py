"""What compose.yaml starts, started by hand: its commands, environment, volumes and order, without containers.

Debian's PostgreSQL stands for that of the image, one folder for the volume of both servers, and loopback for the
networks.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests import postgres
from tests.deploy.programs import FILES, ROOT
from tests.deploy.test_container import COMPOSE, HEALTHCHECK, IMAGE, VOLUME, instructions
from tests.ports import free_port
from tests.system.processes import KIND, PATIENCE, UNPACED, Client, Market, until

pytestmark = pytest.mark.long


def env_file(path: Path) -> dict[str, str]:
    """Its variables, as container engines read them: without quotes, and with comments on lines of their own only."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


class Composed:
    """The services of the file, each with what replaces its container."""

    def __init__(self, folder: Path) -> None:
        self.services: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
        self.here = folder / "docs" / "deploy"
        self.data = folder / "data"
        self.http: dict[str, str] = {}
        self.grpc: dict[str, str] = {}
        self.database: postgres.Server | None = None
        self.here.mkdir(parents=True)
        self.data.mkdir(mode=0o700)
        shutil.copy(ROOT / ".env.example", folder)

    def make_env_files(self, market: Market) -> None:
        """Run the page's own commands, and edit the settings as an operator would."""
        page = (FILES / "README.md").read_text().partition("    $ cd docs/deploy")[2]
        lines = [line.removeprefix("    $ ") for line in page.splitlines() if line.startswith("    $ ")]
        made = [line for line in lines if "gpuproxy.env" in line or "postgres.env" in line or "password=" in line]
        command = "umask 077; " + "; ".join(made)
        subprocess.run(["/bin/sh", "-euc", command], cwd=self.here, check=True, env=os.environ | {"EDITOR": "true"})
        path = self.here / "gpuproxy.env"
        path.write_text(path.read_text().replace("VASTAI_API_KEY=key1,key2,key3", "VASTAI_API_KEY=sandbox-key"))
        with path.open("a") as file:
            file.writelines(f"{name}={value}\n" for name, value in UNPACED.items())
            file.write(f"GPUPROXY_VASTAI_URL={market.url}\n")

    def environment(self, name: str) -> dict[str, str]:
        """What a server's container would have, with addresses and folders of this machine."""
        service, image = self.services[name], {}
        for instruction, rest in instructions(IMAGE.read_text()):
            if instruction == "ENV":
                image |= dict(word.split("=", 1) for word in shlex.split(rest))
        values = image | env_file(self.here / service["env_file"]) | service["environment"]
        assert self.database is not None
        ports = {"0.0.0.0:9090": self.grpc[name], "0.0.0.0:8080": self.http[name]}
        values = {key: ports.get(value, value).replace(VOLUME, str(self.data)) for key, value in values.items()}
        url = values["GPUPROXY_DATABASE_URL"].replace("@postgres/", f"@127.0.0.1:{self.database.port}/")
        return values | {"GPUPROXY_DATABASE_URL": url, "PATH": os.environ["PATH"]}

    def is_healthy(self, name: str) -> bool:
        """Run the service's own health check."""
        if name == "postgres":
            assert self.database is not None
            kind, program, *options = self.services[name]["healthcheck"]["test"]
            assert kind == "CMD"
            command = [str(self.database.bin / program), *options, f"--port={self.database.port}"]
            return subprocess.run(command, capture_output=True, check=False).returncode == 0
        return self.run(name, sys.executable, str(HEALTHCHECK)).returncode == 0

    def run(self, name: str, *command: str, **changed: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in a server's environment."""
        return subprocess.run(
            command, env=self.environment(name) | changed, cwd=self.data, capture_output=True, text=True, check=False
        )

    @contextmanager
    def postgres(self) -> Iterator[None]:
        """The database as its image makes it: durable, with a password for whoever comes over the network."""
        service = self.services["postgres"]
        made = service["environment"] | env_file(self.here / service["env_file"])
        self.database = postgres.Server(fsync=True)
        try:
            with psycopg.connect(self.database.url("postgres"), autocommit=True) as admin:
                user, database, password = (made[f"POSTGRES_{each}"] for each in ("USER", "DB", "PASSWORD"))
                admin.execute(f"CREATE ROLE {user} SUPERUSER LOGIN PASSWORD '{password}'")
                admin.execute(f"CREATE DATABASE {database} OWNER {user}")
            rules = self.database._data / "pg_hba.conf"
            rules.write_text(f"host all all 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
            self.database.stop()
            self.database.start()
            yield
        finally:
            self.database.remove()

    @contextmanager
    def server(self, name: str) -> Iterator["subprocess.Popen[bytes]"]:
        """Start the image's command when what it depends on is as the file says."""
        for other, condition in self.services[name]["depends_on"].items():
            assert condition == {"condition": "service_healthy"}
            until(lambda other=other: self.is_healthy(other))
        self.grpc[name], self.http[name] = (f"127.0.0.1:{free_port()}" for _ in range(2))
        with (self.data.parent / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(command(), env=self.environment(name), cwd=self.data, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def client(self, name: str) -> Client:
        return Client(self.grpc[name], (self.data / "gpuproxy.admin-key").read_text().strip())


def command() -> list[str]:
    """That of the image."""
    last: Mapping[str, str] = dict(instructions(IMAGE.read_text()))
    assert last["ENTRYPOINT"] == '["gpuproxy"]'
    return [sys.executable, "-m", "gpuproxy", *yaml.safe_load(last["CMD"])]


def reserved(client: Client, request_id: str) -> str:
    made = client.call("ReserveGPUs", pb.ReserveGPUsRequest(count=1, max_price=5, request_id=request_id))
    return str(made.reservation_id)


def test_what_the_compose_file_starts_serves_as_one_and_stops(tmp_path: Path) -> None:
    with Market(tmp_path, *KIND) as market, ExitStack() as stack:
        composed = Composed(tmp_path)
        composed.make_env_files(market)
        stack.enter_context(composed.postgres())
        names = [name for name, service in composed.services.items() if service["image"] == "gpuproxy"]
        servers = {name: stack.enter_context(composed.server(name)) for name in names}
        until(lambda: all(composed.is_healthy(name) for name in names))
        first, second = (stack.enter_context(composed.client(name)) for name in names)
        until(lambda: first.knows_offers() and second.knows_offers())

        made = reserved(first, "a")
        assert reserved(second, "a") == made
        assert [each.reservation_id for each in second.instances()] == [made]
        assert len(market.alive()) == 1
        doctor = composed.run(names[0], sys.executable, "-m", "gpuproxy", "doctor")
        assert doctor.returncode == 0, doctor.stdout + doctor.stderr

        keys = {file.name: file.stat().st_mode & 0o777 for file in composed.data.iterdir()}
        assert keys == {f"gpuproxy.{each}-key": 0o600 for each in ("admin", "demand", "secrets")}
        other = tmp_path / "another volume"
        other.mkdir()
        stranger = composed.run(names[1], *command(), GPUPROXY_DEMAND_KEY_FILE=str(other / "demand-key"))
        assert stranger.returncode == 2
        assert "GPUPROXY_DEMAND_KEY_FILE" in stranger.stderr
        assert "not started" in stranger.stderr

        second.call("ReleaseReservation", pb.ReleaseReservationRequest(reservation_id=made))
        until(lambda: not market.alive())
        for name in names:
            servers[name].send_signal(signal.SIGTERM)
        assert [servers[name].wait(PATIENCE) for name in names] == [0, 0]
