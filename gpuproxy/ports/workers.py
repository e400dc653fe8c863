"""The port for worker threads."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Workers(Protocol):
    """Threads for work that would block the event loop."""

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """Run work(*args) in a thread and return its result."""
