"""Logs: every line is complete, goes to one stream and contains no secret."""

import io
import json
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import structlog

from gpuproxy.adapters import logs

CANARY = "canary-secret-key"


@pytest.fixture(autouse=True)
def untouched_logging() -> Iterator[None]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    logs._write_fast = None  # as if nothing had been configured
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
def test_a_traceback_shows_no_variables_because_they_may_contain_a_request(style: str) -> None:
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
def test_a_secret_with_quotes_is_redacted_in_every_spelling(style: str) -> None:
    out = io.StringIO()
    logs.configure(style=style, secrets=['it\'s "quoted" canary'], stream=out)  # type: ignore[arg-type]
    structlog.get_logger("gpuproxy.test").info("said", field='it\'s "quoted" canary', many=['it\'s "quoted" canary'])
    assert "canary" not in out.getvalue()


def test_a_secret_that_is_added_later_is_redacted_too() -> None:
    out = io.StringIO()
    redactor = logs.configure(stream=out)
    redactor.add("made-later")
    logging.getLogger("x").warning("made-later")
    assert "made-later" not in out.getvalue()


def test_a_text_that_is_too_short_for_a_secret_is_not_redacted() -> None:
    out = io.StringIO()
    logs.configure(stream=out, secrets=["a", ""])
    logging.getLogger("x").warning("a banana")
    assert "a banana" in out.getvalue()


def test_json_is_one_object_per_line_with_the_given_fields() -> None:
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


def test_events_below_the_level_are_not_printed() -> None:
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


@pytest.mark.parametrize("style", ["console", "json"])
def test_a_frequent_event_is_printed_as_structlog_prints_it(style: str) -> None:
    out = io.StringIO()
    logs.configure(style=style, stream=out, secrets=[CANARY])  # type: ignore[arg-type]
    fields = {"code": "OK", "empty": "", "ms": 0.5, "odd": "a = b\n", "secret": CANARY}
    with structlog.contextvars.bound_contextvars(trace_id="t1"):
        structlog.get_logger("gpuproxy.test").info("rpc", **fields, word="grüß")
    logs.FrequentEvent("gpuproxy.test", "rpc")(**fields, trace_id="t1", word="grüß")
    one, other = (re.sub(r"[0-9-]+T[0-9:.]+Z", "DATE", line) for line in out.getvalue().splitlines())
    if style == "json":
        one, other = json.loads(one), json.loads(other)
    assert one == other
    assert CANARY not in out.getvalue()


def test_a_frequent_event_has_its_time() -> None:
    out = io.StringIO()
    logs.configure(stream=out)
    before = datetime.now(UTC)
    logs.FrequentEvent("gpuproxy.test", "rpc")(code="OK")
    written = datetime.fromisoformat(out.getvalue().split()[0])
    assert before <= written + timedelta(microseconds=1) <= datetime.now(UTC) + timedelta(microseconds=1)


def test_a_frequent_event_below_the_level_is_not_printed() -> None:
    out = io.StringIO()
    logs.configure(level="warning", stream=out)
    logs.FrequentEvent("gpuproxy.test", "rpc")(code="OK")
    assert out.getvalue() == ""


def test_a_frequent_event_is_captured_like_any_other_if_logging_is_not_configured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs, "_write_fast", None)
    with structlog.testing.capture_logs() as lines:
        logs.FrequentEvent("gpuproxy.test", "rpc")(code="OK")
    assert lines == [{"event": "rpc", "code": "OK", "log_level": "info"}]
