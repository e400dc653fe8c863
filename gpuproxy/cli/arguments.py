"""What the words of the command line may be. What no call can carry is wrong usage, told before there is one."""

from collections.abc import Iterable

import click

from gpuproxy.config.values import parse_duration

_MAX_NAME = 64
_MOST = 2**31 - 1
_CENTURY = 36_525 * 86_400.0


class TextType(click.ParamType[str]):
    """Never blank where it is given: a shell variable that is not set would silently mean any, or none at all.

    Options of this type have no default, which would be judged too.
    """

    name = "text"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Fails the command for a blank one."""
        text = str(value)
        if not text.strip():
            self.fail("must not be empty; is it a variable that is not set?", param, ctx)
        return text


class IntegerType(click.ParamType[int]):
    """A whole number that a call can carry, `least` at least; what it may be is the server's to say."""

    name = "integer"

    def __init__(self, least: int = -_MOST) -> None:
        self._least = least

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Fails the command with the reason."""
        try:
            number = int(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a whole number", param, ctx)
        if not self._least <= number <= _MOST:
            self.fail(f"{number} is not in the range {self._least} to {_MOST}", param, ctx)
        return number


class DurationType(click.ParamType[float]):
    """Seconds from `90`, `15m`, `2h`, `7d`; a hundred years at most."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Fails the command with the reason."""
        try:
            span = parse_duration(str(value))
        except ValueError as error:
            self.fail(f"{value!r} {error}", param, ctx)
        if span > _CENTURY:
            self.fail(f"{value!r} is more than a hundred years", param, ctx)
        return span


class PriceType(click.ParamType[float]):
    """USD per GPU-hour, above 0: in a call 0 is the server's own limit, which nobody means who writes 0."""

    name = "usd"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Fails the command with the reason."""
        try:
            price = float(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a number", param, ctx)
        if price <= 0:
            self.fail("must be above 0; left out it is the server's limit, GPUPROXY_MAX_PRICE", param, ctx)
        return price


def short_text(name: str, text: str) -> str:
    """What a key or a project may be called, by the rules of the API; raises UsageError."""
    stripped = text.strip()
    if not stripped:
        raise click.UsageError(f"{name} is required: it must not be empty.")
    if len(stripped) > _MAX_NAME:
        raise click.UsageError(f"{name} must have at most {_MAX_NAME} characters, not {len(stripped)}.")
    if not stripped.isprintable():
        raise click.UsageError(f"{name} must be printable text on one line.")
    return stripped


def check_text(words: Iterable[str]) -> None:
    """Raise UsageError for a word that is no UTF-8: neither a message nor the terminal can have it."""
    for word in words:
        if not word.isascii() and any("\ud800" <= letter <= "\udfff" for letter in word):
            raise click.UsageError(f"{word!r} is not text in UTF-8")
