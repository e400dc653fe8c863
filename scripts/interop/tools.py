"""grpcurl and buf curl against the server: both versions of reflection, a reservation, an error. Yields what held."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.interop.workshop import BIN, Unable

V1 = "gpuproxy.v1.GPUProxyService"
PUBLISHED = "gpuproxy.GPUProxyService"
DEMAND = {"count": 2, "provider": "vast.ai", "min_vram": 16, "max_price": 2.0}


def grpcurl(address: str, key: str) -> Iterator[str]:
    """List, describe, the main job and an error, knowing nothing but what reflection says."""
    listed = _grpcurl(address, "", "list").split()
    yield _must("list", {V1, PUBLISHED, "grpc.health.v1.Health"} <= set(listed))
    described = _grpcurl(address, "", "describe", f"{V1}.ReserveGPUs")
    yield _must("describe ReserveGPUs", "rpc ReserveGPUs ( .gpuproxy.v1.ReserveGPUsRequest )" in described)
    health = json.loads(_grpcurl(address, "", "grpc.health.v1.Health/Check"))
    yield _must("health", health == {"status": "SERVING"})
    for service in (V1, PUBLISHED):
        made = json.loads(_grpcurl(address, key, f"{service}/ReserveGPUs", DEMAND))
        yield _must(f"{service}/ReserveGPUs", made["reserved_count"] == DEMAND["count"])
        for gpu in made["reserved_instances"]:
            one = {"provider": "vast.ai", "instance_id": gpu["metadata"]["contract_id"]}
            gone = json.loads(_grpcurl(address, key, f"{service}/DestroyGPUInstance", one))
            yield _must(f"{service}/DestroyGPUInstance {one['instance_id']}", gone["success"])
    wrong = _grpcurl(address, key, f"{V1}/ReserveGPUs", {"count": 17}, fails=True)
    yield _must("an error names code and field", "Code: InvalidArgument" in wrong and '"field": "count"' in wrong)
    secret = _grpcurl(address, "gpx-wrong", f"{V1}/ReserveGPUs", DEMAND, fails=True)
    yield _must("a wrong key is Unauthenticated", "Code: Unauthenticated" in secret)


def reflection(address: str, key: str) -> Iterator[str]:
    """Buf curl can be told which version of reflection to use; grpcurl can't."""
    for version in ("grpc-v1", "grpc-v1alpha"):
        how = ("curl", "--http2-prior-knowledge", "--protocol", "grpc", "--reflect-protocol", version)
        methods = _run(str(Path(sys.executable).with_name("buf")), *how, "--list-methods", f"http://{address}")
        yield _must(f"{version} lists", {f"{V1}/ReserveGPUs", f"{PUBLISHED}/ReserveGPUs"} <= set(methods.split()))
        url = f"http://{address}/{V1}/GetLoadBalancerStrategy"
        answer = _run(str(Path(sys.executable).with_name("buf")), *how, "-H", f"x-api-key: {key}", "-d", "{}", url)
        yield _must(f"{version} calls", "strategy" in json.loads(answer))


def _grpcurl(address: str, key: str, what: str, rest: Any = None, *, fails: bool = False) -> str:
    words = [str(BIN / "grpcurl"), "-plaintext", "-max-time", "60"]
    words += ["-H", f"x-api-key: {key}"] if key else []
    words += ["-d", json.dumps(rest)] if isinstance(rest, dict) else []
    words += [address, what] + ([rest] if isinstance(rest, str) else [])
    return _run(*words, fails=fails)


def _run(*command: str, fails: bool = False) -> str:
    env = {**os.environ, "NO_PROXY": "*"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)
    if bool(done.returncode) != fails:
        raise Unable(f"{' '.join(command)} ended with exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + (done.stderr if fails else "")


def _must(what: str, holds: bool) -> str:
    if not holds:
        raise Unable(f"{what}: not as it should be")
    return what
