"""Durations as people write them, in settings and on the command line."""

import re

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d|w)?")
_UNIT_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_duration(text: str | float) -> float:
    """Seconds from `30`, `1.5s`, `15m`, `2h`, `7d`, `1w` or `1h30m`; raises ValueError."""
    if isinstance(text, int | float):
        return float(text)
    compact = text.strip().lower()
    parts = list(_DURATION.finditer(compact))
    if not parts or "".join(part.group(0) for part in parts) != compact:
        raise ValueError("must be a duration, for example 30s, 15m, 2h or 7d")
    if len(parts) > 1 and not all(part.group(2) for part in parts):
        raise ValueError("must be a duration with a unit after each number, for example 1h30m")
    return sum(float(part.group(1)) * _UNIT_SECONDS[part.group(2) or "s"] for part in parts)
