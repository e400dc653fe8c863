"""Thousands of generated requests against /openapi.json of a real server on a simulated market: `make http-fuzz`.

Usage: python -m scripts.http_fuzz [CASES_PER_CALL]. All checks of schemathesis; then the server's log must hold no
traceback, and everything that valid requests rented must be released by one release each.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from gpuproxy.v1 import gpuproxy_pb2 as pb
from scripts.bench.waiting import until
from tests.system.processes import KIND, UNPACED, Client, Market, Server

CONFIG = Path(__file__).with_name("schemathesis.toml")
CASES = 400
_OPEN = ("pending", "starting", "active", "partial")


def command(url: str, key: str, cases: int, *options: str) -> list[str]:
    """The run of schemathesis against `url`."""
    program = Path(sys.executable).with_name("schemathesis")
    return [
        str(program), "--config-file", str(CONFIG), "run", f"{url}/openapi.json", "--header", f"X-API-Key: {key}",
        "--header", f"Authorization: Bearer {key}",
        # What is released is still shown, as releasing and then as released: it may cost money until proven gone.
        "--checks", "all", "--exclude-checks", "use_after_free", "--max-examples", str(cases),
        "--request-timeout", "150", "--warnings", "off",
        "--exclude-operation-id", "WatchReservation", *options,  # a stream does not end by itself
    ]  # fmt: skip


def main(cases: int) -> int:
    """0 when nothing was found."""
    with (
        tempfile.TemporaryDirectory(prefix="gpuproxy-fuzz-") as name,
        Market(folder := Path(name), *KIND) as market,
        Server(folder, market, **UNPACED) as server,
        server.client() as client,
    ):
        until(lambda: client.call("ListGPUInstances", pb.ListGPUInstancesRequest()).total_count > 0, "a market")
        outcome = subprocess.run(command(f"http://{server.http}", server.key, cases), cwd=folder, check=False)
        rented = release_all(client)
        until(lambda: not market.alive(), "everything is released")
        broken = [line for line in server.log().splitlines() if "rpc_crashed" in line or "Traceback" in line]
    print(f"{rented} reservations were created and released; {len(broken)} calls broke")
    return 1 if outcome.returncode or broken else 0


def release_all(client: Client) -> int:
    """Give everything back; how many reservations there were."""
    token, ids = "", []
    while True:
        page = client.call("ListReservations", pb.ListReservationsRequest(page_size=200, page_token=token))
        ids += [each.reservation_id for each in page.reservations if each.state in _OPEN]
        token = page.next_page_token
        if not token:
            break
    for reservation_id in ids:
        client.call("ReleaseReservation", pb.ReleaseReservationRequest(reservation_id=reservation_id))
    return len(ids)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else CASES))
