"""Each test has the log to itself: what one of them configures, or a command that it runs, is undone after it."""

from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from gpuproxy.adapters import logs


@pytest.fixture(autouse=True)
def _a_log_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    configure = structlog.configure

    def without_cache(**settings: Any) -> None:
        """A logger that keeps its first configuration would pass by every later one, and by capture_logs."""
        configure(**{**settings, "cache_logger_on_first_use": False})

    monkeypatch.setattr(structlog, "configure", without_cache)
    yield
    structlog.reset_defaults()
    logs._write_fast = None
