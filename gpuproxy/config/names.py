"""The names of environment variables, and the detection of misspelt ones.

A misspelt name prevents startup, and the message suggests the right name. A name of another program is ignored; if it
resembles one of our names, it is ignored only if our name is set too.
"""

import re
from collections.abc import Collection, Iterable
from difflib import get_close_matches

CLIENT_NAMES = frozenset(
    {
        "GPUPROXY_SERVER",
        "GPUPROXY_API_KEY",
        "GPUPROXY_CLIENT_TLS",
        "GPUPROXY_CLIENT_TLS_CA",
        "GPUPROXY_CLIENT_TLS_CERT",
        "GPUPROXY_CLIENT_TLS_KEY",
        "GPUPROXY_REGISTRY_SECRET",
    }
)
"""Variables that the command line reads as a client."""

PROXY_NAMES = ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
"""Variables that many programs read. The same names in lower case are read too, and take precedence, as in curl."""
_PROXY_SPELLINGS = frozenset(spelling for name in PROXY_NAMES for spelling in (name, name.lower()))
"""No other variable is taken for a misspelling of these, because other programs have variables with similar names."""

GUARDRAILS = (
    "5MIN", "15MIN", "30MIN", "60MIN", "90MIN", "120MIN", "240MIN", "300MIN", "360MIN", "400MIN", "460MIN", "520MIN",
    "640MIN", "700MIN", "1440MIN", "48H", "72H",
)  # fmt: skip
"""The windows of the published settings GUARDRAILS_MAX_<WINDOW>_RATE."""

_OURS = ("GPUPROXY_", "GUARDRAILS_")
"""A name with one of these prefixes must be known."""
_COMMON = "GPUPROXY"
"""Ignored when names are compared: so many names have this prefix that it makes none of them similar."""


def env_name(field: str) -> str:
    """The variable of a field of Settings. The fields of marketplaces have their own names."""
    return f"GPUPROXY_{field.upper()}"


def first_wrong_name(names: Iterable[str], known: Collection[str], prefixes: Iterable[str]) -> str:
    """The error message for the first name that is not in `known` but should be; "" if there is none.

    `prefixes`: the prefixes of marketplaces' settings. A name with such a prefix must be known.
    """
    present = set(names) - _PROXY_SPELLINGS
    folded = {_fold(name): name for name in set(known) - _PROXY_SPELLINGS}
    beginnings = (*_OURS, *prefixes)
    for name in sorted(present - set(known)):
        if (window := _unknown_window(name)) is not None:
            return (
                f"{name} is set but {window or 'an empty name'} is none of the windows {', '.join(GUARDRAILS)}. Use "
                "one of them, or set a limit of another window with `gpuproxy limits set`: not started."
            )
        ours = name.upper().startswith(beginnings)
        meant = _meant(name, folded, cutoff=0.7 if ours else 0.85)
        if ours and not meant:
            return f"{name} is set but GPU Proxy reads no setting of that name: not started."
        if meant and (ours or meant not in present):
            return f"{name} is set but GPU Proxy reads {meant}: not started."
    return ""


def _unknown_window(name: str) -> str | None:
    """The window in the name of a guardrail, if there is no such window. Another window is never what was meant."""
    found = re.fullmatch(r"GUARDRAILS_MAX_(.*)_RATE", name.upper())
    return found[1] if found and _fold(found[1]) not in GUARDRAILS else None


def _meant(name: str, folded: dict[str, str], *, cutoff: float) -> str:
    """The setting whose name is most similar to `name`, with the same two first letters; "" if there is none."""
    wanted = _fold(name)
    alike = {fold.removeprefix(_COMMON): full for fold, full in folded.items() if fold[:2] == wanted[:2]}
    close = get_close_matches(wanted.removeprefix(_COMMON), alike, n=1, cutoff=cutoff)
    return alike[close[0]] if close else ""


def _fold(name: str) -> str:
    return name.upper().replace("_", "").replace("-", "")
