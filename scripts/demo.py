"""The main job from a client's seat, on a simulated market: list, reserve, look, give back, and one lost reply.

Starts `gpuproxy serve --sandbox` on free ports with a database of its own, at the market's real rate limits on a
faster clock. Ends with what the market itself counted; exits 0 only when everything that was made is gone again and
nothing was made twice.
"""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc

from gpuproxy.v1 import gpuproxy_pb2 as pb
from gpuproxy.v1.gpuproxy_pb2_grpc import GPUProxyServiceStub

TIME_SCALE = 20
GPUS = 4
PATIENCE = 60.0
"""Real seconds for any one thing to happen."""
FOREIGN = ("GPUPROXY_", "VASTAI_", "IONET_", "GUARDRAILS_")

T = TypeVar("T")


class Failed(Exception):
    """The demonstration did not go as it must."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the server and the market of this run are."""

    grpc: str
    market: str
    key: str
    env: dict[str, str]
    folder: Path

    def stub(self) -> GPUProxyServiceStub:
        """For what the command line would do differently."""
        return GPUProxyServiceStub(grpc.insecure_channel(self.grpc, options=[("grpc.enable_http_proxy", 0)]))

    @property
    def identity(self) -> tuple[tuple[str, str], ...]:
        """Metadata of a call."""
        return (("x-api-key", self.key),)


def main() -> int:
    """0 when it all went well."""
    with tempfile.TemporaryDirectory(prefix="gpuproxy-demo-") as folder:
        log = Path(folder) / "server.log"
        try:
            with started(Path(folder), log) as place:
                main_job(place)
                lost_reply(place)
                return 0 if counted(place) else 1
        except Failed as failure:
            print(f"demo failed: {failure}", file=sys.stderr)
            print(log.read_text(encoding="utf-8")[-4000:], file=sys.stderr)
            return 1


def main_job(place: Place) -> None:
    """List, reserve four, look at them, give two back by contract and the rest as a whole."""
    command(place, "list", "--provider", "vast.ai", "--min-vram", "16", "--max-price", "2", "--limit", "5")
    command(place, "reserve", str(GPUS), "--provider", "vast.ai", "--min-vram", "16", "--max-price", "2")
    command(place, "ps")
    command(place, "load")
    rented = json.loads(quietly(place, "ps", "--json"))["instances"]
    if sum(one["num_gpus"] for one in rented) != GPUS:
        raise Failed(f"{GPUS} GPUs were reserved but ps shows {rented}")
    contracts = [one["contract_id"] for one in rented]
    command(place, "destroy", *contracts[:2], "--yes")
    command(place, "release", rented[0]["reservation_id"], "--yes")
    until("the machines are gone", lambda: not live(place))
    command(place, "ps")


def lost_reply(place: Place) -> None:
    """The market rents a machine but its answer is lost, and it can't be asked: unknown, found, released, no twin."""
    say("# A lost reply: the market executes the next create, but the answer never comes, and listings fail too.")
    arm(place, call="create", fault="reset_after", times=1)
    arm(place, call="list", fault="status_500_before", times=0)
    made = creates(place)
    request = pb.ReserveGPUsRequest(count=1, provider="vast.ai", min_vram=16, max_price=2.0)
    say('$ grpcurl ... -d \'{"count":1,"provider":"vast.ai","min_vram":16,"max_price":2.0}\' .../ReserveGPUs')
    answer = place.stub().ReserveGPUs(request, metadata=place.identity, timeout=PATIENCE)
    states = [outcome.state for outcome in answer.outcomes]
    say(f"reserved {answer.reserved_count}, outcomes: {', '.join(states)} · {answer.message}\n")
    if states != ["unknown"]:
        raise Failed(f"a lost reply should leave one unknown outcome, not {states}")
    command(place, "ps")
    say("# The market can be asked again. The call had no request_id, so what is found must be given back.")
    control(place, "DELETE", "faults")
    until("the lost machine is found and destroyed", lambda: not live(place))
    until("the books say so", lambda: state_of(place, answer.reservation_id) in ("released", "failed"))
    command(place, "show", answer.reservation_id)
    if creates(place) != made + 1:
        raise Failed(f"one create was wanted, the market counted {creates(place) - made}")


def counted(place: Place) -> bool:
    """Print what the market itself counted; True when all is gone and each create was sent once."""
    instances = control(place, "GET", "state")["instances"]
    gone = sum(one["destroyed_at"] is not None for one in instances)
    left = len(instances) - gone
    attempts = sum(len(one.outcomes) for one in reservations(place))
    print(f"market: {len(instances)} created, {gone} destroyed, {left} left", flush=True)
    return left == 0 and len(instances) == gone == creates(place) == attempts


@contextlib.contextmanager
def started(folder: Path, log: Path) -> Iterator[Place]:
    """A server on a simulated market; both are gone afterwards, whatever happens."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    env |= {"GPUPROXY_GRPC_ADDR": "127.0.0.1:0", "GPUPROXY_HTTP_ADDR": "127.0.0.1:0"}
    env |= {"GPUPROXY_TIME_SCALE": str(TIME_SCALE), "GPUPROXY_DRAIN_SECONDS": "5"}
    say(f"$ GPUPROXY_TIME_SCALE={TIME_SCALE} gpuproxy serve --sandbox")
    with log.open("wb") as errors:
        server = subprocess.Popen(
            [sys.executable, "-m", "gpuproxy", "serve", "--sandbox"],
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=(folder / "banner").open("wb"),
            stderr=errors,
        )
    try:
        place = until("the server starts", lambda: found(folder, server))
        until("the market is read", lambda: is_listed(place))
        say((folder / "banner").read_text(encoding="utf-8"))
        yield place
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def found(folder: Path, server: "subprocess.Popen[bytes]") -> Place | None:
    """Where everything is, once the banner is printed."""
    if server.poll() is not None:
        raise Failed(f"the server ended with exit code {server.returncode}")
    lines = (folder / "banner").read_text(encoding="utf-8").splitlines()
    banner = {words[0]: words[-1] for line in lines if len(words := line.split()) > 1}
    if not {"gRPC", "sandbox", "admin"} <= banner.keys():
        return None
    key = (folder / banner["admin"]).read_text(encoding="ascii").strip()
    env = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    env |= {"GPUPROXY_SERVER": banner["gRPC"], "GPUPROXY_API_KEY": key, "COLUMNS": "160"}
    return Place(grpc=banner["gRPC"], market=banner["sandbox"], key=key, env=env, folder=folder)


def command(place: Place, *words: str) -> None:
    """Run one command of the command line, headed by what a user would type."""
    say(f"$ gpuproxy {shlex.join(words)}")
    say(quietly(place, *words))


def quietly(place: Place, *words: str) -> str:
    """What the command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "gpuproxy", *words],
        cwd=place.folder,
        env=place.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if "--json" not in words else None,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        raise Failed(f"gpuproxy {shlex.join(words)} ended with exit code {done.returncode}: {done.stdout}")
    return done.stdout


def arm(place: Place, *, call: str, fault: str, times: int) -> None:
    """Order a fault at the market; 0 times: until faults are cleared."""
    body = {"provider": "vast.ai", "call": call, "fault": fault, "times": times}
    say(f"$ curl -d '{json.dumps(body)}' {place.market}/sandbox/v1/faults")
    control(place, "POST", "faults", body)


def control(place: Place, method: str, what: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """One call of the market's control API."""
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(f"{place.market}/sandbox/v1/{what}", data=data, method=method)  # noqa: S310 - loopback
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=10) as answer:
        parsed: dict[str, Any] = json.load(answer)
    return parsed


def live(place: Place) -> list[dict[str, Any]]:
    """What the market still has running, or billed."""
    return [one for one in control(place, "GET", "state")["instances"] if one["destroyed_at"] is None]


def creates(place: Place) -> int:
    """The create calls that reached the market."""
    return int(control(place, "GET", "state")["calls"].get("vast.ai", {}).get("create", 0))


def reservations(place: Place) -> list[pb.Reservation]:
    """All that the books hold."""
    answer = place.stub().ListReservations(pb.ListReservationsRequest(), metadata=place.identity, timeout=10)
    return list(answer.reservations)


def state_of(place: Place, reservation_id: str) -> str:
    """A reservation's state word."""
    return next(one.state for one in reservations(place) if one.reservation_id == reservation_id)


def is_listed(place: Place) -> bool:
    """True once there are offers."""
    request = pb.ListGPUInstancesRequest(page_size=1)
    try:
        return place.stub().ListGPUInstances(request, metadata=place.identity, timeout=10).total_count > 0
    except grpc.RpcError:
        return False


def until(what: str, happens: Callable[[], T | None]) -> T:
    """The first true answer; Failed when there is none in time."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if result := happens():
            return result
        time.sleep(0.2)
    raise Failed(f"not within {PATIENCE:.0f} s: {what}")


def say(text: str) -> None:
    """To stdout, at once."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
