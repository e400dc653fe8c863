"""The comparison detects differences: each kind of expectation, with a matching and a different output."""

from pathlib import Path

import pytest

from tests.own_venv import NotInstalled
from tests.vastai_cli.expect import Shown, Step, compared
from tests.vastai_cli.program import Program, installed
from tests.vastai_cli.stage import Market, play


def test_a_text_matches_with_any_column_width_and_its_captures_can_be_used() -> None:
    kept: dict[str, str] = {}
    assert compared("ID  Name\n<N:int> x", "  ID   Name\n  55   x  \n\n", kept) == ""
    assert kept == {"N": "55"}
    assert compared("stopping instance $N.", "stopping instance 55.\n", kept) == ""


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ("starting instance $N.", "starting instance 56."),
        ("", "something"),
        ("something", ""),
        ("<int>", "x"),
        ("a.c", "abc"),
        ("one\ntwo", "one two"),
        ("one", "one\ntwo"),
    ],
)
def test_a_different_text_is_reported(expected: str, actual: str) -> None:
    assert compared(expected, actual, {"N": "55"}) != ""


def test_json_matches_if_everything_expected_is_present() -> None:
    kept = {"N": "55"}
    shown = Shown([{"id": "$N", "price": float, "items": [{}]}], keep={"L": [0, "label"]})
    assert compared(shown, '[{"id": 55, "price": 0.5, "label": "x", "items": [{"a": 1}]}]', kept) == ""
    assert kept["L"] == "x"


@pytest.mark.parametrize(
    "actual",
    [
        "[]",
        "not json",
        '[{"id": 56, "ok": true, "n": 1}]',
        '[{"id": 55, "ok": 1, "n": 1}]',
        '[{"id": 55, "ok": true, "n": true}]',
        '[{"id": 55, "ok": true}]',
        '[{"id": 55, "ok": true, "n": 1}, {}]',
        '{"id": 55}',
    ],
)
def test_different_json_is_reported(actual: str) -> None:
    assert compared(Shown([{"id": "$N", "ok": True, "n": int}]), actual, {"N": "55"}) != ""


@pytest.mark.parametrize(
    "step",
    [
        Step(run="show instance 7"),
        Step(run="show instance 7", err="Instance 8 not found or no longer exists.", code=1),
        Step(run="show instance 7", err="Instance 7 not found or no longer exists.", code=0),
        Step(run="show volumes --raw", out="[]", calls={"volume_list": 2}),
        Step(run="show volumes --raw", out="[]", faults=[{"call": "volume_list", "fault": "auth_error"}]),
    ],
)
def test_a_scenario_fails_at_a_different_output(program: Program, market: Market, step: Step) -> None:
    with pytest.raises(AssertionError, match=r"^\$ vastai show"):
        play(program, market, "key-faults", [step])


def test_a_package_index_that_does_not_answer_fails_loudly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_RETRIES": "1",
        "PIP_NO_CACHE_DIR": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(NotInstalled, match="pip install failed") as caught:
        installed(tmp_path / "venv")
    assert caught.value.unreachable
    assert not (tmp_path / "venv" / "ready").exists()


def test_a_package_that_the_index_refuses_is_not_taken_for_an_index_that_does_not_answer() -> None:
    assert not NotInstalled("pip install failed: THESE PACKAGES DO NOT MATCH THE HASHES").unreachable
