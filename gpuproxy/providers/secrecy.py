"""Cutting a request's secrets out of what a marketplace says back, in every spelling that an echo may have.

It takes time in proportion to the text, whatever the secrets are: a long one is known by its beginning, and where that
is found nothing of what follows is told; where a request has too many to look for, nothing is told at all.
"""

import functools
import re
from collections.abc import Iterable

from gpuproxy.model.demands import LaunchSpec

CUT = "***"
MOST_SECRETS = 64
"""Secrets that are looked for in one text."""
_PLAIN_RUNS = re.compile(r"[A-Za-z0-9_]+")
_PLAIN = re.compile(r"[A-Za-z0-9_]")
_NAMED = {"\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f"}
_REMEMBERED = 1024
_HEAD, _HEAD_ODD = 64, 16
"""As many characters of a secret, and as many of them that have several spellings, are looked for."""


def secrets_of(spec: LaunchSpec) -> tuple[str, ...]:
    """The values of a launch that are nobody else's business."""
    login = () if spec.registry_auth is None else (spec.registry_auth.secret,)
    return tuple(value for value in (*(value for _, value in spec.secret_env), *login) if value)


def cut(text: str, secrets: Iterable[str]) -> str:
    """The text with CUT in the place of each secret, the longest first."""
    wanted = sorted({secret for secret in secrets if secret}, key=lambda secret: (-len(secret), secret))
    if len(wanted) > MOST_SECRETS:
        return CUT if text else text
    for secret in wanted:
        if _may_hold(text, secret):
            text = _pattern(secret).sub(CUT, text)
    return text


def _may_hold(text: str, secret: str) -> bool:
    """False where a part that every spelling leaves as it is does not occur: the usual case, and cheap to tell."""
    return bool(text) and all(run in text for run in _PLAIN_RUNS.findall(_head(secret)))


@functools.lru_cache(maxsize=_REMEMBERED)
def _pattern(secret: str) -> re.Pattern[str]:
    head = _head(secret)
    rest = "" if head == secret else "(?s:.*)"
    tokens = re.findall(r"\\+|[^\\]", head)
    return re.compile("".join(_token(each, first=at == 0) for at, each in enumerate(tokens)) + rest)


def _head(secret: str) -> str:
    """The beginning, short enough to be looked for quickly."""
    odd = [at for at, each in enumerate(secret[:_HEAD]) if not _PLAIN.fullmatch(each)]
    return secret[: odd[_HEAD_ODD]] if len(odd) > _HEAD_ODD else secret[:_HEAD]


def _token(part: str, *, first: bool) -> str:
    """A character of a secret, or a run of backslashes; what quotes a character stands before it as backslashes.

    Possessive, and begun only where a run begins: no run of backslashes is ever looked at twice.
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
