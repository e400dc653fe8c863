"""What the program logs during a story. Only errors are collected; an error with a traceback is a bug."""

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import structlog


@contextmanager
def errors_logged() -> Iterator[list[str]]:
    """The tracebacks that were logged within the block; nothing is printed."""
    errors: list[str] = []

    def keep(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if event.get("exc_info"):
            errors.append(repr(event))
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(40))
    try:
        yield errors
    finally:
        structlog.configure(**before)
