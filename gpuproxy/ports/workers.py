"""Threads."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Workers(Protocol):
    """Threads for work that would stall the loop."""

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """The result of work(*args), run elsewhere."""
