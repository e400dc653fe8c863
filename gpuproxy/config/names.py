"""The names of environment variables: which ones are ours, and which look like ours but are not.

A misspelt name must stop the start with the right one in the text. Names of other programs are left alone, even when
they resemble ours, once the right name is set too.
"""

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
    }
)
"""Read by the command line as a client."""

_WINDOWS = "5MIN 15MIN 30MIN 60MIN 90MIN 120MIN 240MIN 300MIN 360MIN 400MIN 460MIN 520MIN 640MIN 700MIN 1440MIN 48H 72H"
NOT_BUILT_NAMES = frozenset(
    {
        "GPUPROXY_IONET_URL",
        "GPUPROXY_PREPAID_HOURS",
        "GPUPROXY_WARMPOOL_GPU",
        "GPUPROXY_WARMPOOL_MAX_PRICE",
        "GPUPROXY_WEBHOOK_URL",
        "GPUPROXY_WEBHOOK_SECRET",
        "IONET_API_KEY",
        "IONET_API_KEY_NAMES",
        "IONET_API_KEY_REGIONS",
        *(f"GUARDRAILS_MAX_{window}_RATE" for window in _WINDOWS.split()),
    }
)
"""Settings of what is still to come: accepted, and the start says that they have no effect."""

_OURS = ("GPUPROXY_", "IONET_", "GUARDRAILS_")
_COMMON = "GPUPROXY"
"""What so many names share makes none of them alike."""


def env_name(field: str) -> str:
    """The variable behind a field of Settings, but for the fields of marketplaces."""
    return f"GPUPROXY_{field.upper()}"


def first_wrong_name(names: Iterable[str], known: Collection[str], prefixes: Iterable[str]) -> str:
    """What to tell the operator about the first name that nobody reads; "" when all is well.

    Names that begin with one of `prefixes`, which are those of marketplaces, are ours.
    """
    present = set(names)
    folded = {_fold(name): name for name in known}
    beginnings = (*_OURS, *prefixes)
    for name in sorted(present - set(known)):
        ours = name.upper().startswith(beginnings)
        meant = _meant(name, folded, cutoff=0.7 if ours else 0.85)
        if ours and not meant:
            return f"{name} is set but GPU Proxy reads no setting of that name: not started."
        if meant and (ours or meant not in present):
            return f"{name} is set but GPU Proxy reads {meant}: not started."
    return ""


def _meant(name: str, folded: dict[str, str], *, cutoff: float) -> str:
    """The setting that `name` was probably meant to be; names that begin differently are somebody else's."""
    wanted = _fold(name)
    alike = {fold.removeprefix(_COMMON): full for fold, full in folded.items() if fold[:2] == wanted[:2]}
    close = get_close_matches(wanted.removeprefix(_COMMON), alike, n=1, cutoff=cutoff)
    return alike[close[0]] if close else ""


def _fold(name: str) -> str:
    return name.upper().replace("_", "").replace("-", "")
