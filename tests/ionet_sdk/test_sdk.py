"""The official SDK of io.net, unmodified, with the sandbox. Skipped only if the package index can't be reached."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import own_venv

pytestmark = pytest.mark.timeout(1800)  # the first run installs the SDK
_HERE = Path(__file__).resolve().parent
_HOME = _HERE.parent.parent / ".venv-ionet"
_KEY = "sandbox-key"


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter of the SDK's environment."""
    try:
        return own_venv.installed(_HOME, _HERE / "requirements.lock") / "python"
    except own_venv.NotInstalled as error:
        if error.unreachable and not os.environ.get("CI"):
            pytest.skip(f"io.net's SDK is not tested, because the package index can't be reached: {error}")
        raise


@pytest.fixture(scope="module", params=["id"])
def market(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a sandbox, which answers deploys with this body."""
    command = [sys.executable, "-c", "from gpuproxy.cli.sandbox import sandbox; sandbox()"]
    options = ["--port=0", "--machines=8", "--boot-time=20", "--ionet-lag=1", "--exit-with-parent"]
    words = [*command, *options, f"--ionet-deploy-body={request.param}"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
        process.communicate()


def told(python: Path, market: str, story: str, home: Path) -> Any:
    """What the SDK gave in one story."""
    environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(home), "NO_PROXY": "127.0.0.1"}
    words = [str(python), str(_HERE / "story.py"), market, _KEY, story]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def state(market: str, number: str) -> Any:
    """The row of a deployment in the market's own books."""
    with urllib.request.urlopen(f"{market}/sandbox/v1/state", timeout=60) as answer:  # noqa: S310 - ours
        return next(row for row in json.load(answer)["instances"] if row["id"] == number)


def test_hardware_and_prices_can_be_read_without_a_key(python: Path, market: str, tmp_path: Path) -> None:
    said = told(python, market, "market", tmp_path)
    assert {"int 12", "str 203", "str 8H100.80S.176V"} <= set(said["ids"])
    assert (said["cost"], said["container_cost"]) == (1.8, 10.56)
    assert (said["cost_of_named"], said["gpus_of_named"]) == (55.750685, 8)
    assert "L40" in said["containers"]


def test_a_virtual_machine_is_booked_extended_and_ended(python: Path, market: str, tmp_path: Path) -> None:
    said = told(python, market, "machine", tmp_path)
    port = said["service"].pop("public_port")
    assert said["service"] == {
        "port": 8000,
        "protocol": "tcp",
        "whitelist": ["0.0.0.0/0"],
        "public_ip": "127.0.0.1",
        "srv_record": "",
    }
    assert port > 1023
    assert said["ssh"].startswith("ssh ubuntu@127.0.0.1 -p ")
    assert said["ssh"] == said["same_ssh"]
    assert (said["at_first"], said["ending"], said["ended"]) == (
        "deployment requested",
        "termination requested",
        "destroyed",
    )
    assert (said["name"], said["gpus"], said["paid"]) == ("sdk-vm", 2, 1.2)
    assert (said["paid_with_extension"], said["minutes"]) == (1.8, 180)
    assert (said["destroyed"], said["pools"]) == ([said["id"]], [])
    row = state(market, said["id"])
    assert (row["paid_micro_usd"], row["billed_micro_usd"]) == (1_800_000, 600_000)


def test_containers_are_booked_updated_and_ended_and_their_log_is_read(
    python: Path, market: str, tmp_path: Path
) -> None:
    said = told(python, market, "container", tmp_path)
    assert said["url"].startswith("http://127.0.0.1:")
    assert said["lines"][-1] == "listens on port 8080"
    assert said["env"] == {"A": "2"}
    assert (said["paid"], said["ended"]) == (15.84, "destroyed")
    assert state(market, said["id"])["billed_micro_usd"] == 15_840_000


def test_the_sdk_understands_all_refusals(python: Path, market: str, tmp_path: Path) -> None:
    said = told(python, market, "refusals", tmp_path)
    assert [(name, *seen[:2]) for name, seen in said.items()] == [
        ("missing", "NotFoundError", 404),
        ("hours", "UnprocessableError", 422),
        ("sold_out", "APIError", 400),
        ("key", "AuthenticationError", 401),
    ]
    assert "duration_hours" in said["hours"][2]
    assert "capacity" in said["sold_out"][2]


@pytest.mark.parametrize("market", ["empty"], indirect=True)
def test_a_deploy_with_an_empty_answer_is_found_by_its_name(python: Path, market: str, tmp_path: Path) -> None:
    assert told(python, market, "empty", tmp_path) == {"failed": "ValidationError", "found": ["sdk-empty"]}
