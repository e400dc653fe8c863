"""Ctrl-C while the program is still importing modules: it exits at once, without a traceback.

This module runs before all others, so it imports only small modules of the standard library.
"""

import os
import signal
from types import FrameType

INTERRUPTED = 130
"""The exit code for SIGINT by shell convention: 128 + 2."""


def exit_on_interrupt() -> None:
    """Make Ctrl-C exit the process at once. If SIGINT is ignored (as with `&` in a script), it stays ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def raise_on_interrupt() -> None:
    """Make Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(_number: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)
