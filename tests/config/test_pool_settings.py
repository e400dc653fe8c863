"""The settings of warm pools: defaults are the engine's, and numbers that don't fit together stop the start."""

import dataclasses
from pathlib import Path

import pytest

from gpuproxy.config.checks import check_pools
from gpuproxy.config.settings import Settings
from gpuproxy.warmpool.limits import PoolLimits
from tests.config.test_config import load, refusal

FIELDS = [name for name in Settings.model_fields if name.startswith("warmpool_")]
NUMBERS = [name for name in FIELDS if name not in ("warmpool_gpu", "warmpool_max_price")]


def test_the_defaults_are_those_of_the_engine() -> None:
    assert load().pool_limits == PoolLimits()
    assert load().default_pool is None


def test_every_number_of_the_engine_has_a_setting() -> None:
    changed = {f"GPUPROXY_{name.upper()}": str(7 + at) for at, name in enumerate(NUMBERS)}
    changed |= {
        "GPUPROXY_WARMPOOL_CHECK_INTERVAL": "3",
        "GPUPROXY_WARMPOOL_PROBE_TIMEOUT": "2",
        "GPUPROXY_WARMPOOL_FENCE_TIMEOUT": "2m",
        "GPUPROXY_WARMPOOL_UNREACHABLE_AFTER": "1h",
        "GPUPROXY_WARMPOOL_UNCHECKED_AFTER": "50s",
    }
    limits, usual = load(**changed).pool_limits, PoolLimits()
    fields = [field.name for field in dataclasses.fields(PoolLimits)]
    assert len(fields) == len(NUMBERS)
    assert [name for name in fields if getattr(limits, name) == getattr(usual, name)] == []
    assert limits.fence_seconds == 120


@pytest.mark.parametrize(
    ("name", "value", "with_", "text"),
    [
        ("PROBE_TIMEOUT", "2", ["CHECK_INTERVAL"], "timeout of a probe must be shorter"),
        ("FAILURES", "1", [], "at least two failed checks"),
        ("FENCE_TIMEOUT", "10", [], "the time limit of the fence"),
        ("UNREACHABLE_AFTER", "6", ["FAILURES", "CHECK_INTERVAL"], "must be unreachable for longer"),
        ("UNCHECKED_AFTER", "40", ["FREE_CHECK_INTERVAL"], "looks for free GPUs"),
    ],
)
def test_numbers_that_do_not_fit_together_stop_the_start(name: str, value: str, with_: list[str], text: str) -> None:
    said = refusal(**{f"GPUPROXY_WARMPOOL_{name}": value})
    assert said.startswith(", ".join(f"GPUPROXY_WARMPOOL_{each}" for each in [name, *with_]) + ": ")
    assert text in said
    assert "\n" not in said


def test_every_setting_that_a_check_of_pools_names_exists_and_each_problem_has_a_line() -> None:
    wrong = PoolLimits(
        probe_timeout=9, check_seconds=2, failures=1, fence_seconds=1, unreachable_seconds=1, unchecked_seconds=1
    )
    with pytest.raises(ValueError, match="GPUPROXY") as caught:
        check_pools("", None, wrong)
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    names = {name for line in lines for name in line.partition(": ")[0].split(", ")}
    assert names <= {f"GPUPROXY_{name.upper()}" for name in NUMBERS}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GPUPROXY_WARMPOOL_FAILURES", "0"),
        ("GPUPROXY_WARMPOOL_CHECK_INTERVAL", "0"),
        ("GPUPROXY_WARMPOOL_RETRY_MAX", "-1s"),
        ("GPUPROXY_WARMPOOL_START_TIMEOUT", "soon"),
    ],
)
def test_a_number_out_of_range_is_named(name: str, value: str) -> None:
    assert refusal(**{name: value}).startswith(f"{name}: ")


@pytest.mark.parametrize(("given", "missing"), [("GPU", "MAX_PRICE"), ("MAX_PRICE", "GPU")])
def test_the_default_pool_needs_both_settings(given: str, missing: str) -> None:
    values = {"GPU": "RTX_4090", "MAX_PRICE": "0.5"}
    assert refusal(**{f"GPUPROXY_WARMPOOL_{given}": values[given]}).startswith(
        f"GPUPROXY_WARMPOOL_{missing}: is missing"
    )


def test_the_default_pool_names_the_setting_of_its_price() -> None:
    spec = load(GPUPROXY_WARMPOOL_GPU=" RTX_4090 ", GPUPROXY_WARMPOOL_MAX_PRICE="0.5").default_pool
    assert spec is not None
    assert (spec.gpu_model, spec.max_price, spec.price_from) == ("RTX_4090", 0.5, "GPUPROXY_WARMPOOL_MAX_PRICE")


def test_the_key_of_secrets_is_beside_the_database_unless_it_is_named() -> None:
    assert load().pool_secrets_key_file == Path("gpuproxy.db.secrets-key")
    assert load(GPUPROXY_SECRETS_KEY_FILE="/run/key").pool_secrets_key_file == Path("/run/key")


def test_a_misspelt_setting_of_a_pool_prevents_startup() -> None:
    assert "GPUPROXY_WARMPOOL_MAX_PRICE" in refusal(GPUPROXY_WARMPOOL_MAXPRICE="1")
