"""The SQL of the repositories in PostgreSQL's words. Each statement is translated once.

The repositories write SQL that both databases understand, so only this differs:

- `?` is where a parameter belongs: statements are cut there.
- `window` is a reserved word, so the column's name is quoted.
- `a CROSS JOIN b ON ...` makes SQLite read `a` first. PostgreSQL chooses the order itself: `a JOIN b ON ...`.
- The largest of several values: `max(a, b)` is `greatest(a, b)`, and `min(a, b)` is `least(a, b)`. The values must not
  be null: SQLite would then answer null, and PostgreSQL one of the others.
- `json_each(?)` of a list of texts is `json_array_elements_text`, with the column `value`. `json_each(column)` of a
  list of lists is `json_array_elements`.
- `json_extract(x, '$.name')` of an object's text is `x::json ->> 'name'`. `json_extract(x, '$[0]')` of a list's text is
  `x::json ->> 0`.
- `IS NOT x`, where x is no keyword, is `IS DISTINCT FROM x`.
"""

import re
from functools import lru_cache

_TOKEN = re.compile(r"'(?:[^']|'')*'|\?")
_WORDS = (
    (re.compile(r"\bCROSS JOIN\b"), "JOIN"),
    (re.compile(r"\bwindow\b"), '"window"'),
    (re.compile(r"\bjson_each\(\?\)"), "json_array_elements_text((?)::json) AS each (value)"),
    (re.compile(r"\bjson_each\((\w+)\)"), r"json_array_elements(\1::json) AS each (value)"),
    (re.compile(r"\bjson_extract\((\w+(?:\.\w+)?), '\$\.(\w+)'\)"), r"(\1::json ->> '\2')"),
    (re.compile(r"\bjson_extract\((\w+(?:\.\w+)?), '\$\[(\d+)\]'\)"), r"(\1::json ->> \2)"),
    (re.compile(r"\bIS NOT (?!NULL\b|DISTINCT\b)"), "IS DISTINCT FROM "),
)
_CALL = re.compile(r"\b(max|min)\(")


@lru_cache(maxsize=2048)
def pieces(sql: str) -> tuple[str, ...]:
    """The statement for PostgreSQL, cut at each parameter."""
    worded, parts, end = _worded(sql), [], 0
    for found in _TOKEN.finditer(worded):
        if found[0] == "?":
            parts.append(worded[end : found.start()])
            end = found.end()
    return (*parts, worded[end:])


def _worded(sql: str) -> str:
    for pattern, words in _WORDS:
        sql = pattern.sub(words, sql)
    return _with_calls(sql)


def _with_calls(sql: str) -> str:
    """`max` and `min` of several values are other functions than those of a column."""
    parts, end = [], 0
    for call in _CALL.finditer(sql):
        if _has_several(sql, call.end()):
            parts += [sql[end : call.start()], "greatest(" if call[1] == "max" else "least("]
            end = call.end()
    return "".join([*parts, sql[end:]])


def _has_several(sql: str, at: int) -> bool:
    """True if the call whose arguments begin here has more than one."""
    depth = 1
    for character in sql[at:]:
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return False
        if depth == 1 and character == ",":
            return True
    return False
