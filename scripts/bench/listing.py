"""ListGPUInstances against ready bytes of the same size, from the same dispatcher of the same process."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

from scripts.bench.load import FILTERS
from scripts.bench.report import Row

ROOT = Path(__file__).resolve().parents[2]


def measure(folder: Path) -> list[Row]:
    """Requests per second as ratios within rounds, and their medians."""
    with (folder / "listing.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "scripts.bench.server", str(folder)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
        try:
            assert server.stdout is not None  # noqa: S101 - it was asked for
            port, _, _, key = server.stdout.readline().split()
            load = [sys.executable, "-m", "scripts.bench.load", port, key, str(server.pid)]
            rounds = json.loads(subprocess.run(load, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
        finally:
            server.communicate(timeout=30)
    return [_row(rounds, "same", "the same filter again and again", 0.8),
            _row(rounds, "many", f"{FILTERS} filters in turn", 0.35)]  # fmt: skip


def _row(rounds: list[dict[str, dict[str, float]]], phase: str, what: str, at_least: float) -> Row:
    def median(name: str, figure: str) -> float:
        return statistics.median(each[name][figure] for each in rounds)

    ratios = [each[phase]["rate"] / each[f"{phase}_ready"]["rate"] for each in rounds]
    ready = f"{phase}_ready"
    return Row(
        name=f"list 1,000 of 20,000: {what}",
        value=statistics.median(ratios),
        unit="x",
        at_least=at_least,
        note=f"{median(phase, 'rate'):.0f}/s of {median(ready, 'rate'):.0f}/s; server CPU a call "
        f"{median(phase, 'cpu_ms'):.2f} ms of {median(ready, 'cpu_ms'):.2f} ms",
    )
