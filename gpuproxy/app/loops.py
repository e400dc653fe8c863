"""The event loop that the server runs on: uvloop, an optional package that needs less CPU, or asyncio's own."""

import asyncio
from collections.abc import Callable
from typing import Literal

from gpuproxy.config.environment import ConfigError


def loop_factory(wanted: Literal["auto", "asyncio", "uvloop"]) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the loop, for asyncio.Runner; None: asyncio itself. `auto`: uvloop if it is installed.

    Raises ConfigError if uvloop is wanted and not installed.
    """
    if wanted == "asyncio":
        return None
    try:
        from uvloop import new_event_loop
    except ImportError:
        if wanted == "auto":
            return None
        raise ConfigError(
            "GPUPROXY_EVENT_LOOP is uvloop, but uvloop is not installed: not started. Install gpuproxy[uvloop], or "
            "remove the setting."
        ) from None
    return new_event_loop


def running_loop() -> str:
    """The name of the package whose loop runs now: asyncio or uvloop."""
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]
