"""Signals during a rental only set a flag, which the rental checks.

An exception from a signal handler could interrupt the gRPC library in the middle of its own work.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """True once a signal has arrived; `signal` is the first one."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """128 plus the signal's number, as shells report it: 130 for Ctrl-C."""
        return 128 + (self.signal or 0)

    def __str__(self) -> str:
        return "Interrupted" if self.signal in (None, signal.SIGINT) else f"Ended by {self.signal.name}"


@contextmanager
def stoppable() -> Iterator[Stop]:
    """A Stop that SIGINT, SIGTERM and SIGHUP set inside the block.

    A second Ctrl-C raises KeyboardInterrupt as usual. A signal that was ignored before (nohup) stays ignored.
    """
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
