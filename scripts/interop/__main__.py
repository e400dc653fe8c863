"""Other people's clients against the real server on a simulated market: Go, Node, Python, grpcurl. `make interop`.

Prints a line for each thing that held and ends with `interop: N checks passed`; exits 1 at the first that did not, and
when a language is missing: a suite that did not run has not passed.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpuproxy.v1 import gpuproxy_pb2 as pb
from scripts.interop import tools, workshop
from scripts.interop.go_publishing import check_published_module
from scripts.interop.workshop import Unable
from tests.system.processes import KIND, UNPACED, Market, Server, until

_OK = re.compile(r"^ok   ", re.MULTILINE)


def main() -> int:
    """0 when everything held."""
    try:
        workshop.tools()
        workshop.check_go_package()
        print("ok   the Go package in proto/ is what the contract says")
        check_published_module()
        print("ok   a program gets the Go package by its import path from a module proxy, and runs")
        workshop.test_go(workshop.ROOT / "scripts" / "cluster" / "checker")
        print("ok   the checker of recorded histories refuses planted mistakes")
        with tempfile.TemporaryDirectory(prefix="gpuproxy-interop-") as folder, _served(Path(folder)) as server:
            passed = 3 + sum(_suites(server))
    except (Unable, subprocess.TimeoutExpired) as failure:
        print(f"interop failed: {failure}", file=sys.stderr)
        return 1
    print(f"interop: {passed} checks passed")
    return 0


def _suites(server: Server) -> Iterator[int]:
    """How many checks of each program held."""
    for name, program in workshop.go_programs(server.address).items():
        yield _program(f"go {name}", server, str(program))
    for name, script in workshop.node_programs(server.address).items():
        yield _program(f"node {name}", server, "node", str(script))
    yield _program("python example", server, *workshop.python_program(server.address))
    for suite, checks in (("grpcurl", tools.grpcurl), ("reflection", tools.reflection)):
        for held in checks(server.address, server.key):
            print(f"ok   {suite}: {held}", flush=True)
            yield 1
    with server.client() as client:
        until(lambda: not client.instances())
    print("ok   everything that was rented is released")
    yield 1


def _program(name: str, server: Server, *command: str) -> int:
    """What it printed counts, and its exit code; a program without checks is one itself."""
    own = {
        "INTEROP_GRPC": server.address,
        "INTEROP_KEY": server.key,
        "GPUPROXY_API_KEY": server.key,
        "INTEROP_PROTO": str(workshop.ROOT / "proto"),
        "INTEROP_PUBLISHED": str(workshop.HERE / "published.proto"),
        "INTEROP_GOOGLE": str(workshop.GOOGLE),
    }
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")} | own
    done = subprocess.run(
        command, cwd=workshop.ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        timeout=180,
    )  # fmt: skip
    print(done.stdout, end="", flush=True)
    if done.returncode:
        raise Unable(f"{name} ended with exit code {done.returncode}")
    if "example" in name:
        print(f"ok   {name} of docs/examples")
        return 1
    return len(_OK.findall(done.stdout))


@contextmanager
def _served(folder: Path) -> Iterator[Server]:
    market = Market(folder, *KIND, "--boot-time", "0.5,1", "--machines", "2000")
    with market, Server(folder, market, **UNPACED) as server:
        with server.client() as client:
            until(lambda: client.call("ListGPUInstances", pb.ListGPUInstancesRequest()).total_count)
        yield server


if __name__ == "__main__":
    sys.exit(main())
