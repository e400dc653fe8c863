"""A coroutine that runs up to its first wait before anybody awaits it.

Most calls are answered from memory and never wait. For them, a timer, set and cancelled, would cost more than the call.
"""

from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Begun(Generic[T]):
    """Runs `work` up to its first wait. Unless `ended` is True then, it must be awaited, in the same task."""

    __slots__ = ("_waits_for", "_work", "ended", "result")

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        """Raises what `work` raises before its first wait."""
        self._work = work
        self._waits_for: Any = None
        self.ended = False
        self.result: T
        """What `work` returned; set if `ended` is True."""
        try:
            self._waits_for = work.send(None)
        except StopIteration as end:
            self.ended, self.result = True, end.value

    def __await__(self) -> Generator[Any, Any, T]:
        """Continue `work` to its end. This is what `await` does, but for the first step."""
        waits_for = self._waits_for
        try:
            while True:
                try:
                    sent = yield waits_for
                except GeneratorExit:
                    self._work.close()
                    raise
                except BaseException as error:  # noqa: BLE001 - it is passed on to `work`
                    waits_for = self._work.throw(error)
                else:
                    waits_for = self._work.send(sent)
        except StopIteration as end:
            result: T = end.value
            return result
