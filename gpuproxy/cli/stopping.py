"""Being told to stop while something is rented: neither an end without a word nor an exception, only a mark.

An exception could hit the gRPC library in the middle of its own work.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """Whether anybody wants an end, and which signal said so first."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """As shells count: 130 for Ctrl-C."""
        return 128 + (self.signal or 0)

    def __str__(self) -> str:
        return "Interrupted" if self.signal in (None, signal.SIGINT) else f"Ended by {self.signal.name}"


@contextmanager
def stoppable() -> Iterator[Stop]:
    """What SIGINT, SIGTERM and SIGHUP set inside. A second Ctrl-C is as usual; what is ignored (nohup) stays so."""
    stop = Stop()

    def ask(number: int, _frame: FrameType | None) -> None:
        stop.signal = stop.signal or signal.Signals(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, before[signal.SIGINT])

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
