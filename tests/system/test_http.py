"""The published documents' own curl commands against the real program, host and key replaced and nothing else."""

import json
import re
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.system.processes import KIND, UNPACED, Market, Server, until

SEED = Path(__file__).resolve().parents[2].parent / "shared" / "seeds" / "gpu-reservations.md"
RESERVE = """\
curl -X POST http://localhost:8080/api/v1/gpu/instances/reserve \\
  -H "X-API-Key: YOUR_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{
    "count": 4,
    "filters": {
      "min_vram": 16,
      "max_price": 2.0,
      "provider": "vast.ai"
    }
  }'
"""
STRATEGY = """\
curl -X PUT http://localhost:8080/api/v1/loadbalancer/strategy \\
  -H "X-API-Key: YOUR_API_KEY" \\
  -d '{"strategy": "least_connections"}'
"""
SHAPE = {
    "id": str,
    "provider": str,
    "status": str,
    "price_per_hour": float,
    "vram_gb": int,
    "gpu_model": str,
    "num_gpus": int,
    "location": str,
    "metadata": dict,
}
"""GPUInstance as the first document has it."""

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")


@pytest.fixture(name="server", scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests that don't count what it did."""
    with _started(tmp_path_factory.mktemp("shared")) as started:
        yield started


@pytest.fixture(name="fresh")
def _fresh(tmp_path: Path) -> Iterator[Server]:
    """One that did nothing yet, and that may end."""
    with _started(tmp_path) as started:
        yield started


@contextmanager
def _started(directory: Path) -> Iterator[Server]:
    with Market(directory, *KIND) as market, Server(directory, market, **UNPACED) as started:
        with started.client() as client:
            until(lambda: client.call("ListGPUInstances", pb.ListGPUInstancesRequest()).total_count)
        yield started


def published() -> list[str]:
    """Every curl command of the document, as it stands there."""
    if not SEED.exists():
        pytest.skip("the published document is not here")
    blocks = re.findall(r"```bash\n(.*?)```", SEED.read_text(encoding="utf-8"), re.DOTALL)
    return [block for block in blocks if block.startswith("curl ")]


def run(server: Server, command: str) -> tuple[int, Any]:
    """The status and the JSON of a command."""
    replaced = command.replace("localhost:8080", server.http).replace("YOUR_API_KEY", server.key).strip()
    script = f"{replaced} --silent --write-out '\\n%{{http_code}}'"
    command_line = ["/bin/bash", "-c", script]
    output = subprocess.run(command_line, capture_output=True, text=True, check=True, timeout=1200).stdout
    body, _, status = output.rpartition("\n")
    return int(status), json.loads(body)


def get(server: Server, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://{server.http}{path}", timeout=1200) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def judge_reserve(status: int, answer: Any) -> None:
    assert (status, answer["reserved_count"]) == (201, 4)
    assert isinstance(answer["message"], str)
    assert sum(gpu["num_gpus"] for gpu in answer["reserved_instances"]) == 4
    for gpu in answer["reserved_instances"]:
        assert {name: type(gpu[name]) for name in SHAPE} == SHAPE
        assert (gpu["provider"], gpu["status"], gpu["vram_gb"] >= 16) == ("vast.ai", "reserved", True)
        assert gpu["price_per_hour"] / gpu["num_gpus"] <= 2.0
        assert gpu["metadata"]["contract_id"]


def judge(status: int, answer: Any, command: str) -> None:
    if "/reserve" in command:
        judge_reserve(status, answer)
    elif "/strategy" in command:
        assert (status, answer) == (200, {"strategy": "least_connections", "success": True})
    else:
        pytest.fail(f"nothing is known about {command}")


def test_the_commands_of_the_published_document_work_as_it_says(server: Server) -> None:
    commands = published()
    assert len(commands) == 2
    for command in commands:
        judge(*run(server, command), command)


@pytest.mark.parametrize("command", [RESERVE, STRATEGY])
def test_a_copy_of_the_commands_works_too(server: Server, command: str) -> None:
    judge(*run(server, command), command)


def test_the_copy_is_the_document() -> None:
    assert published() == [RESERVE, STRATEGY]


def test_bad_counts_and_too_few_machines_are_400_and_rent_nothing(server: Server) -> None:
    with server.client() as client:
        before = {one.contract_id for one in client.instances()}
    for change in ('"count": 0', '"count": 17', '"count": 4, "gpu_model": "GPU of nobody"'):
        status, answer = run(server, RESERVE.replace('"count": 4', change))
        assert (status, answer["error"]["code"]) == (400, 400)
    with server.client() as client:
        assert {one.contract_id for one in client.instances()} <= before


def test_what_is_reserved_over_http_is_released_over_http(server: Server) -> None:
    _, made = run(server, RESERVE)
    base = f"http://localhost:8080/api/v1/reservations/{made['reservation_id']}"
    key = '-H "X-API-Key: YOUR_API_KEY"'
    status, shown = run(server, f"curl {base} {key}")
    assert (status, shown["reservation"]["reserved_count"]) == (200, 4)
    contract = made["reserved_instances"][0]["metadata"]["contract_id"]
    status, gone = run(server, f"curl -X DELETE http://localhost:8080/api/v1/gpu/instances/vast.ai/{contract} {key}")
    assert (status, gone["success"]) == (200, True)
    status, released = run(server, f"curl -X DELETE {base} {key}")
    assert (status, released["reservation"]["state"] in ("releasing", "released")) == (200, True)


def test_a_ready_server_says_so_and_is_measured(fresh: Server) -> None:
    run(fresh, RESERVE)
    status, body = get(fresh, "/readyz")
    assert (status, json.loads(body)["checks"]["accounts"]) == (200, "ok")
    measured = get(fresh, "/metrics")[1].decode()
    assert 'gpuproxy_rpcs_total{code="OK",rpc="ReserveGPUs"} 1.0' in measured
    assert re.search(r'gpuproxy_provider_calls_total\{account="vast-1",call="create",outcome="ok",.*\} 4.0', measured)
    assert re.search(r'gpuproxy_leases\{provider="vast.ai",state="(starting|active)"\} \d', measured)


def test_a_stopping_server_ends_by_itself_with_connections_open(fresh: Server) -> None:
    with urllib.request.urlopen(f"http://{fresh.http}/healthz", timeout=1200):
        fresh.signal(signal.SIGTERM)
        assert fresh.ended() == 0
