"""The second document's own curl commands against the real program: the address, the key and the host are replaced."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import published
from tests.edge.test_pools import same_shape
from tests.system.processes import WHOLE, Market, Server, until

_SCALE = "6"
_SETTINGS = {
    "GPUPROXY_TIME_SCALE": _SCALE,
    "GPUPROXY_WARMPOOL_START_TIMEOUT": "1h",
    "GPUPROXY_WARMPOOL_FENCE_TIMEOUT": "1h",
}
"""On a busy machine the market's clock runs while the processes wait for their turn."""

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")


class Commands:
    """Runs the document's commands."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.calls = published.calls()
        self.host = published.HOST_NUMBER

    def run(self, title: str) -> Any:
        """The answer of a command, which must be 200 with the printed fields."""
        call = self.calls[title]
        command = call.command.replace(published.HOST, f"http://{self.server.http}")
        command = command.replace(published.HOST_NUMBER, self.host)
        script = f"{command} --silent --write-out '\\n%{{http_code}}'"
        env = {"API_KEY": self.server.key, "PATH": "/usr/local/bin:/usr/bin:/bin"}
        output = subprocess.run(
            ["/bin/bash", "-c", script], capture_output=True, text=True, check=True, timeout=600, env=env
        ).stdout
        body, _, status = output.rpartition("\n")
        assert status == "200", (title, output)
        given = json.loads(body)
        if title != "GET /warmpool/status/{machine_id}":  # whose nulls depend on what has happened
            same_shape(call.answer, given)
        return given

    def text(self, title: str, name: str) -> Any:
        """What the document prints."""
        return self.calls[title].answer[name]


@pytest.mark.skipif(not published.WARM_POOL.exists(), reason="the published document is not here")
def test_the_published_commands_make_test_disable_enable_and_clean_up_a_pool(tmp_path: Path) -> None:
    options = ("--rate-limits", "off", *WHOLE, "--time-scale", _SCALE)
    with Market(tmp_path, *options) as market, Server(tmp_path, market, **_SETTINGS) as server:
        with server.client() as client:
            until(client.knows_offers)
        curl = Commands(server)
        hosts = curl.run("GET /warmpool/hosts")["hosts"]
        curl.host = str(next(each["machine_id"] for each in hosts if each["can_create_warm_pool"]))

        made = curl.run("POST /warmpool/provision")
        assert made["message"] == curl.text("POST /warmpool/provision", "message")
        assert (made["status"]["state"], made["status"]["host_machine_id"]) == ("active", int(curl.host))
        status = curl.run("GET /warmpool/status/{machine_id}")
        assert (status["standby_state"], status["failover_count"], status["error_message"]) == ("stopped", 0, None)

        tested = curl.run("POST /warmpool/failover/test/{machine_id}")
        assert tested["message"] == curl.text("POST /warmpool/failover/test/{machine_id}", "message")
        assert tested["new_primary_gpu_id"] == status["standby_gpu_id"]

        off = curl.run("POST /warmpool/disable/{machine_id}")
        assert curl.calls["POST /warmpool/disable/{machine_id}"].answer.items() <= off.items()
        on = curl.run("POST /warmpool/enable/{machine_id}")
        assert curl.calls["POST /warmpool/enable/{machine_id}"].answer.items() <= on.items()
        until(lambda: curl.run("GET /warmpool/status/{machine_id}")["state"] == "active")

        gone = curl.run("DELETE /warmpool/cleanup/{machine_id}")
        assert curl.calls["DELETE /warmpool/cleanup/{machine_id}"].answer.items() <= gone.items()
        assert market.alive() == {}
        assert [row["id"] for row in market.state()["volumes"] if row["deleted_at"] is None] == []
