"""The dashboard for Grafana: each panel and each alert has data when Prometheus reads a running server."""

import json
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.deploy.conftest import Running, listens
from tests.deploy.programs import FILES, debian, output
from tests.ports import free_port
from tests.system.processes import until

pytestmark = pytest.mark.long
DASHBOARD: dict[str, Any] = json.loads((FILES / "dashboard.json").read_text())
ALERTS = yaml.safe_load((FILES / "alerts.yml").read_text())["groups"][0]["rules"]
_SELECTOR = re.compile(r"gpuproxy_\w+(?:\{[^}]*\})?")
_COLUMNS = 24
_VARIABLES = {"$instance": ".*", "$__rate_interval": "30s"}


def panels(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions(dashboard: Mapping[str, Any]) -> dict[str, str]:
    """The expressions of all panels by title and number, as Grafana sends them."""
    found = {}
    for panel in panels(dashboard):
        for number, target in enumerate(panel["targets"]):
            text = target["expr"]
            for variable, value in _VARIABLES.items():
                text = text.replace(variable, value)
            found[f"{panel['title']} {number}"] = text
    return found


def complaints(dashboard: Mapping[str, Any]) -> list[str]:
    """What Grafana, or somebody who looks at it, would miss."""
    found, taken = [], set()
    variables = {each["name"] for each in dashboard["templating"]["list"]}
    for panel in dashboard["panels"]:
        title, place = panel["title"], panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        if place["x"] + place["w"] > _COLUMNS or cells & taken:
            found.append(f"{title}: its place is taken, or is not on the page")
        taken |= cells
    for panel in panels(dashboard):
        title = panel["title"]
        if not panel.get("description"):
            found.append(f"{title}: no description")
        if "unit" not in panel["fieldConfig"]["defaults"]:
            found.append(f"{title}: no unit")
        sources = (panel["datasource"], *(target["datasource"] for target in panel["targets"]))
        if any(source != {"type": "prometheus", "uid": "${datasource}"} for source in sources):
            found.append(f"{title}: not the chosen Prometheus")
        for target in panel["targets"]:
            used = {name for name in re.findall(r"\$(\w+)", target["expr"]) if not name.startswith("__")}
            found += [f"{title}: unknown variable {name}" for name in used - variables]
    for what in ("id", "title"):
        values = [panel[what] for panel in (dashboard["panels"] if what == "id" else panels(dashboard))]
        found += [f"twice: {value}" for value in {*values} if values.count(value) > 1]
    return found


def test_the_dashboard_is_complete() -> None:
    assert complaints(DASHBOARD) == []
    assert DASHBOARD["uid"]
    assert len(panels(DASHBOARD)) > 20


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"title": "Cost per day"}, "twice: Cost per day"),
        ({"id": 2}, "twice: 2"),
        ({"gridPos": {"x": 20, "y": 90, "w": 8, "h": 4}}, "not on the page"),
        ({"gridPos": {"x": 0, "y": 1, "w": 4, "h": 4}}, "its place is taken"),
        ({"description": ""}, "no description"),
        ({"fieldConfig": {"defaults": {}}}, "no unit"),
        ({"datasource": {"type": "prometheus", "uid": "mine"}}, "not the chosen Prometheus"),
        ({"targets": [{"expr": "up{job=$job}", "datasource": _VARIABLES}]}, "unknown variable"),
    ],
)
def test_a_broken_dashboard_is_noticed(change: Mapping[str, Any], words: str) -> None:
    broken = json.loads(json.dumps(DASHBOARD))
    panels(broken)[-1].update(change)
    assert [text for text in complaints(broken) if words in text], complaints(broken)


def parsed(folder: Path, texts: Mapping[str, str], *, ok: bool = True) -> None:
    """Let promtool read the expressions, as rules."""
    rules = [{"record": f"panel{number}", "expr": text} for number, text in enumerate(texts.values())]
    (folder / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    output(debian("promtool"), "check", "rules", "panels.yml", ok=ok, cwd=folder)


def test_every_expression_of_the_dashboard_parses_and_a_broken_one_is_noticed(tmp_path: Path) -> None:
    texts = expressions(DASHBOARD)
    parsed(tmp_path, texts)
    parsed(tmp_path, texts | {"Ready 0": "min(gpuproxy_ready{"}, ok=False)
    parsed(tmp_path, texts | {"Ready 0": "minimum(gpuproxy_ready)"}, ok=False)


def test_every_metric_of_the_dashboard_and_of_the_alerts_is_documented() -> None:
    text = (FILES.parent / "monitoring.md").read_text()
    used = {name for each in expressions(DASHBOARD).values() for name in re.findall(r"gpuproxy_\w+", each)}
    used |= {name for rule in ALERTS for name in re.findall(r"gpuproxy_\w+", rule["expr"])}
    families = {re.sub(r"_(sum|count|bucket)$", "", name) for name in used}
    assert len(families) > 15
    assert {family for family in families if f"`{family}`" not in text} == set()


class Prometheus:
    """A real Prometheus that reads a server every second."""

    def __init__(self, port: int) -> None:
        self._port = port

    def ready(self) -> bool:
        """It has read its storage."""
        try:
            return bool(self.query("vector(1)"))
        except urllib.error.HTTPError:
            return False

    def query(self, expression: str) -> list[Any]:
        """The series that the expression has now. Fails if Prometheus refuses it."""
        words = urllib.parse.urlencode({"query": expression})
        url = f"http://127.0.0.1:{self._port}/api/v1/query?{words}"
        with urllib.request.urlopen(url, timeout=300) as answer:
            result: list[Any] = json.load(answer)["data"]["result"]
        return [each for each in result if each["value"][1] != "NaN"]


@contextmanager
def prometheus(folder: Path, server_port: int) -> Iterator[Prometheus]:
    """Run it with the configuration of docs/deploy, with another address and a shorter interval."""
    text = (FILES / "prometheus.yml").read_text()
    assert text.count("127.0.0.1:8080") == 1
    text = text.replace("127.0.0.1:8080", f"127.0.0.1:{server_port}").replace("15s", "1s")
    (folder / "prometheus.yml").write_text(text)
    (folder / "alerts.yml").write_bytes((FILES / "alerts.yml").read_bytes())
    port = free_port()
    command = [
        debian("prometheus"), "--config.file=prometheus.yml", f"--web.listen-address=127.0.0.1:{port}",
        f"--storage.tsdb.path={folder}/data", "--log.level=warn",
    ]  # fmt: skip
    with (folder / "log").open("w") as log, subprocess.Popen(command, cwd=folder, stdout=log, stderr=log) as process:
        try:
            listens(port, process, folder)
            measuring = Prometheus(port)
            until(measuring.ready)
            yield measuring
        finally:
            process.terminate()


def trouble(running: Running) -> None:
    """What a healthy server does not show: an INTERNAL error, an unknown outcome, a silent account."""
    running.market.arm("create", "offer_gone", times=0)
    with suppress(grpc.RpcError):
        running.client.call("ReserveGPUs", pb.ReserveGPUsRequest(count=1, max_price=5.0, request_id="refused"))
    running.market.control("DELETE", "faults")
    running.market.arm("create", "reset_after", times=1)
    running.market.arm("list", "status_500_before", times=0)
    running.client.call("ReserveGPUs", pb.ReserveGPUsRequest(count=1, max_price=5.0, request_id="unknown"))


@pytest.mark.sampled(0)
def test_every_panel_and_every_alert_has_data(running: Running, tmp_path: Path) -> None:
    trouble(running)
    asked = expressions(DASHBOARD)
    for rule in ALERTS:
        selectors = _SELECTOR.findall(rule["expr"])
        assert selectors, rule["alert"]
        asked |= {f"{rule['alert']} {selector}": selector for selector in selectors}
    missing = dict(asked)

    def complete() -> bool:
        running.client.instances()  # a panel of answers is about the last half minute
        for name, text in list(missing.items()):
            if measuring.query(text):
                del missing[name]
        return not missing

    with prometheus(tmp_path, running.http_port) as measuring:
        try:
            until(complete)
        except AssertionError:
            raise AssertionError(f"no data: {missing}") from None
        for rule in ALERTS:
            measuring.query(rule["expr"])
        assert not measuring.query("gpuproxy_no_such_metric")
        assert not measuring.query('gpuproxy_problems{kind="no_such_kind"}')
    running.market.control("DELETE", "faults")
