"""Reading what the boot script reported, from the log of an instance.

A user's script prints to the same log. So a line counts only if it has a known part with a known word, and nothing in a
log is an error. A user who prints such a line deceives nobody but themself.
"""

import re
from collections.abc import Mapping, Sequence

from gpuproxy.boot.parts import WORDS

_MARK = "gpuproxy-boot: version="
_LONGEST = 1_000  # characters after the mark that are looked at
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def reported(lines: Sequence[str]) -> Mapping[str, str] | None:
    """The word of each part in the last report of a log (oldest line first); None if there is no report.

    Text before and after the report, such as a timestamp, and unknown parts or words are ignored.
    """
    for line in reversed(lines):
        _, mark, rest = line.rpartition(_MARK)
        if mark and (found := _words(rest[:_LONGEST])):
            return found
    return None


def _words(rest: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in _ESCAPE.sub(" ", rest).split()[1:]:
        name, _, word = pair.partition("=")
        if word in WORDS.get(name, ()):
            found.setdefault(name, word)
    return found
