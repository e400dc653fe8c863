"""The format of expectations, and the comparison with the output.

Text: `<int>` matches any number, `<N:int>` also stores it as N, and `$N` inserts a stored number. Several blanks count
as one, and blanks at the end of a line are ignored, so that column widths don't matter. `<...>` matches any text.
JSON (`Shown`): the expected values must be equal; a type matches any value of it; lists are compared row by row.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_KINDS = {
    "int": r"\d+",
    "number": r"-?\d+(?:\.\d+)?(?:e-?\d+)?",
    "hex": r"[0-9a-f]+",
    "word": r"\S+",
    "date": r"\d{4}-\d\d-\d\d",
    "time": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
    "...": r"(?s:.*)",
}
_PLACE = re.compile(r"<(?:(?P<name>[a-zA-Z]\w*):)?(?P<kind>int|number|hex|word|date|time|\.\.\.)>")
_KEPT = re.compile(r"\$(\w+)")


@dataclass(frozen=True, slots=True)
class Shown:
    """JSON that contains at least this; `keep` maps names to the paths of the values to store."""

    like: Any
    keep: Mapping[str, Sequence[str | int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command and its expected output. `calls` is the number of requests of each kind that it sends."""

    run: str
    out: str | Shown = ""
    err: str = ""
    code: int = 0
    key: str | None = None
    faults: Sequence[Mapping[str, Any]] = ()
    calls: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A call of the sandbox's control API between two commands."""

    post: str
    body: Mapping[str, Any] = field(default_factory=dict)


def filled(text: str, kept: Mapping[str, str]) -> str:
    """The text with the stored values inserted."""
    return _KEPT.sub(lambda place: kept[place[1]], text)


def compared(expected: str | Shown, actual: str, kept: dict[str, str]) -> str:
    """The differences, or ""; values to store are put into `kept`."""
    if isinstance(expected, Shown):
        return _shown(expected, actual, kept)
    found = re.fullmatch(_pattern(_tidy(filled(expected, kept))), _tidy(actual))
    if found is None:
        return f"expected:\n{_tidy(filled(expected, kept))}\nwas:\n{_tidy(actual)}"
    kept |= found.groupdict()
    return ""


def _tidy(text: str) -> str:
    lines = (re.sub(r"[ \t]+", " ", line).strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line)


def _pattern(text: str) -> str:
    parts, end = [], 0
    for place in _PLACE.finditer(text):
        group = f"(?P<{place['name']}>" if place["name"] else "(?:"
        parts += [re.escape(text[end : place.start()]), group, _KINDS[place["kind"]], ")"]
        end = place.end()
    return "".join([*parts, re.escape(text[end:])])


def _shown(expected: Shown, actual: str, kept: dict[str, str]) -> str:
    try:
        value = json.loads(actual)
    except ValueError:
        return f"expected JSON, was:\n{actual}"
    if differs := "\n".join(_differences(expected.like, value, kept, "")):
        return f"{differs}\nin:\n{actual}"
    for name, path in expected.keep.items():
        at = value
        for part in path:
            at = at[part]
        kept[name] = str(at)
    return ""


def _differences(like: Any, value: Any, kept: Mapping[str, str], where: str) -> list[str]:
    if isinstance(like, str):
        like = filled(like, kept)
        like = type(value)(like) if isinstance(value, int) and like.isdigit() else like
    if isinstance(like, type):
        good = isinstance(value, like) and not (like is int and isinstance(value, bool))
        return [] if good else [f"{where}: expected any {like.__name__}, was {value!r}"]
    if isinstance(like, dict) and isinstance(value, dict):
        missing = [f"{where}.{name}: missing" for name in like if name not in value]
        found = [name for name in like if name in value]
        return missing + [
            text for name in found for text in _differences(like[name], value[name], kept, f"{where}.{name}")
        ]
    if isinstance(like, list) and isinstance(value, list):
        if len(like) != len(value):
            return [f"{where}: expected {len(like)} rows, were {len(value)}"]
        pairs = enumerate(zip(like, value, strict=True))
        return [text for at, (one, other) in pairs for text in _differences(one, other, kept, f"{where}[{at}]")]
    return [] if like == value and type(like) is type(value) else [f"{where}: expected {like!r}, was {value!r}"]
