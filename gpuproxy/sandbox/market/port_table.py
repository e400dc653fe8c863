"""The table of the instances' loopback ports, and which of them answer.

In process, the numbers are enough. The HTTP server passes in a function that binds real ports, and opens the ports
that are open in the table.
"""

from collections.abc import Callable
from itertools import count


class PortTable:
    """The ports of all instances. `open` maps each answering port to "ssh" (it sends a banner) or "tcp"."""

    def __init__(self, reserve: Callable[[int | None], int] | None = None) -> None:
        """`reserve` returns a free port, if possible the preferred one."""
        numbers = count(40_000)
        self._reserve = reserve or (lambda preferred: next(numbers) if preferred is None else preferred)
        self._released: list[int] = []
        self.open: dict[int, str] = {}
        self.version = 0
        """A number that changes with every change of the table."""

    def reserve(self, preferred: int | None = None) -> int:
        """Reserve a port, which doesn't answer yet."""
        return self._reserve(preferred)

    def set_open(self, number: int, kind: str, *, answers: bool) -> None:
        """Set whether a port answers."""
        if answers == (number in self.open):
            return
        self.version += 1
        if answers:
            self.open[number] = kind
        else:
            del self.open[number]

    def release(self, number: int) -> None:
        """Release a port that is no longer needed."""
        self.set_open(number, "", answers=False)
        self._released.append(number)
        self.version += 1

    def take_released(self) -> list[int]:
        """The ports that were released since the last call."""
        released, self._released = self._released, []
        return released
