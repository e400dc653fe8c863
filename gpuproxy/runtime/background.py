"""Tasks that nobody awaits. Every task has an owner that drains it, cancels it, and logs its crash."""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog

from gpuproxy.model.errors import Refusal

log = structlog.get_logger(__name__)
T = TypeVar("T")


class Background:
    """Tasks of one kind. A Refusal is a result for who awaits the task. Any other exception is logged as a crash."""

    def __init__(self, kind: str) -> None:
        """`kind` names the tasks in the log."""
        self._kind = kind
        self._subjects: dict[asyncio.Task[Any], str] = {}

    def __bool__(self) -> bool:
        """True while a task is running."""
        return bool(self._subjects)

    def start(
        self, work: Coroutine[Any, Any, T], subject: str = "", *, context: contextvars.Context | None = None
    ) -> asyncio.Task[T]:
        """Run `work` in a task of its own. `subject` names it in the log."""
        task = asyncio.create_task(work, context=context)
        self._subjects[task] = subject
        task.add_done_callback(self._ended)
        return task

    def start_once(self, work: Callable[[], Coroutine[Any, Any, None]], subject: str) -> None:
        """Run `work()` unless a task with this subject is running."""
        if subject not in self._subjects.values():
            self.start(work(), subject)

    async def finished(self) -> None:
        """Return when no task is running."""
        while self._subjects:
            await asyncio.wait(self._subjects)

    async def drain(self, seconds: float) -> bool:
        """Wait for the tasks, for at most `seconds` real seconds. True when none is left."""
        if self._subjects:
            await asyncio.wait(self._subjects, timeout=seconds)
        return not self._subjects

    async def close(self) -> None:
        """Cancel the tasks, and return when they have ended."""
        tasks = list(self._subjects)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        subject = self._subjects.pop(task)
        if task.cancelled() or (error := task.exception()) is None or isinstance(error, Refusal):
            return
        log.error("task_crashed", kind=self._kind, subject=subject, exc_info=error)
