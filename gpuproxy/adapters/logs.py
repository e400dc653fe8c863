"""Logs: one line or one JSON object an event, to stderr, secrets cut out; what libraries log comes the same way.

Fields, not prose: `log.info("released", lease=..., instance=...)`. Redaction is the last thing before a line is
printed, so that no field, message or traceback passes by it. Our own lines don't pass through the standard library's
logging: that would be a tenth of what a call costs.
"""

import json
import logging
import re
import sys
import time
from collections.abc import Callable, Collection
from functools import lru_cache, partial
from typing import Literal, TextIO

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.types import EventDict, Processor, WrappedLogger

REDACTED = "***"
_SHORTEST_SECRET = 6
"""Shorter ones would cut ordinary words to pieces."""
_CLEAR = re.compile(r"[!-<>-~]*").fullmatch
"""Text that can stand in a line as it is: no space, no `=`, nothing invisible."""
_LOUD_LIBRARIES = ("asyncio", "aiohttp.access", "grpc")


Routinely = Callable[[str, str, dict[str, str | float]], None]
_routinely: Routinely | None = None
"""Prints a line of a logger: an event and its fields. None until `configure` knows a short way to where lines go."""


class Routine:
    """An info line that is written for every call: what structlog would print, at a third of the price.

    A dozen steps make a line of structlog's, 30 us where a call of ours takes 240.
    """

    def __init__(self, logger: str, event: str) -> None:
        self._logger = logger
        self._event = event

    def __call__(self, **fields: str | float) -> None:
        """Log it with these fields, the call's trace_id among them, in the order of their names."""
        if _routinely is None:
            structlog.get_logger(self._logger).info(self._event, **fields)
        else:
            _routinely(self._logger, self._event, fields)


class Redactor:
    """Cuts known secrets out of finished lines; those that are made later are added later."""

    def __init__(self, secrets: Collection[str] = ()) -> None:
        self._secrets: frozenset[str] = frozenset()
        self.add(*secrets)

    def add(self, *secrets: str) -> None:
        """Never print these again."""
        self._secrets |= {
            spelling
            for secret in secrets
            if len(secret) >= _SHORTEST_SECRET
            for spelling in (secret, repr(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1])
        }

    def __call__(self, _logger: WrappedLogger, _method: str, line: str | EventDict) -> str | EventDict:
        """As a structlog processor after the renderer."""
        return self.cut(line) if isinstance(line, str) else line

    def cut(self, line: str) -> str:
        """The line with every secret replaced."""
        for secret in self._secrets:
            line = line.replace(secret, REDACTED)
        return line


def configure(
    *,
    level: str = "info",
    style: Literal["console", "json"] = "console",
    secrets: Collection[str] = (),
    stream: TextIO | None = None,
) -> Redactor:
    """Route structlog's and the standard library's loggers to `stream` (stderr); call it once, before anything logs."""
    redactor = Redactor(secrets)
    out = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    finish: list[Processor] = [*_renderers(style, colors=out.isatty()), redactor]
    handler = logging.StreamHandler(out)
    meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[meta, *finish]))
    root = logging.getLogger()
    for old in [known for known in root.handlers if isinstance(known.formatter, structlog.stdlib.ProcessorFormatter)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in _LOUD_LIBRARIES:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    structlog.configure(
        processors=[*shared, *finish],
        logger_factory=partial(_Printer, out),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    global _routinely  # noqa: PLW0603 - as structlog itself has it
    _routinely = _short_way(style, redactor, _Printer(out)) if _is_short(level, out) else None
    return redactor


def _is_short(level: str, out: TextIO) -> bool:
    """True where lines are printed, and without colours."""
    return logging.getLevelNamesMapping()[level.upper()] <= logging.INFO and not out.isatty()


def _short_way(style: str, redactor: Redactor, printer: "_Printer") -> Routinely:
    line_of = _quick_json if style == "json" else _quick_plain

    def routinely(logger: str, event: str, fields: dict[str, str | float]) -> None:
        printer.msg(redactor.cut(line_of(logger, event, fields)))

    return routinely


class _Printer:
    """Where our own finished lines go. A log that can't be written to never breaks a call."""

    def __init__(self, out: TextIO, name: str = "") -> None:
        self.name = name
        self._out = out

    def msg(self, line: str) -> None:
        """Print it at once."""
        try:  # what suppress() takes is felt here
            self._out.write(line + "\n")
            self._out.flush()
        except (OSError, ValueError):
            pass

    debug = info = warning = error = critical = msg


_traceback = structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))
"""Without what variables held: requests are among them, and their secrets."""


def _renderers(style: str, *, colors: bool) -> list[Processor]:
    if style == "json":
        return [_traceback, structlog.processors.JSONRenderer(ensure_ascii=False)]
    if not colors:
        return [structlog.processors.format_exc_info, _plain_line]
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(exception_formatter=plain, pad_event_to=0)]


def _plain_line(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """As ConsoleRenderer without colours, at a third of its price: a line is written for every call."""
    head = f"{event.pop('timestamp', '')} [{event.pop('level', ''):<8}] {event.pop('event', '')}"
    logger, exception = event.pop("logger", ""), event.pop("exception", "")
    fields = " ".join([f"{name}={_shown(event[name])}" for name in sorted(event)])
    return f"{head} [{logger}] {fields}".rstrip() + (f"\n{exception}" if exception else "")


def _shown(value: object) -> str:
    """Text as it is unless that would be unclear."""
    if not isinstance(value, str):
        return repr(value)
    return value if _CLEAR(value) else repr(value)


def _quick_plain(logger: str, event: str, fields: dict[str, str | float]) -> str:
    shown = " ".join([f"{name}={_shown(value)}" for name, value in fields.items()])
    return f"{_now()} [info    ] {event} [{logger}] {shown}".rstrip()


_encoded = json.JSONEncoder(ensure_ascii=False).encode


def _quick_json(logger: str, event: str, fields: dict[str, str | float]) -> str:
    return _encoded(fields | {"event": event, "level": "info", "logger": logger, "timestamp": _now()})


def _now() -> str:
    nanoseconds = time.time_ns()
    return f"{_second(nanoseconds // 1_000_000_000)}.{nanoseconds // 1000 % 1_000_000:06d}Z"


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
