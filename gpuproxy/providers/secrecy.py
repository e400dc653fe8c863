"""Removing a request's secrets from a marketplace's answers, in every encoding that an echo may have.

The time is proportional to the length of the text. Therefore a long secret is found by its beginning, and the text
after it is removed completely. If a request has too many secrets to look for, the whole text is removed.
"""

import functools
import re
from collections.abc import Iterable

from gpuproxy.model.demands import LaunchSpec

CUT = "***"
MOST_SECRETS = 64
"""The maximum number of secrets that are looked for in one text."""
_PLAIN_RUNS = re.compile(r"[A-Za-z0-9_]+")
_PLAIN = re.compile(r"[A-Za-z0-9_]")
_NAMED = {"\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f"}
_REMEMBERED = 1024
_HEAD, _HEAD_ODD = 64, 16
"""Only this many characters of a secret, and this many characters with several encodings, are looked for."""


def secrets_of(spec: LaunchSpec) -> tuple[str, ...]:
    """The secret values of a launch: of secret environment variables and of the registry login."""
    login = () if spec.registry_auth is None else (spec.registry_auth.secret,)
    return tuple(value for value in (*(value for _, value in spec.secret_env), *login) if value)


def cut(text: str, secrets: Iterable[str]) -> str:
    """The text with CUT in place of each secret. Longer secrets are replaced first."""
    wanted = sorted({secret for secret in secrets if secret}, key=lambda secret: (-len(secret), secret))
    if len(wanted) > MOST_SECRETS:
        return CUT if text else text
    for secret in wanted:
        if _may_hold(text, secret):
            text = _pattern(secret).sub(CUT, text)
    return text


def _may_hold(text: str, secret: str) -> bool:
    """False if a part of the secret that no encoding changes is missing. This is the usual case and cheap to check."""
    return bool(text) and all(run in text for run in _PLAIN_RUNS.findall(_head(secret)))


@functools.lru_cache(maxsize=_REMEMBERED)
def _pattern(secret: str) -> re.Pattern[str]:
    head = _head(secret)
    rest = "" if head == secret else "(?s:.*)"
    tokens = re.findall(r"\\+|[^\\]", head)
    return re.compile("".join(_token(each, first=at == 0) for at, each in enumerate(tokens)) + rest)


def _head(secret: str) -> str:
    """The beginning of the secret, short enough for a quick search."""
    odd = [at for at, each in enumerate(secret[:_HEAD]) if not _PLAIN.fullmatch(each)]
    return secret[: odd[_HEAD_ODD]] if len(odd) > _HEAD_ODD else secret[:_HEAD]


def _token(part: str, *, first: bool) -> str:
    """The pattern of one character of a secret, or of a run of backslashes. A character may have backslashes before it.

    The quantifiers are possessive and start only at the beginning of a run, so no run of backslashes is read twice.
    """
    if part.startswith("\\"):
        return (
            r"(?:(?<!\\)\\++|(?i:&\w{1,10};|(?:%(?:25){0,3}5c)++))" if first else r"(?:\\++|(?i:(?:%(?:25){0,3}5c)++))"
        )
    if _PLAIN.fullmatch(part):
        return part
    units = part.encode("utf-16-be", "surrogatepass")
    escaped = r"\\++".join(f"u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
    percent = "".join(f"%(?:25){{0,3}}{byte:02x}" for byte in part.encode("utf-8", "replace"))
    spellings = [re.escape(part), f"(?i:{escaped})", r"&(?:[a-z]{1,10}|#x?[0-9A-Fa-f]{1,8});", f"(?i:{percent})"]
    if part in _NAMED:
        spellings.append(_NAMED[part])
    if part == " ":
        spellings.append(r"\+")
    if part == "'":
        spellings.insert(0, r"""'\\*+(?:"|&\w{1,10};)'\\*+(?:"|&\w{1,10};)'""")
    quoted = "" if first else r"\\*+"
    return rf"{quoted}(?:{'|'.join(spellings)})"
