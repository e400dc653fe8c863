"""`make demo`: a client lists, reserves and releases GPUs on a simulated market, and one create loses its reply.

Starts `gpuproxy serve --sandbox` on free ports with a database of its own. The market is as unkind as the real one;
its clock runs TIME_SCALE times as fast. The last line is the market's own count.

Exit code 0: everything that was created is destroyed, nothing was created twice, and the database knows each machine.
Exit code 1: stderr says what happened, shows the end of the server's log, and says what to do. Exit code 130: Ctrl-C.
"""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc

from gpuproxy.v1 import gpuproxy_pb2 as pb
from gpuproxy.v1.gpuproxy_pb2_grpc import GPUProxyServiceStub

TIME_SCALE = 20
GPUS = 4
WANTED: dict[str, Any] = {"provider": "vast.ai", "min_vram": 16, "max_price": 2.0}
OPTIONS = ("--provider", "vast.ai", "--min-vram", "16", "--max-price", "2")
"""The same for the command line."""
ENOUGH = 16
"""GPUs of WANTED that must be known before the first command: the server has read some pages of the market by then."""
PATIENCE = 300.0
"""Real seconds for any one step, also on a busy machine: this is no test of speed."""
ADVICE = (
    "What to do: run `make demo` again. If it fails in the same way, report all of this output. "
    "Nothing was rented for money, and the simulated market has ended."
)
LOG_TAIL = 40
"""Lines of the server's log that a failure shows."""
FOREIGN = ("GPUPROXY_", "VASTAI_", "IONET_", "GUARDRAILS_")
PROGRAM = (sys.executable, "-m", "gpuproxy")
"""The program of this checkout; `make dist` tries an installed one."""

T = TypeVar("T")


class Failed(Exception):
    """The demonstration did not go as it must. The text is one sentence with the numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the server and the market of this run are."""

    grpc: str
    market: str
    key: str
    env: dict[str, str]
    folder: Path
    program: Sequence[str] = PROGRAM

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
                counted(place)
        except KeyboardInterrupt:
            print("\ndemo interrupted; the server and its market have ended.", file=sys.stderr, flush=True)
            return 130
        except Exception as failure:  # noqa: BLE001 - whatever it is, the user is told
            tell(failure, log)
            return 1
    return 0


def tell(failure: Exception, log: Path) -> None:
    """To stderr: what happened, the end of the server's log, and what to do."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    tail = "\n".join(lines[-LOG_TAIL:]) or "(empty)"
    print(
        f"demo failed: {reason(failure)}\n\nThe end of the server's log:\n{tail}\n\n{ADVICE}",
        file=sys.stderr,
        flush=True,
    )


def reason(failure: Exception) -> str:
    """A sentence; for what nobody expected, the traceback too."""
    match failure:
        case Failed():
            return str(failure)
        case grpc.RpcError():
            return f"The server refused a call with {failure.code().name}: {failure.details()}"
        case _:
            return f"{type(failure).__name__}: {failure}\n{''.join(traceback.format_exception(failure))}"


def main_job(place: Place) -> None:
    """List, reserve four, look at them, destroy the first half by contract id, release the rest as a whole."""
    say("# What can be rented? The five cheapest offers:")
    command(place, "list", *OPTIONS, "--limit", "5")
    say(f"# Rent {GPUS} GPUs in one call. vast.ai wants a few seconds between creates, so machines come one by one.")
    command(place, "reserve", str(GPUS), *OPTIONS)
    say("# What is rented now, and what it costs:")
    command(place, "ps")
    say("# What the load balancer knows of the machines:")
    command(place, "load")
    rented = json.loads(quietly(place, "ps", "--json"))["instances"]
    if sum(one["num_gpus"] for one in rented) != GPUS:
        raise Failed(f"{GPUS} GPUs were reserved, but gpuproxy ps shows {summed(rented)}.")
    contracts = [one["contract_id"] for one in rented]
    say("# Destroy half of the machines by contract id, and release the rest with the reservation.")
    say("# The tables show the machines as they were just before.")
    command(place, "destroy", *contracts[: len(contracts) // 2], "--yes")
    command(place, "release", rented[0]["reservation_id"], "--yes")
    gone(place, "the market to destroy the released machines")
    say("# Nothing is left:")
    command(place, "ps")


def lost_reply(place: Place) -> None:
    """The market rents a machine but its reply is lost, and it can't be asked: unknown, found, released, no twin."""
    say("# A lost reply. The market will execute the next create, but its reply will never arrive.")
    say("# Listings will fail too, so the server can't look for the machine.")
    arm(place, call="create", fault="reset_after", times=1)
    arm(place, call="list", fault="status_500_before", times=0)
    before = len(machines(place))
    request = pb.ReserveGPUsRequest(count=1, **WANTED)
    body = {"count": 1, **WANTED}
    say(f"\n$ grpcurl -plaintext -H \"x-api-key: $KEY\" -d '{json.dumps(body)}' \\")
    say(f"    {place.grpc} gpuproxy.v1.GPUProxyService/ReserveGPUs")
    answer = place.stub().ReserveGPUs(request, metadata=place.identity, timeout=PATIENCE)
    states = [outcome.state for outcome in answer.outcomes]
    say(f"outcome: {', '.join(states)}\nmessage: {answer.message}\n")
    if states != ["unknown"]:
        raise Failed(f"A lost reply must leave one outcome, unknown, but the outcomes are {states}: {answer.message}")
    say("# The server shows the machine as unknown. It sends no second create: that could rent two machines.")
    command(place, "ps")
    say("# Now listings work again. The call had no request_id, so nobody can ask for its machine later:")
    say("# the server finds the machine and destroys it.")
    say(f"$ curl -X DELETE {place.market}/sandbox/v1/faults\n")
    control(place, "DELETE", "faults")
    gone(place, "the server to find the lost machine and destroy it")
    until(
        f"reservation {answer.reservation_id} to be over",
        lambda: state_of(place, answer.reservation_id) in ("released", "failed"),
        lambda: f"it is {state_of(place, answer.reservation_id)}",
    )
    command(place, "show", answer.reservation_id)
    if (created := len(machines(place)) - before) != 1:
        raise Failed(f"The lost reply must leave 1 machine at the market, but {created} were created.")


def counted(place: Place) -> None:
    """Print what the market itself counted; Failed unless all is gone, once, and known to the server."""
    state = control(place, "GET", "state")
    made = state["instances"]
    sent = int(state["calls"].get("vast.ai", {}).get("create", 0))
    left = [str(one["id"]) for one in made if one["destroyed_at"] is None]
    again = sorted(label for label, count in Counter(str(one["label"]) for one in made).items() if count > 1)
    known = {outcome.instance_id for one in reservations(place) for outcome in one.outcomes if outcome.instance_id}
    say("# What the market itself counted:")
    say(f"market: {len(made)} created, {len(made) - len(left)} destroyed, {len(left)} left")
    if sent > len(made):  # refused before the market looked at them; the same lease sends its create again
        say(f"        {sent} create calls, {sent - len(made)} of them answered without a machine (429: too many calls)")
    if left:
        raise Failed(f"Of {len(made)} machines that were created, {len(left)} are not destroyed: {', '.join(left)}.")
    if again:
        raise Failed(f"{len(made)} machines were created, and {len(again)} labels were used twice: {', '.join(again)}.")
    if sent < len(made):
        raise Failed(f"{len(made)} machines were created, but only {sent} create calls arrived.")
    if (ids := {str(one["id"]) for one in made}) != known:
        raise Failed(
            f"The market created {len(ids)} machines and the server's leases name {len(known)}: "
            f"only at the market {sorted(ids - known)}, only at the server {sorted(known - ids)}."
        )
    say("# Every machine that was created is destroyed, and no create ran twice.")


@contextlib.contextmanager
def started(folder: Path, log: Path, program: Sequence[str] = PROGRAM) -> Iterator[Place]:
    """A server on a simulated market; both are gone afterwards, whatever happens."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    env |= {"GPUPROXY_GRPC_ADDR": "127.0.0.1:0", "GPUPROXY_HTTP_ADDR": "127.0.0.1:0"}
    env |= {"GPUPROXY_TIME_SCALE": str(TIME_SCALE), "GPUPROXY_DRAIN_SECONDS": "5"}
    say(f"$ GPUPROXY_TIME_SCALE={TIME_SCALE} gpuproxy serve --sandbox")
    with log.open("wb") as errors:
        server = subprocess.Popen(
            [*program, "serve", "--sandbox"],
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=(folder / "banner").open("wb"),
            stderr=errors,
        )
    try:
        place = until(
            "the server to start", lambda: found(folder, server, program), lambda: f"it printed {banner(folder)!r}"
        )
        say(banner(folder))
        say(f"# The market is simulated, with the rate limits of vast.ai. Its clock runs {TIME_SCALE} times as fast.")
        say("# The server reads the market page by page. It knows the cheapest offers first.\n")
        until(
            f"{ENOUGH} GPUs that can be rented",
            lambda: available(place) >= ENOUGH,
            lambda: f"the server knows {available(place)}",
        )
        yield place
    except Exception as failure:
        if (code := server.poll()) is None or isinstance(failure, Failed):
            raise
        raise Failed(f"The server ended with exit code {code} while it was needed: {reason(failure)}") from failure
    finally:
        server.terminate()
        try:
            server.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def found(folder: Path, server: "subprocess.Popen[bytes]", program: Sequence[str]) -> Place | None:
    """Where everything is, once the banner is printed."""
    if server.poll() is not None:
        raise Failed(f"The server ended with exit code {server.returncode} while it started.")
    shown = {words[0]: words[-1] for line in banner(folder).splitlines() if len(words := line.split()) > 1}
    if not {"gRPC", "sandbox", "admin"} <= shown.keys():
        return None
    key = (folder / shown["admin"]).read_text(encoding="ascii").strip()
    env = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    env |= {"GPUPROXY_SERVER": shown["gRPC"], "GPUPROXY_API_KEY": key, "COLUMNS": "160"}
    return Place(grpc=shown["gRPC"], market=shown["sandbox"], key=key, env=env, folder=folder, program=program)


def banner(folder: Path) -> str:
    """What the server has printed so far."""
    return (folder / "banner").read_text(encoding="utf-8")


def command(place: Place, *words: str) -> None:
    """Run one command of the command line, headed by what a user would type."""
    say(f"$ gpuproxy {shlex.join(words)}")
    say(quietly(place, *words))


def quietly(place: Place, *words: str) -> str:
    """What the command prints."""
    try:
        done = subprocess.run(
            [*place.program, *words],
            cwd=place.folder,
            env=place.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if "--json" in words else subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        raise Failed(f"`gpuproxy {shlex.join(words)}` ran for {PATIENCE:.0f} s and printed {late.stdout!r}.") from late
    if done.returncode:
        printed = done.stdout + (done.stderr or "")
        raise Failed(f"`gpuproxy {shlex.join(words)}` ended with exit code {done.returncode}: {printed.strip()}")
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
    try:
        with direct.open(request, timeout=PATIENCE) as answer:
            parsed: dict[str, Any] = json.load(answer)
    except OSError as error:
        raise Failed(f"The market did not answer {method} /sandbox/v1/{what}: {error}.") from error
    return parsed


def machines(place: Place) -> list[dict[str, Any]]:
    """All that the market ever rented out."""
    instances: list[dict[str, Any]] = control(place, "GET", "state")["instances"]
    return instances


def live(place: Place) -> list[str]:
    """The contract ids of what the market still bills."""
    return [str(one["id"]) for one in machines(place) if one["destroyed_at"] is None]


def gone(place: Place, what: str) -> None:
    """Wait until the market bills nothing."""

    def left() -> str:
        books = json.loads(quietly(place, "ps", "--json"))["instances"]
        return f"the market bills {', '.join(live(place)) or 'nothing'}, and the server has {summed(books)}"

    until(what, lambda: not live(place), left)


def summed(books: list[dict[str, Any]]) -> str:
    """Machines of `gpuproxy ps --json` in a few words."""
    each = ", ".join(f"{one['contract_id'] or one['lease_id']} {one['status']}" for one in books)
    return f"{len(books)} machines with {sum(one['num_gpus'] for one in books)} GPUs" + (f" ({each})" if each else "")


def reservations(place: Place) -> list[pb.Reservation]:
    """All that the database holds."""
    answer = place.stub().ListReservations(pb.ListReservationsRequest(), metadata=place.identity, timeout=PATIENCE)
    return list(answer.reservations)


def state_of(place: Place, reservation_id: str) -> str:
    """A reservation's state word."""
    return next(one.state for one in reservations(place) if one.reservation_id == reservation_id)


def available(place: Place) -> int:
    """GPUs of WANTED that could be rented at once, as far as the market is read; 0 before the first page."""
    request = pb.ListGPUInstancesRequest(page_size=1, **WANTED)
    try:
        answer = place.stub().ListGPUInstances(request, metadata=place.identity, timeout=PATIENCE)
    except grpc.RpcError:
        return 0
    return int(answer.available_gpus)


def until(what: str, happens: Callable[[], T | None], state: Callable[[], str]) -> T:
    """The first true answer; Failed, with `state`, when there is none in time."""
    began = time.monotonic()
    while not (result := happens()):
        if time.monotonic() - began > PATIENCE:
            raise Failed(f"Waited {time.monotonic() - began:.0f} s for {what}, in vain: {state()}.")
        time.sleep(0.2)
    return result


def say(text: str) -> None:
    """To stdout, at once."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
