"""The options of `gpuproxy sandbox`."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from gpuproxy.cli import sandbox as command
from gpuproxy.sandbox.options import SandboxOptions


def _options(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> SandboxOptions:
    seen: list[SandboxOptions] = []
    monkeypatch.setattr(command, "run", seen.append)
    result = CliRunner().invoke(command.sandbox, list(arguments))
    assert result.exit_code == 0, result.output
    return seen[0]


def test_without_options_the_market_behaves_like_the_real_service(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _options(monkeypatch) == SandboxOptions(
        search_page=64, misreport_share=0.25, ionet_lag=3.0, boot_scripts="ours"
    )


def test_an_easy_market_needs_four_options(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = _options(monkeypatch, "--rate-limits", "off", "--search-page", "0", "--shy-rows", "0", "--ionet-lag", "0")
    assert kind == SandboxOptions(rate_limits="off", boot_scripts="ours")


def test_every_option_is_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    market = tmp_path / "market.csv"
    market.write_text("machine_id\n")
    text = (
        f"--host 127.0.0.2 --port 0 --seed 9 --market {market} --state {tmp_path}/s --machines 12 --accounts a,b"
        " --credit 25 --time-scale 60 --rate-limits off --create-latency 0.5 --boot-time 5,9 --search-page 50"
        " --list-lag 3 --shy-rows 0.5 --shy-seconds 9 --gone-as html_404"
        " --one-address 0.25 --portless 0.75 --refresh-keys 30"
        " --ionet-deploy-body id --ionet-lag 9 --ionet-retry-after date"
        " --volume-sharing refuse --standby-binding any --boot-scripts all --start-time 1000 --exit-with-parent"
    )
    assert _options(monkeypatch, *text.split()) == SandboxOptions(
        host="127.0.0.2",
        port=0,
        seed=9,
        market=market,
        state=tmp_path / "s",
        machines=12,
        accounts=("a", "b"),
        credit=25.0,
        time_scale=60.0,
        rate_limits="off",
        create_latency=0.5,
        boot_time=(5.0, 9.0),
        search_page=50,
        list_lag=3.0,
        misreport_share=0.5,
        misreport_seconds=9.0,
        one_address_share=0.25,
        portless_share=0.75,
        keys_refreshed_after=30.0,
        gone_as="html_404",
        ionet_deploy_body="id",
        ionet_lag=9.0,
        ionet_retry_after="date",
        volume_sharing="refuse",
        standby_binding="any",
        boot_scripts="all",
        start_time=1000.0,
        exit_with_parent=True,
    )


def test_a_single_boot_time_is_minimum_and_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _options(monkeypatch, "--boot-time", "0").boot_time == (0.0, 0.0)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--boot-time", "9,5"],
        ["--boot-time", "x"],
        ["--accounts", ","],
        ["--time-scale", "0"],
        ["--shy-rows", "1.5"],
        ["--one-address", "-1"],
        ["--portless", "2"],
        ["--refresh-keys", "-5"],
        ["--gone-as", "nonsense"],
    ],
)
def test_invalid_options_are_a_usage_error(arguments: list[str]) -> None:
    assert CliRunner().invoke(command.sandbox, arguments).exit_code == 2


def test_a_state_of_another_market_is_a_readable_error(tmp_path: Path) -> None:
    state = tmp_path / "market.state"
    state.write_text('{"market":"another","now":5}\n')
    result = CliRunner().invoke(command.sandbox, ["--port", "0", "--state", str(state)])
    assert (result.exit_code, "another" in result.output) == (2, True)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com"])  # noqa: S104
def test_a_market_that_others_can_reach_does_not_run_every_script(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setattr(command, "run", lambda options: pytest.fail(f"runs {options}"))
    result = CliRunner().invoke(command.sandbox, ["--host", host, "--boot-scripts", "all"])
    assert result.exit_code == 2
    assert "loopback" in result.output
    assert _options(monkeypatch, "--host", host).boot_scripts == "ours"
