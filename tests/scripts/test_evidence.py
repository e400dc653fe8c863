"""What `make soak` makes of a log: silences that faults caused and that ended are expected, all else is a complaint."""

import io

import pytest
import structlog

from gpuproxy.adapters import logs
from scripts.evidence import loud, unexpected
from tests.adapters.test_logs import untouched_logging

__all__ = ["untouched_logging"]
SILENT, ANSWERED = "provider_silent", "provider_answered"


def log_of(*events: tuple[str, str]) -> str:
    """The lines of these events, each with its account, as the server prints them."""
    out = io.StringIO()
    logs.configure(stream=out)
    log = structlog.get_logger("gpuproxy.reconcile.silence")
    for event, account in events:
        (log.info if event == ANSWERED else log.warning)(event, account=account, error="a b", provider="vast.ai")
    return out.getvalue()


@pytest.mark.parametrize(
    ("events", "left"),
    [
        ([], {}),
        ([(SILENT, "a"), (ANSWERED, "a")], {}),
        ([(SILENT, "a"), (ANSWERED, "a"), (SILENT, "a"), (ANSWERED, "a")], {}),
        ([(SILENT, "a"), (ANSWERED, "a"), (SILENT, "a")], {SILENT: 1}),
        ([(SILENT, "a"), (ANSWERED, "b")], {SILENT: 1}),
        ([(ANSWERED, "a"), (SILENT, "a")], {SILENT: 1}),
        ([(SILENT, "a"), ("spend_differs", "a"), (ANSWERED, "a")], {"spend_differs": 1}),
    ],
)
def test_only_a_silence_that_ended_is_expected(events: list[tuple[str, str]], left: dict[str, int]) -> None:
    assert unexpected(log_of(*events)) == left


def test_where_nothing_was_made_to_fail_a_silence_is_a_warning_like_any_other() -> None:
    assert loud(log_of((SILENT, "a"), (ANSWERED, "a"))) == {SILENT: 1}
