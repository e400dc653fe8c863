"""The alerts for Prometheus, tried with promtool: each fires when it should, not before, and not otherwise."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.programs import FILES, debian, output

pytestmark = pytest.mark.long
RULES = FILES / "alerts.yml"
ACCOUNT = 'provider="vast.ai",account="vast-1"'
NEVER, ALWAYS = "vector(0) > 1", "vector(1)"
"""Expressions of an alert that is wrong."""


@dataclass(frozen=True, slots=True)
class Case:
    """A time series, one value each minute, with which an alert fires; and those with which it does not."""

    firing: Mapping[str, str]
    quiet: Mapping[str, str]
    minutes: int
    """The first minute in which it fires."""
    value: str = "1"
    """How the annotation shows the value."""


def one(series: str, firing: str, quiet: str, minutes: int, value: str = "1") -> Case:
    return Case({series: firing}, {series: quiet}, minutes, value)


def problems(kind: str, minutes: int) -> Case:
    return one(f'gpuproxy_problems{{kind="{kind}"}}', "1x60", "0x60", minutes)


def lag(mean: float) -> dict[str, str]:
    """A hundred measurements a minute."""
    return {"gpuproxy_loop_lag_seconds_sum": f"0+{mean * 100}x60", "gpuproxy_loop_lag_seconds_count": "0+100x60"}


def limit(spent: int, held: int) -> dict[str, str]:
    """A limit of six dollars."""
    of = {"limit_usd": 6, "limit_spent_usd": spent, "limit_held_usd": held}
    return {f'gpuproxy_{name}{{scope="project",window="24h"}}': f"{value}x60" for name, value in of.items()}


GAVE_UP = 'gpuproxy_webhook_results_total{target="ops",result="gave_up"}'
DELIVERED = 'gpuproxy_webhook_results_total{target="ops",result="delivered"}'
INTERNAL = 'gpuproxy_rpcs_total{rpc="ReserveGPUs",code="INTERNAL"}'
OTHER = 'gpuproxy_rpcs_total{rpc="ReserveGPUs",code="NOT_FOUND"}'
CASES = {
    "GpuproxyNotScraped": [
        Case({'gpuproxy_ready{check="server"}': "_x60"}, {'gpuproxy_ready{check="server"}': "0x60"}, 5),
    ],
    "GpuproxyNotReady": [one('gpuproxy_ready{check="accounts",instance="a:8080"}', "0x60", "1x60", 5, "0")],
    "GpuproxyUnknownOutcomeStays": [
        one('gpuproxy_oldest_unknown_seconds{provider="io.net"}', "0+60x60", "1800x60", 31, "1860"),
    ],
    "GpuproxyMachineNotReleased": [problems("stuck_release", 15)],
    "GpuproxyDeadMachines": [one('gpuproxy_dead_machines{provider="vast.ai"}', "2x60", "0x60", 5, "2")],
    "GpuproxyReconcileStopped": [
        one(f"gpuproxy_reconcile_age_seconds{{{ACCOUNT}}}", "0+60x60", "300x60", 6, "360"),
    ],
    "GpuproxyAccountSilent": [one(f"gpuproxy_account_silent_seconds{{{ACCOUNT}}}", "0+60x60", "300x60", 6, "360")],
    "GpuproxyAccountPaused": [one(f"gpuproxy_account_paused{{{ACCOUNT}}}", "1x60", "0x60", 0)],
    "GpuproxySpendDiffers": [one(f"gpuproxy_spend_differs{{{ACCOUNT}}}", "1x60", "0x60", 0)],
    "GpuproxyProblemFound": [
        problems("orphans", 5),
        problems("ledger", 5),
        Case({'gpuproxy_problems{kind="orphans"}': "1x60"}, {'gpuproxy_problems{kind="webhook"}': "1x60"}, 5),
        Case({'gpuproxy_problems{kind="missing"}': "1x60"}, {'gpuproxy_problems{kind="contract_ends"}': "3x60"}, 5),
    ],
    "GpuproxyPoolDegraded": [
        Case({'gpuproxy_warm_pools{state="degraded"}': "1x60"}, {'gpuproxy_warm_pools{state="active"}': "1x60"}, 5),
    ],
    "GpuproxyFailoverLong": [one('gpuproxy_warm_pools{state="failover"}', "1x60", "1x8 0x50", 10)],
    "GpuproxyLimitNear": [
        Case(limit(3, 2), limit(3, 1), 0, "83.33%"),
        Case(limit(0, 6), limit(0, 0), 0, "100%"),
    ],
    "GpuproxyLimitReached": [
        Case({'gpuproxy_limits{state="reached"}': "2x60"}, {'gpuproxy_limits{state="near"}': "2x60"}, 0, "2"),
    ],
    "GpuproxyWebhookFailing": [
        one('gpuproxy_webhook_oldest_seconds{target="ops"}', "0+60x60", "900x60", 16, "16m 0s"),
    ],
    "GpuproxyWebhookGaveUp": [Case({GAVE_UP: "0x20 5x40"}, {DELIVERED: "0+5x60"}, 21)],
    "GpuproxyInternalErrors": [
        Case({INTERNAL: "0x20 1x40"}, {OTHER: "0x20 9x40"}, 21, "1"),
        Case({INTERNAL: "_x10 1x50"}, {OTHER: "_x10 1x50"}, 10),  # the first error of a server's life
    ],
    "GpuproxyLoopIsLate": [Case(lag(0.15), lag(0.05), 6, "150ms")],
}
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
}


def stories(alert: str) -> list[dict[str, Any]]:
    """promtool's tests of one alert."""
    made = []
    for case in CASES[alert]:
        expected = {"exp_labels": labels(alert, case), "exp_annotations": annotations(alert, case)}
        fires = [{"eval_time": f"{case.minutes}m", "alertname": alert, "exp_alerts": [expected]}]
        if case.minutes:
            fires.append({"eval_time": f"{case.minutes - 1}m", "alertname": alert, "exp_alerts": []})
        made.append(story(case.firing, fires))
        times = range(0, 60, 5)
        made.append(story(case.quiet, [{"eval_time": f"{at}m", "alertname": alert, "exp_alerts": []} for at in times]))
    return made


def story(series: Mapping[str, str], tests: list[dict[str, Any]]) -> dict[str, Any]:
    given = [{"series": name, "values": values} for name, values in series.items()]
    return {"interval": "1m", "input_series": given, "alert_rule_test": tests}


def labels(alert: str, case: Case) -> dict[str, str]:
    """Those of the series, as far as its expression keeps them, and the alert's own."""
    found = {} if alert == "GpuproxyNotScraped" else dict(re.findall(r'(\w+)="([^"]*)"', next(iter(case.firing))))
    return found | ALERTS[alert]["labels"]


def annotations(alert: str, case: Case) -> dict[str, str]:
    """The summary with its placeholders filled in."""
    known = labels(alert, case)
    text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda match: known.get(match[1], ""), summary_of(alert))
    return {"summary": re.sub(r"\{\{ \$value[^}]*\}\}", case.value, text)}


def summary_of(alert: str) -> str:
    return str(ALERTS[alert]["annotations"]["summary"])


def tried(folder: Path, rules: str, alerts: list[str], *, ok: bool = True) -> str:
    """Run promtool with these rules and the tests of these alerts."""
    (folder / "alerts.yml").write_text(rules)
    told = {"rule_files": ["alerts.yml"], "evaluation_interval": "1m"}
    (folder / "test.yml").write_text(
        yaml.safe_dump(told | {"tests": [each for alert in alerts for each in stories(alert)]})
    )
    return output(debian("promtool"), "test", "rules", "test.yml", ok=ok, cwd=folder)


def test_prometheus_accepts_the_files_and_no_broken_copy(tmp_path: Path) -> None:
    promtool = debian("promtool")
    output(promtool, "check", "config", str(FILES / "prometheus.yml"))
    for name, right, wrong in (
        ("alerts.yml", 'summary: "{{ $value }} machines', "summary: {{ $value }} machines"),
        ("alerts.yml", "absent(gpuproxy_ready)", "absent(gpuproxy_ready"),
        ("alerts.yml", "for: 5m", "for: five minutes"),
        ("alerts.yml", "$labels.instance", "$label.instance"),
        ("prometheus.yml", "- alerts.yml", "- alarms.yml"),
        ("prometheus.yml", "scrape_configs:", "scrapes:"),
    ):
        for file in ("alerts.yml", "prometheus.yml"):
            text = (FILES / file).read_text()
            (tmp_path / file).write_text(text.replace(right, wrong) if file == name else text)
        assert (tmp_path / name).read_text() != (FILES / name).read_text(), right
        output(promtool, "check", "config", "prometheus.yml", ok=False, cwd=tmp_path)


def test_each_alert_fires_when_it_should_and_not_otherwise(tmp_path: Path) -> None:
    assert set(CASES) == set(ALERTS)
    tried(tmp_path, RULES.read_text(), list(ALERTS))


@pytest.mark.parametrize("alert", ALERTS)
@pytest.mark.sampled(7)
def test_an_alert_that_never_or_always_fires_is_noticed(tmp_path: Path, alert: str) -> None:
    for wrong in (NEVER, ALWAYS):
        document = yaml.safe_load(RULES.read_text())
        (rule,) = (each for group in document["groups"] for each in group["rules"] if each["alert"] == alert)
        rule["expr"] = wrong
        assert "FAILED" in tried(tmp_path, yaml.safe_dump(document), [alert], ok=False)


def test_each_alert_says_how_bad_it_is_and_what_to_do() -> None:
    for alert, rule in ALERTS.items():
        assert rule["labels"]["severity"] in {"critical", "warning"}, alert
        assert summary_of(alert)[-1] == ".", alert
