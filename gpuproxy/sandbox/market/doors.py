"""The loopback ports that instances are reached by: a book of numbers and which of them answer.

In process a number is enough; the HTTP shell hands in how to get a real one and opens what the book says is open.
"""

from collections.abc import Callable
from itertools import count


class Doors:
    """`open` maps each port that answers now to "ssh" (it greets) or "tcp"."""

    def __init__(self, reserve: Callable[[int | None], int] | None = None) -> None:
        """`reserve` gets a free port, the preferred one if it can."""
        numbers = count(40_000)
        self._reserve = reserve or (lambda preferred: next(numbers) if preferred is None else preferred)
        self._released: list[int] = []
        self.open: dict[int, str] = {}
        self.version = 0
        """Changes whenever `open` does."""

    def reserve(self, preferred: int | None = None) -> int:
        """A number that nothing answers on yet."""
        return self._reserve(preferred)

    def turn(self, number: int, kind: str, *, answers: bool) -> None:
        """Let a port answer, or not any more."""
        if answers == (number in self.open):
            return
        self.version += 1
        if answers:
            self.open[number] = kind
        else:
            del self.open[number]

    def release(self, number: int) -> None:
        """Nobody needs it any more."""
        self.turn(number, "", answers=False)
        self._released.append(number)
        self.version += 1

    def take_released(self) -> list[int]:
        """What was released since the last call."""
        released, self._released = self._released, []
        return released
