"""The real programs as processes: a market, a server on its own books, and a client of the published contract."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import grpc

from gpuproxy.v1 import gpuproxy_pb2 as pb
from gpuproxy.v1.gpuproxy_pb2_grpc import GPUProxyServiceStub
from tests.forked import Forked

UNPACED = {f"GPUPROXY_VASTAI_{call}_INTERVAL": "0" for call in ("SEARCH", "CREATE", "LIST", "GET", "DESTROY")}
WHOLE = ("--search-page", "0", "--shy-rows", "0")
"""Whole searches and right rows, at the real rate limits."""
PATIENCE = 1200.0
"""Real seconds. They only end what hangs: a machine may be as busy as it likes."""
KIND = ("--rate-limits", "off", *WHOLE)
"""The kind market, for what is not about the market. Without options `Market` is as unkind as the real one."""


class Market:
    """`gpuproxy sandbox` on a free port."""

    def __init__(self, directory: Path, *options: str) -> None:
        self._process = _started(directory, {}, "sandbox", "--port", "0", *options)
        self.url = _line(self._process, "sandbox listening on ")

    def state(self) -> dict[str, Any]:
        return self.control("GET", "state")

    def alive(self) -> dict[str, dict[str, Any]]:
        return {str(i["id"]): i for i in self.state()["instances"] if i["destroyed_at"] is None}

    def arm(self, call: str, fault: str, times: int = 1, after: int = 0, **args: Any) -> None:
        body = {"provider": "vast.ai", "call": call, "fault": fault, "times": times, "after": after, "args": args}
        self.control("POST", "faults", body)

    def control(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """One call of the control API."""
        url, data = f"{self.url}/sandbox/v1/{path}", None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310 - loopback
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310 - loopback
            said: dict[str, Any] = json.load(answer)
            return said

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _stop(self._process)


class Server:
    """`gpuproxy serve` on free ports, with its books in `directory`; a market's address, or the sandbox of its own."""

    def __init__(self, directory: Path, market: Market | None = None, **settings: str) -> None:
        self._directory = directory
        own = {
            "GPUPROXY_GRPC_ADDR": "127.0.0.1:0",
            "GPUPROXY_HTTP_ADDR": "127.0.0.1:0",
            "GPUPROXY_DATABASE_URL": f"sqlite:///{directory}/books.db",
        }
        if market is not None:
            own |= {"GPUPROXY_VASTAI_URL": market.url, "VASTAI_API_KEY": "sandbox-key"}
        own["GPUPROXY_EVENT_LOOP"] = os.environ.get("LOOP", "asyncio")
        self._settings = own | settings
        self._options = [] if market else ["--sandbox"]
        self.start()

    def start(self) -> None:
        self._process = _started(self._directory, self._settings, "serve", *self._options)
        self.address = _line(self._process, "gRPC")
        self.http = _line(self._process, "HTTP")
        on_file = self._settings["GPUPROXY_DATABASE_URL"].startswith("sqlite:")
        kept = self._directory / ("books.db.admin-key" if on_file else "gpuproxy.admin-key")
        self.key = self._settings.get("GPUPROXY_ADMIN_API_KEY") or kept.read_text().strip()

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        _stop(self._process)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def ended(self) -> int:
        """Its exit code, once it has ended by itself."""
        code = self._process.wait(timeout=PATIENCE)
        _stop(self._process)
        return code

    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def memory_kb(self) -> int:
        """Resident memory."""
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS")))

    def client(self) -> "Client":
        return Client(self.address, self.key)

    def log(self) -> str:
        return (self._directory / "serve.log").read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _stop(self._process)


class Client:
    """A blocking client."""

    def __init__(self, address: str, key: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self.stub = GPUProxyServiceStub(self._channel)
        self.metadata = (("x-api-key", key),)

    def call(self, rpc: str, request: Any, *, timeout: float = PATIENCE) -> Any:
        return getattr(self.stub, rpc)(request, metadata=self.metadata, timeout=timeout)

    def future(self, rpc: str, request: Any, *, timeout: float = PATIENCE) -> Any:
        return getattr(self.stub, rpc).future(request, metadata=self.metadata, timeout=timeout)

    def instances(self) -> list[pb.GPUInstance]:
        request = pb.ListGPUInstancesRequest(state="rented")
        return list(self.call("ListGPUInstances", request).instances)

    def knows_offers(self) -> bool:
        """Whether the market was read; a server whose clock is quick waits for that only a moment of real time."""
        try:
            return self.call("ListGPUInstances", pb.ListGPUInstancesRequest(verified_only=False)).total_count > 0
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def until(condition: Callable[[], object]) -> None:
    """Poll processes that run on real time."""
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit, f"it did not come about within {PATIENCE:.0f} s"
        time.sleep(0.1)


def reserved(client: Client, request_id: str) -> pb.ReserveGPUsResponse | None:
    """The answer; None while the database can't be used."""
    try:
        asked = pb.ReserveGPUsRequest(count=1, max_price=5, request_id=request_id)
        answer: pb.ReserveGPUsResponse = client.call("ReserveGPUs", asked)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return None
    return answer


def _started(directory: Path, settings: dict[str, str], *command: str) -> "subprocess.Popen[str] | Forked":
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("GPUPROXY_", "VASTAI_"))}
    log = directory / f"{command[0]}.log"
    if "PYTEST_VERSION" in os.environ and "PYTHONPATH" not in settings:
        return Forked(directory, inherited | settings, *command, errors=log)
    with log.open("a") as errors:  # a script wants all of a start, and another path has other modules
        return subprocess.Popen(
            [sys.executable, "-m", "gpuproxy", *command],
            cwd=directory,
            env=inherited | settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )


def _line(process: "subprocess.Popen[str] | Forked", beginning: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(beginning):
            return line.removeprefix(beginning).strip()
    _stop(process)
    raise AssertionError(f"{process.args} ended with {process.returncode} before it printed {beginning!r}")


def _stop(process: "subprocess.Popen[str] | Forked") -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
