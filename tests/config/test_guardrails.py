"""The published settings GUARDRAILS_...: which limits they are, and what prevents startup."""

import pytest

from gpuproxy.config.names import GUARDRAILS
from gpuproxy.config.spending import limits_of
from tests.config.test_config import load, refusal


def test_the_published_settings_are_global_limits_under_their_names() -> None:
    settings = load(GUARDRAILS_MAX_60MIN_RATE="5", GUARDRAILS_MAX_72H_RATE="20.5", GUARDRAILS_MAX_48H_RATE="0")
    found = {each.name: (each.scope, each.window.length, each.amount, each.policy) for each in limits_of(settings)}
    hour = 3_600_000_000
    assert found == {
        "GUARDRAILS_MAX_60MIN_RATE": ("global", hour, 5_000_000, "stop_newest"),
        "GUARDRAILS_MAX_72H_RATE": ("global", 72 * hour, 20_500_000, "stop_newest"),
    }


def test_a_limit_below_a_micro_dollar_is_not_taken_for_none() -> None:
    assert [each.amount for each in limits_of(load(GUARDRAILS_MAX_60MIN_RATE="0.0000001"))] == [1]


def test_guardrails_that_are_switched_off_limit_nothing() -> None:
    assert limits_of(load(GUARDRAILS_ENABLED="false", GUARDRAILS_MAX_60MIN_RATE="5")) == ()
    assert limits_of(load(GUARDRAILS_ENABLED="true", GUARDRAILS_MAX_60MIN_RATE="5"))[0].amount == 5_000_000


def test_each_published_window_is_a_limit_of_so_many_minutes_or_hours() -> None:
    names = {f"GUARDRAILS_MAX_{window}_RATE": window for window in GUARDRAILS}
    found = limits_of(load(**dict.fromkeys(names, "1"), GPUPROXY_LIMIT_POLICY="no_new"))
    assert [each.name for each in found] == list(names)
    for limit in found:
        window = names[limit.name]
        number, unit = int(window.rstrip("MINH")), 60 if window.endswith("MIN") else 3600
        assert (limit.window.length, limit.policy) == (number * unit * 1_000_000, "no_new")
        assert (limit.scope, limit.subject, limit.source) == ("global", "", "setting")


@pytest.mark.parametrize("value", ["-1", "abc", "nan", "inf", "$5", "1,5", "1000000000.01", "1e300"])
def test_a_guardrail_that_is_no_amount_prevents_startup_and_is_named_as_it_was_set(value: str) -> None:
    assert refusal(GUARDRAILS_MAX_60MIN_RATE=value).startswith("GUARDRAILS_MAX_60MIN_RATE: Input should be ")


def test_the_largest_guardrail_is_the_largest_limit_of_a_call() -> None:
    assert limits_of(load(GUARDRAILS_MAX_60MIN_RATE="1e9"))[0].amount == 10**15


@pytest.mark.parametrize(("value", "shown"), [("maybe", "boolean"), ("2", "boolean")])
def test_a_switch_of_the_guardrails_that_is_neither_on_nor_off_prevents_startup(value: str, shown: str) -> None:
    problem = refusal(GUARDRAILS_ENABLED=value)
    assert problem.startswith("GUARDRAILS_ENABLED: ")
    assert shown in problem


@pytest.mark.parametrize("window", ["10MIN", "96H", "30D", "MONTH", "1H", "60MINUTES", ""])
def test_a_guardrail_of_an_unknown_window_prevents_startup_and_says_which_there_are(window: str) -> None:
    name = f"GUARDRAILS_MAX_{window}_RATE"
    problem = refusal(**{name: "5"})
    assert problem.startswith(f"{name} is set but ")
    assert "5MIN, 15MIN, 30MIN, 60MIN" in problem
    assert "gpuproxy limits set" in problem
    assert problem.endswith(": not started.")
