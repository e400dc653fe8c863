"""The types of command-line arguments. A value that no call can carry is wrong usage, reported before any call."""

import math
import re
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from gpuproxy.config.durations import parse_duration
from gpuproxy.model.strategies import STRATEGIES

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
"""For commands on this machine's database. Client commands have an option of their own."""
_MAX_NAME = 64
_MOST_PATH = 255
_MOST = 2**31 - 1
_CENTURY = 36_525 * 86_400.0
TIME_FORMS = "2026-07-01, 2026-07-01T12:00 or 2026-07-01T12:00:00Z"
_ABOVE_ZERO = "must be above 0, for example 90s or 5m"
_NEGATIVE = re.compile(r"-\s*[\d.]")
_TIME = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?(Z|[+-]\d\d:\d\d)?)?", re.ASCII)


class TextType(click.ParamType[str]):
    """A text that is not blank. An unset shell variable must not silently mean "any" or "none".

    Options of this type have no default, because click would convert the default too.
    """

    name = "text"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Fails the command if the text is blank."""
        text = str(value)
        if not text.strip():
            self.fail("must not be empty. Is a shell variable unset?", param, ctx)
        return text


class FileType(TextType):
    """The name of a file. A shell completes it."""

    name = "file"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Leaves it to the shell."""
        del ctx, param
        return [CompletionItem(incomplete, type="file")]


class StrategyType(TextType):
    """The name of a load balancing strategy. The server decides which it accepts. A shell offers those known here."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The strategies that begin so."""
        del ctx, param
        return [CompletionItem(name) for name in STRATEGIES if name.startswith(incomplete)]


class ScriptType(TextType):
    """The text of a script. The name of a file would be run as a command on the machine, where the file is not."""

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Fails the command if the text is blank, or if it is the name of a file."""
        text = super().convert(value, param, ctx)
        if "\n" not in text and len(text) <= _MOST_PATH and Path(text).is_file():
            self.fail(f'is the text of a script, and {text} is a file. Give its text: "$(cat {text})".', param, ctx)
        return text


class IntegerType(click.ParamType[int]):
    """A whole number from `least` to 2**31 - 1, which a call can carry. The server checks which numbers are valid."""

    name = "integer"

    def __init__(self, least: int = -_MOST) -> None:
        self._least = least

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Fails the command and gives the reason."""
        try:
            number = int(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a whole number", param, ctx)
        if not self._least <= number <= _MOST:
            self.fail(f"{number} is not in the range {self._least} to {_MOST}", param, ctx)
        return number


class NumberType(click.FloatRange):
    """A number of a range. With `or_zero`, 0 too: in a call it means the default. Never infinite or not a number."""

    def __init__(self, least: float = 0.0, most: float | None = None, *, or_zero: bool = False) -> None:
        super().__init__(least, most)
        self._or_zero = or_zero

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Fails the command and gives the reason."""
        try:
            number = float(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a number", param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number if self._or_zero and not number else float(super().convert(number, param, ctx))


class WordType(click.Choice[str]):
    """One of a few words, in upper or lower case, `-` stands for `_`. A blank one is wrong, as for TextType."""

    def __init__(self, words: Iterable[str]) -> None:
        super().__init__([str(word) for word in words], case_sensitive=False)

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Fails the command and lists the words."""
        text = TextType().convert(value, param, ctx)
        return str(super().convert(text.strip().replace("-", "_"), param, ctx))


class DurationType(click.ParamType[float]):
    """A duration such as `90s`, `15m`, `2h` or `7d`, converted to seconds; at most a hundred years.

    A number other than 0 needs a unit: who types `--for 2` hardly means two seconds. With `above_zero`, 0 is wrong too.
    """

    name = "duration"

    def __init__(self, *, above_zero: bool = False) -> None:
        self._above_zero = above_zero

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Fails the command and gives the reason."""
        if isinstance(value, float):  # the default
            return value
        text = str(value).strip()
        if _NEGATIVE.match(text):
            self.fail(
                f"{text} must {'be above 0, for example 90s or 5m' if self._above_zero else 'not be negative'}",
                param,
                ctx,
            )
        try:
            span = parse_duration(text)
        except ValueError as error:
            self.fail(f"{value!r} {error}", param, ctx)
        if span and text[-1].isdigit():
            self.fail(f"{text} has no unit: {text}s, {text}m, {text}h or {text}d", param, ctx)
        if span > _CENTURY:
            self.fail(f"{value!r} is more than a hundred years", param, ctx)
        if self._above_zero and not span:
            self.fail(f"{text} {_ABOVE_ZERO}", param, ctx)
        return span


class MomentType(click.ParamType[datetime]):
    """A time in one of TIME_FORMS, or with an offset (`2026-07-01T12:00+02:00`). Without an offset it is in UTC."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Fails the command and names the valid forms."""
        text = str(value).strip()
        moment: datetime | None = None
        if _TIME.fullmatch(text):
            with suppress(ValueError, OverflowError):
                found = datetime.fromisoformat(text)
                moment = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
        if moment is None:
            self.fail(f"{value!r} is not a time. Write {TIME_FORMS}; without an offset it is in UTC", param, ctx)
        return moment


class PairType(click.ParamType[tuple[str, str]]):
    """A text of the form `KEY=VALUE`."""

    name = "key=value"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Fails the command if there is no key or no `=`."""
        key, equals, text = str(value).partition("=")
        if not key or not equals:
            self.fail(f"{value!r} is not KEY=VALUE", param, ctx)
        return key, text


class PriceType(click.ParamType[float]):
    """USD per GPU-hour, above 0. In a call 0 means the server's own limit; a user who types 0 does not mean that."""

    name = "usd"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Fails the command and gives the reason."""
        try:
            price = float(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a number", param, ctx)
        if not 0 < price < math.inf:
            self.fail("must be above 0. Without this option the server's GPUPROXY_MAX_PRICE applies", param, ctx)
        return price


def short_text(name: str, text: str) -> str:
    """The text without surrounding spaces, checked by the API's rules for names; raises UsageError."""
    stripped = text.strip()
    if not stripped:
        raise click.UsageError(f"{name} is required: it must not be empty.")
    if len(stripped) > _MAX_NAME:
        raise click.UsageError(f"{name} must have at most {_MAX_NAME} characters, not {len(stripped)}.")
    if not stripped.isprintable():
        raise click.UsageError(f"{name} must be printable text on one line.")
    return stripped


def check_text(words: Iterable[str]) -> None:
    """Raise UsageError for a word that is not UTF-8: it can be neither sent in a message nor printed."""
    for word in words:
        if not word.isascii() and any("\ud800" <= letter <= "\udfff" for letter in word):
            raise click.UsageError(f"{word!r} is not valid UTF-8")
