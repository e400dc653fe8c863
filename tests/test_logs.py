"""Logs: every line is whole, goes to one place, and holds no secret."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from gpuproxy import logs

CANARY = "canary-secret-key"


@pytest.fixture(autouse=True)
def untouched_logging() -> Iterator[None]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize("style", ["console", "json"])
def test_a_secret_never_reaches_the_log_by_any_way(style: str) -> None:
    out = io.StringIO()
    logs.configure(style=style, secrets=[CANARY], stream=out)  # type: ignore[arg-type]
    log = structlog.get_logger("gpuproxy.test")
    message = f"message {CANARY}"
    log.info(message, field=CANARY, nested={"key": CANARY})
    logging.getLogger("other.library").warning("theirs %s", CANARY)
    try:
        int(CANARY)
    except ValueError:
        log.exception("failed")
    assert CANARY not in out.getvalue()
    assert out.getvalue().count(logs.REDACTED) >= 5


@pytest.mark.parametrize("style", ["console", "json"])
def test_a_traceback_shows_no_variables_for_a_request_may_be_among_them(style: str) -> None:
    out = io.StringIO()
    logs.configure(style=style, stream=out)  # type: ignore[arg-type]
    request = {"password": CANARY}
    try:
        int(next(iter(request)))
    except ValueError:
        structlog.get_logger("gpuproxy.test").exception("failed")
    assert "ValueError" in out.getvalue()
    assert CANARY not in out.getvalue()


@pytest.mark.parametrize("style", ["console", "json"])
def test_a_secret_with_quotes_is_cut_out_however_the_line_spells_it(style: str) -> None:
    out = io.StringIO()
    logs.configure(style=style, secrets=['it\'s "quoted" canary'], stream=out)  # type: ignore[arg-type]
    structlog.get_logger("gpuproxy.test").info("said", field='it\'s "quoted" canary', many=['it\'s "quoted" canary'])
    assert "canary" not in out.getvalue()


def test_a_secret_made_later_is_cut_out_too() -> None:
    out = io.StringIO()
    redactor = logs.configure(stream=out)
    redactor.add("made-later")
    logging.getLogger("x").warning("made-later")
    assert "made-later" not in out.getvalue()


def test_what_is_too_short_to_be_a_secret_does_not_spoil_the_log() -> None:
    out = io.StringIO()
    logs.configure(stream=out, secrets=["a", ""])
    logging.getLogger("x").warning("a banana")
    assert "a banana" in out.getvalue()


def test_json_is_one_object_a_line_with_the_fields_that_were_given() -> None:
    out = io.StringIO()
    logs.configure(style="json", stream=out)
    structlog.get_logger("gpuproxy.engine").info("released", lease="l1", n=2)
    (line,) = out.getvalue().splitlines()
    entry = json.loads(line)
    assert entry | {"timestamp": ""} == {
        "event": "released",
        "lease": "l1",
        "n": 2,
        "level": "info",
        "logger": "gpuproxy.engine",
        "timestamp": "",
    }


def test_what_is_below_the_level_is_not_printed() -> None:
    out = io.StringIO()
    logs.configure(level="warning", stream=out)
    structlog.get_logger("x").info("quiet")
    logging.getLogger("y").info("quiet")
    assert out.getvalue() == ""


def test_configuring_twice_prints_each_line_once() -> None:
    out = io.StringIO()
    logs.configure(stream=out)
    logs.configure(stream=out)
    logging.getLogger("x").warning("once")
    assert out.getvalue().count("once") == 1
