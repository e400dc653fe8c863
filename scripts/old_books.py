"""Make the fixture of tests/store/test_upgrade.py: a database and its market, as an earlier commit left them.

Usage: scripts/old_books.py COMMIT. The server of that commit rents machines of every kind in virtual time and dies in
the middle of its work. The files go to tests/store/upgrades/COMMIT/. A later commit must take them over without a loss.
"""

import gzip
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "store" / "upgrades"
FILES = ("books.sqlite", "market.jsonl")

_STORY = """
import asyncio
import sys
from pathlib import Path
from tests.virtual_time import run_virtual
from tests.world import World
from gpuproxy.model.demands import Caller

folder = Path(sys.argv[1])

async def story(clock):
    world = World(clock, paced=False, accounts=1, seed=7, state=folder / "market.jsonl", machines=12,
                  create_latency=2.0)
    await world.start()
    owner = Caller(project="p1")
    await world.reserve(2, wait_for="ready", seconds=1500, request_id="ready")
    parked = await world.reserve(1, wait_for="ready", seconds=1500, request_id="parked")
    await world.engine.machines.stop(owner, "vast.ai", str(parked.leases[0].instance_id))
    ended = await world.reserve(1, wait_for="ready", seconds=1500, request_id="ended")
    await world.engine.reservations.release(owner, ended.reservation.id)
    await world.sleep(1800)
    leaving = await world.reserve(1, seconds=60, request_id="releasing")
    world.arm("destroy", "status_503_before", times=0)
    await world.engine.reservations.release(owner, leaving.reservation.id)
    await world.reserve(1, seconds=60, request_id="starting")
    world.arm("list", "status_503_before", times=0)
    world.arm("create", "reset_after")
    await world.reserve(1, seconds=60, request_id="unknown")
    call = asyncio.create_task(world.reserve(2, seconds=60, request_id="running"))
    while world.created() < 8:
        await world.sleep(0.1)
    await world.kill()
    world.control("DELETE", "faults")
    world.sandbox.close()
    world.db._writer.conn.execute("VACUUM INTO ?", (str(folder / "books.sqlite"),))

run_virtual(story)
"""


def main() -> int:
    """Write the two files of one commit."""
    commit = subprocess.check_output(["git", "rev-parse", "--short", sys.argv[1]], cwd=ROOT, text=True).strip()
    target = FIXTURES / commit
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        tree, made = Path(folder, "tree"), Path(folder, "made")
        tree.mkdir()
        made.mkdir()
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True)
        subprocess.run(["tar", "-x", "-C", str(tree)], input=archive.stdout, check=True)
        story = [sys.executable, "-c", _STORY, str(made)]
        subprocess.run(story, cwd=tree, check=True, env={"PYTHONPATH": str(tree), "PYTHONHASHSEED": "0"})
        for name in FILES:
            packed = gzip.compress((made / name).read_bytes(), mtime=0)
            (target / f"{name}.gz").write_bytes(packed)
            print(f"{target.relative_to(ROOT)}/{name}.gz: {len(packed)} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
