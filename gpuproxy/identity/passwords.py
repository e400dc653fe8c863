"""Password hashes with argon2id. Checking one takes about 30 ms of CPU time and 19 MiB, so it runs in a thread.

The rule: every check costs the same, even if there is no hash to compare with.
"""

import asyncio
import base64

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from gpuproxy.ports import Workers

_MEMORY_KIB, _ROUNDS, _LANES = 19 * 1024, 2, 1
_CONCURRENT = 2


class Passwords:
    """Hashes and checks passwords, at most two at a time."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._hasher = PasswordHasher(time_cost=_ROUNDS, memory_cost=_MEMORY_KIB, parallelism=_LANES)
        self._slots = asyncio.Semaphore(_CONCURRENT)

    async def hashed(self, password: str) -> str:
        """The hash of a password in argon2's text format."""
        async with self._slots:
            return await self._workers.run(self._hasher.hash, password)

    async def match(self, stored: str | None, password: str) -> bool:
        """True if the password matches the hash `stored`. For None it is False and takes equally long."""
        async with self._slots:
            return await self._workers.run(self._matches, stored or _DUMMY_HASH, password) and stored is not None

    def _matches(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode().rstrip("=")


_DUMMY_HASH = f"$argon2id$v=19$m={_MEMORY_KIB},t={_ROUNDS},p={_LANES}${_text(bytes(16))}${_text(bytes(32))}"
"""A valid hash for which nobody knows a password."""
