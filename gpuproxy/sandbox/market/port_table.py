"""The table of the instances' loopback ports, and which of them answer.

In process, the numbers are enough. The HTTP server passes in a function that binds real ports, and opens the ports
that are open in the table.
"""

from collections.abc import Callable
from typing import Literal

AnswerKind = Literal["ssh", "http", "tcp", "ill"]
"""What answers at a port: SSH's banner, a web server of the image, or the user's own program, which answers a GET with
200 or, if it is ill, with 503."""
_FIRST = 40_000


class PortTable:
    """The ports of all instances. `open` maps each answering port to what answers."""

    def __init__(self, reserve: Callable[[int | None, int], int] | None = None) -> None:
        """`reserve` is called with a preferred port or None, and a count.

        It returns the first of so many consecutive free ports, if possible the preferred one.
        """
        self._reserve = reserve or self._next_numbers
        self._next = _FIRST
        self._released: list[int] = []
        self.open: dict[int, AnswerKind] = {}
        self.version = 0
        """A number that changes with every change of the table."""

    def reserve(self, preferred: int | None = None, *, count: int = 1) -> int:
        """Reserve consecutive ports, which don't answer yet. Returns the first one."""
        return self._reserve(preferred, count)

    def set_open(self, number: int, kind: AnswerKind | None) -> None:
        """Set what answers at a port; None: nothing."""
        if kind == self.open.get(number):
            return
        self.version += 1
        if kind is None:
            del self.open[number]
        else:
            self.open[number] = kind

    def release(self, number: int) -> None:
        """Release a port that is no longer needed."""
        self.set_open(number, None)
        self._released.append(number)
        self.version += 1

    def take_released(self) -> list[int]:
        """The ports that were released since the last call."""
        released, self._released = self._released, []
        return released

    def _next_numbers(self, preferred: int | None, count: int) -> int:
        """Numbers without sockets. No number is used twice.

        The number after the last one stays free, so that nothing answers at "port + 1" by chance.
        """
        number = self._next if preferred is None else preferred
        self._next = max(self._next, number + count + 1)
        return number
