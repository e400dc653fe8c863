"""Ids and secrets."""

from typing import Protocol


class Random(Protocol):
    """Ids and secrets."""

    def token(self, length: int) -> str:
        """So many characters of lower-case base32."""

    def secret(self, length: int) -> bytes:
        """So many unguessable bytes."""
