"""What scripts take from the command line and the environment. Anything wrong ends them with a sentence and code 2."""

import argparse
import os
import sys
from typing import NoReturn


def refuse_arguments(about: str | None) -> None:
    """Print `about`, the script's docstring, for --help. Any other argument ends the script: they take variables."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()


def whole(name: str, default: int, *, least: int = 1) -> int:
    """The whole number in a variable; `default` if it is not set or empty."""
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal() or int(text) < least:
        _wrong(f"{name} must be a whole number of at least {least}, not {text!r}")
    return int(text)


def seeds(name: str, default: int) -> range:
    """The seeds in a variable: N is 0 to N-1, FROM-TO includes both; `default` seeds if it is not set or empty."""
    text = os.environ.get(name, "").strip()
    if not text:
        return range(default)
    first, dash, last = text.partition("-")
    numbers = [first, last] if dash else [first]
    if not all(each.strip().isdecimal() for each in numbers):
        _wrong(f"{name} must be N or FROM-TO, not {text!r}")
    found = range(int(first), int(last) + 1) if dash else range(int(first))
    if not found:
        _wrong(f"{name}={text} selects no seed")
    return found


def _wrong(what: str) -> NoReturn:
    print(what, file=sys.stderr)
    raise SystemExit(2)
