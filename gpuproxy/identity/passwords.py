"""Passwords as argon2id, in threads: judging one takes some 30 ms of a core and 19 MiB.

The rule: every judgement costs the same, whether there is anything to compare with or not.
"""

import asyncio
import base64

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from gpuproxy.ports import Workers

_MEMORY_KIB, _ROUNDS, _LANES = 19 * 1024, 2, 1
_AT_ONCE = 2


class Passwords:
    """Hashes passwords and judges them, two at a time."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._hasher = PasswordHasher(time_cost=_ROUNDS, memory_cost=_MEMORY_KIB, parallelism=_LANES)
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def hashed(self, password: str) -> str:
        """What is stored of it."""
        async with self._room:
            return await self._workers.run(self._hasher.hash, password)

    async def match(self, stored: str | None, password: str) -> bool:
        """Is it the one that `stored` was made of? With None nothing is, and finding out takes as long."""
        async with self._room:
            return await self._workers.run(self._matches, stored or _NOBODYS, password) and stored is not None

    def _matches(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode().rstrip("=")


_NOBODYS = f"$argon2id$v=19$m={_MEMORY_KIB},t={_ROUNDS},p={_LANES}${_text(bytes(16))}${_text(bytes(32))}"
"""The form of a hash, of no password that anybody knows."""
