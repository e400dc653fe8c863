"""ListGPUInstances against ready bytes of the same size, from the same dispatcher of the same process."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

from scripts.bench.load import FILTERS
from scripts.bench.report import Row
from scripts.bench.server import ROOT, running


def measure(folder: Path) -> list[Row]:
    """Requests per second as ratios within rounds, and their medians."""
    with running(folder) as server:
        load = [sys.executable, "-m", "scripts.bench.load", str(server.grpc), server.key, str(server.pid)]
        rounds = json.loads(subprocess.run(load, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
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
