"""Webhooks over real sockets: the example receiver, the commands, and a server whose log has no secret."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gpuproxy.cli import root
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.system.processes import KIND, UNPACED, Market, Server, until
from tests.webhooks.receiving import EXAMPLE

pytestmark = pytest.mark.long
SECRET = "cnrysecret-of-sixteen"


@contextmanager
def receiver(log: Path) -> Iterator[str]:
    """The example as a process. Gives its URL."""
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, EXAMPLE, "0"], stdout=out, env={"GPUPROXY_WEBHOOK_SECRET": SECRET, "PATH": ""}
        )
        try:
            until(lambda: "listening on" in log.read_text())
            yield f"http://127.0.0.1:{log.read_text().split()[-1]}/cnrypath"
        finally:
            process.terminate()
            process.wait()


@contextmanager
def answering(status: int) -> Iterator[tuple[str, list[str]]]:
    """A server with one answer, a redirect to itself for 302. Gives its URL and the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        do_GET = do_POST  # noqa: N815 - the library's name

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/cnrypath", asked
        finally:
            server.shutdown()
            thread.join()


def run(*words: str, folder: Path, **env: str) -> Result:
    own = {"GPUPROXY_DATABASE_URL": f"sqlite:///{folder}/books.db", "GPUPROXY_WEBHOOK_SECRET": SECRET}
    return CliRunner().invoke(root, ("webhooks", *words), env=own | env, catch_exceptions=False)


def test_the_test_command_says_whether_the_target_takes_an_event(tmp_path: Path) -> None:
    with receiver(tmp_path / "events") as url:
        good = run("test", folder=tmp_path, GPUPROXY_WEBHOOK_URL=url)
        assert (good.exit_code, good.output) == (0, "default: taken (status 204)\n")
        assert "webhook.test" in (tmp_path / "events").read_text()
        wrong = run("test", folder=tmp_path, GPUPROXY_WEBHOOK_URL=url, GPUPROXY_WEBHOOK_SECRET="another-of-sixteen")
        assert (wrong.exit_code, wrong.output) == (1, "default: it answered 401\n")
    gone = run("test", "--json", folder=tmp_path, GPUPROXY_WEBHOOK_URL=url)
    assert gone.exit_code == 1
    assert json.loads(gone.output)["answers"][0]["status"] == 0
    assert "cnry" not in gone.output
    assert json.loads(gone.output)["answers"][0]["error"] == "no connection (connection refused)"
    nameless = run("test", folder=tmp_path, GPUPROXY_WEBHOOK_URL="http://name.invalid/cnrypath")
    assert nameless.output == "default: no connection (the host's name is not known)\n"
    unknown = run("test", "other", folder=tmp_path, GPUPROXY_WEBHOOK_URL=url)
    assert unknown.exit_code == 2
    assert "There is no webhook 'other'. The webhooks: default." in unknown.output


def test_a_receiver_without_tls_is_said_to_be_without_and_not_named(tmp_path: Path) -> None:
    with answering(200) as (url, asked):
        result = run("test", folder=tmp_path, GPUPROXY_WEBHOOK_URL=url.replace("http:", "https:"))
    assert (result.exit_code, asked) == (1, [])
    assert result.output == "default: no connection (TLS failed)\n"


def test_a_real_redirect_is_not_followed(tmp_path: Path) -> None:
    with answering(302) as (url, asked):
        result = run("test", folder=tmp_path, GPUPROXY_WEBHOOK_URL=url)
    assert result.exit_code == 1
    assert "redirect" in result.output
    assert asked == ["/cnrypath"]


def test_the_list_of_targets_has_no_url(tmp_path: Path) -> None:
    shown = run("list", folder=tmp_path, GPUPROXY_WEBHOOK_URL="https://ops.example/cnrypath").output
    assert "default" in shown
    assert "cnry" not in shown
    assert "ops.example" not in shown


def test_a_server_whose_clock_runs_fast_signs_with_the_real_time(tmp_path: Path) -> None:
    events, books = tmp_path / "events", tmp_path / "server"
    books.mkdir()
    with (
        receiver(events) as url,
        Market(tmp_path, *KIND, "--boot-time", "0.1,0.2", "--time-scale", "50") as market,
        Server(
            books, market, **UNPACED, GPUPROXY_WEBHOOK_URL=url, GPUPROXY_WEBHOOK_SECRET=SECRET, GPUPROXY_TIME_SCALE="50"
        ) as server,
        server.client() as client,
    ):
        until(lambda: client.call("HealthCheck", pb.HealthCheckRequest()).timestamp > time.time() + 400)
        until(client.knows_offers)
        market.arm("create", "reset_after")
        client.call("ReserveGPUs", pb.ReserveGPUsRequest(count=1, max_price=5.0, request_id="r1"))
        until(lambda: "webhook_" in server.log())
        assert "webhook_failed" not in server.log()
    [line] = [line for line in events.read_text().splitlines() if "reservation.unknown" in line]
    created = datetime.fromisoformat(line.split()[0])
    assert created.timestamp() > time.time() + 300  # the event has the server's time


def test_a_server_posts_and_its_log_has_no_secret(tmp_path: Path) -> None:
    events, books = tmp_path / "events", tmp_path / "server"
    books.mkdir()
    with (
        receiver(events) as url,
        answering(500) as (other, asked),
        Market(tmp_path, *KIND, "--boot-time", "0.1,0.2") as market,
    ):
        file = tmp_path / "webhooks.toml"
        file.write_text(f"[[webhook]]\nname = 'broken'\nurl = '{other}'\nsecrets = ['{SECRET}']\n")
        file.chmod(0o600)
        hooks = {
            "GPUPROXY_WEBHOOK_URL": url,
            "GPUPROXY_WEBHOOK_SECRET": SECRET,
            "GPUPROXY_WEBHOOKS_FILE": str(file),
        }
        with Server(books, market, **UNPACED, **hooks) as server, server.client() as client:
            until(lambda: client.call("ListGPUInstances", pb.ListGPUInstancesRequest()).total_count)
            market.arm("create", "reset_after")
            client.call("ReserveGPUs", pb.ReserveGPUsRequest(count=1, max_price=5.0, request_id="r1"))
            until(lambda: "reservation.unknown" in events.read_text())
            until(lambda: asked)
            until(lambda: "webhook_failed" in server.log())
            shown = run("log", "--json", folder=books, GPUPROXY_WEBHOOK_URL=url)
            assert shown.exit_code == 0, shown.output
            by_target = {each["target"]: each for each in json.loads(shown.output)["deliveries"]}
            assert by_target["default"]["type"] == by_target["broken"]["type"] == "reservation.unknown"
            assert by_target["default"]["id"] == by_target["broken"]["id"]
            until(lambda: '"status": 500' in run("log", "--json", folder=books, GPUPROXY_WEBHOOK_URL=url).output)
            assert "reservation.unknown" in run("log", folder=books, GPUPROXY_WEBHOOK_URL=url).output
            assert "cnry" not in server.log()
            assert "webhooks_used" in server.log()
    assert events.read_text().count("reservation.unknown") == 1
