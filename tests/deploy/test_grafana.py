"""The dashboard for Grafana, read with Grafana's own types: they know each field of each kind of panel."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.programs import FILES, unavailable

pytestmark = [pytest.mark.long, pytest.mark.sampled(0)]
DASHBOARD: dict[str, Any] = json.loads((FILES / "dashboard.json").read_text())


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of `grafana/`, whose module is pinned by hash in its go.sum."""
    go = shutil.which("go")
    if go is None:
        unavailable("go", "it is not installed")
    program = tmp_path_factory.mktemp("grafana") / "reader"
    command = [go, "build", "-mod=readonly", "-o", str(program), "."]
    done = subprocess.run(command, cwd=Path(__file__).parent / "grafana", capture_output=True, text=True, check=False)
    if done.returncode:
        unavailable("the module of Grafana's types", done.stderr)
    return program


def complaints(reader: Path, dashboard: Any) -> str:
    """What the types don't accept; "" if they accept all."""
    raw = json.dumps(dashboard)
    done = subprocess.run([reader], input=raw, capture_output=True, text=True, check=False)
    assert done.returncode or done.stdout == f"{len(dashboard['panels'])} panels\n"
    return done.stdout if done.returncode else ""


def copy() -> Any:
    return json.loads(json.dumps(DASHBOARD))


def panel(dashboard: Any, kind: str) -> Any:
    return next(each for each in dashboard["panels"] if each["type"] == kind)


def test_grafanas_types_accept_the_dashboard(reader: Path) -> None:
    assert complaints(reader, DASHBOARD) == ""


def _set(place: Any, name: str, value: Any) -> None:
    place[name] = value


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: _set(d, "titel", "x"), "titel"),
        (lambda d: _set(panel(d, "timeseries")["options"], "legends", {}), "legends"),
        (lambda d: _set(panel(d, "timeseries")["fieldConfig"]["defaults"]["custom"], "lineWide", 1), "lineWide"),
        (lambda d: _set(panel(d, "timeseries")["targets"][0], "expression", "up"), "expression"),
        (lambda d: _set(panel(d, "stat")["options"], "wideLayout", "yes"), "wideLayout"),
        (lambda d: panel(d, "stat")["options"].pop("reduceOptions"), "reduceOptions"),
        (lambda d: _set(panel(d, "stat"), "gridPos", {"h": "high"}), "gridPos"),
        (lambda d: d["templating"]["list"][0].pop("name"), "name"),
    ],
)
def test_a_broken_dashboard_is_not_accepted(reader: Path, spoil: Callable[[Any], object], words: str) -> None:
    broken = copy()
    spoil(broken)
    assert words in complaints(reader, broken)
