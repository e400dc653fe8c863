"""Cutting a request's secrets out of what a marketplace says back, in every spelling that an echo may have."""

import functools
import re
from collections.abc import Iterable

from gpuproxy.model.demands import LaunchSpec

CUT = "***"
_PLAIN = re.compile(r"[A-Za-z0-9_]")
_NAMED = {"\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f"}
_REMEMBERED = 4096


def secrets_of(spec: LaunchSpec) -> tuple[str, ...]:
    """The values of a launch that are nobody else's business."""
    login = () if spec.registry_auth is None else (spec.registry_auth.secret,)
    return tuple(value for value in (*(value for _, value in spec.secret_env), *login) if value)


def cut(text: str, secrets: Iterable[str]) -> str:
    """The text with CUT in the place of each secret, the longest first."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = _pattern(secret).sub(CUT, text)
    return text


@functools.lru_cache(maxsize=_REMEMBERED)
def _pattern(secret: str) -> re.Pattern[str]:
    return re.compile("".join(_character(each) for each in secret))


def _character(character: str) -> str:
    """One character of a secret: as it is, or as JSON (once or more), HTML, an address or a shell writes it."""
    if _PLAIN.fullmatch(character):
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    escaped = r"\\+".join(f"u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
    percent = "".join(f"%(?:25)*{byte:02x}" for byte in character.encode("utf-8", "replace"))
    spellings = [re.escape(character), f"(?i:{escaped})", r"&(?:[a-z]+|#x?[0-9A-Fa-f]+);", f"(?i:{percent})"]
    if character in _NAMED:
        spellings.append(_NAMED[character])
    if character == " ":
        spellings.append(r"\+")
    if character == "'":
        spellings.insert(0, r"""'\\*(?:"|&\w+;)'\\*(?:"|&\w+;)'""")
    return rf"\\*(?:{'|'.join(spellings)})"
