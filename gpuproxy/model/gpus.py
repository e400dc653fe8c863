"""GPU names, and sizes of memory. Marketplaces spell them differently; clients see one spelling.

A driver reports less memory than the nominal size (an RTX 4090 has 24564 MB, an H100 81559). `nominal_vram` gives the
nominal size, which people filter by. `gpu_key` is equal for all spellings of a model; `gpu_name` is the printed name.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache
from math import ceil

_NOMINAL_GB = (4, 6, 8, 10, 11, 12, 16, 20, 24, 32, 40, 48, 64, 80, 94, 96, 128, 141, 180, 192, 288)
_MODULE_GB = 4
_KEPT_BY_SYSTEM = 1.03
_NEAR = 5
_LIKE = 0.6
"""How like a known model's name must be to be near, 0 to 1."""
_VENDOR_WORDS = frozenset({"nvidia", "geforce", "amd"})
_OMISSIBLE = re.compile(r"sxm\d?|pcie|nvl|tesla|\d+gb", re.IGNORECASE)
"""Form factor, family and memory size: words that distinguish variants of one model."""
_SPLIT = re.compile(r"[\s_\-]+")
_GLUED = re.compile(r"^(rtx|gtx)(?=a?\d)")


@lru_cache(maxsize=4096)
def nominal_vram(megabytes: float) -> int:
    """The nominal memory in GB, from the MB that the driver reports; other sizes are rounded to the nearest GB."""
    for size in _NOMINAL_GB:
        if 0.92 * 1024 * size <= megabytes <= 1024 * size:
            return size
    return int(megabytes / 1024 + 0.5)


def nominal_ram(megabytes: float) -> float:
    """The nominal memory of a machine, or of a share of it, in GB, from the MB that its system reports.

    The system keeps some memory for itself: of 64 GB it reports 64485 MB, and of 512 GB 515000 MB. So the result is the
    roundest size from what is reported to 3 % more: the multiple of the highest power of two, at least 4 GB. Without
    one, it is rounded to the nearest GB. More memory never has a smaller result.
    """
    reported = megabytes / 1024
    found, step = float(int(reported + 0.5)), _MODULE_GB
    while 0 < (rounder := ceil(reported / step) * step) <= reported * _KEPT_BY_SYSTEM:
        found, step = float(rounder), step * 2
    return found


@lru_cache(maxsize=4096)
def gpu_name(raw: str) -> str:
    """The printed name: "NVIDIA GeForce RTX_4090" and "rtx4090" both print as "RTX 4090"."""
    return " ".join(_printed(word) for word in _words(raw))


@lru_cache(maxsize=4096)
def gpu_key(raw: str) -> str:
    """A key that is equal for all spellings of one model."""
    return "".join(_words(raw)).casefold()


@lru_cache(maxsize=4096)
def gpu_matches(wanted: str, model: str) -> bool:
    """True if `wanted` names `model`. A name without a variant ("H100") matches all variants ("H100 SXM")."""
    if gpu_key(wanted) == gpu_key(model):
        return True
    named = {word.casefold() for word in _words(wanted)}
    kept = [word for word in _words(model) if not _OMISSIBLE.fullmatch(word) or word.casefold() in named]
    return gpu_key(wanted) == "".join(kept).casefold()


def near_models(wanted: str, models: Iterable[str]) -> list[str]:
    """Up to five of the models with names like this one, the nearest first."""
    keys = {gpu_key(model): model for model in models}
    return [keys[key] for key in get_close_matches(gpu_key(wanted), keys, n=_NEAR, cutoff=_LIKE)]


def _printed(word: str) -> str:
    if word.casefold() == "ti":
        return "Ti"
    # A word with mixed case is a name ("Titan") and stays; a word in lower case becomes upper case.
    return word.upper() if word.islower() or word.casefold() in {"rtx", "gtx"} else word


def _words(raw: str) -> list[str]:
    words = [word for word in _SPLIT.split(raw.strip()) if word and word.casefold() not in _VENDOR_WORDS]
    if words and (glued := _GLUED.match(words[0].casefold())):
        words[:1] = [glued.group(1).upper(), words[0][glued.end() :]]
    return words
