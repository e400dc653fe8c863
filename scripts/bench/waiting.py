"""Waiting for what another process will do, a minute at most."""

import time
from collections.abc import Callable

_SECONDS = 60.0


def until(holds: Callable[[], bool], what: str) -> None:
    """Return when it holds; SystemExit when it does not after so long."""
    give_up = time.monotonic() + _SECONDS
    while not holds():
        if time.monotonic() > give_up:
            raise SystemExit(f"still waiting after {_SECONDS:.0f} s: {what}")
        time.sleep(0.05)
