"""Ids and secrets."""

from typing import Protocol


class Random(Protocol):
    """Ids and secrets."""

    def token(self, length: int) -> str:
        """A random id: `length` characters of lower-case base32."""

    def secret(self, length: int) -> bytes:
        """`length` bytes that can't be guessed."""
