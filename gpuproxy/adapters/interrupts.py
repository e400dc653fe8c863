"""Ctrl-C while the program still imports itself: nothing has been done yet, so it just ends, without a traceback.

Nothing but the standard library's smallest modules is imported here: this comes before all others.
"""

import os
import signal
from types import FrameType

INTERRUPTED = 130
"""128 + SIGINT, as shells count."""


def leave_at_once() -> None:
    """From now on Ctrl-C ends the process, whatever it imports; where it is ignored (`&` in a script) it stays so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def raise_again() -> None:
    """From now on Ctrl-C is KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(_number: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)
