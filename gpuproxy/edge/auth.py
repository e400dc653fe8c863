"""Who is calling: an API key in the metadata, looked up by its hash.

Every cause of failure has one text and costs the same look-up, so that an answer tells nothing about keys. Only the
SHA-256 of a key is ever compared, stored or kept here.
"""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import Unauthenticated
from gpuproxy.ports import Clock
from gpuproxy.store.keys import KeyRow

_REMEMBERED_SECONDS = 1.0
"""Real seconds for which a good key needs no look-up: a revoked key ends within them."""
_MOST_REMEMBERED = 4096


Find = Callable[[str], Awaitable[KeyRow | None]]
"""The key with this SHA-256 (hex), unless it is revoked or there is none."""


@dataclass(frozen=True, slots=True)
class _Remembered:
    caller: Caller
    until: float


class Authenticator:
    """Looks keys up, and remembers good ones for a moment."""

    def __init__(self, find: Find, clock: Clock) -> None:
        self._find = find
        self._clock = clock
        self._good: dict[str, _Remembered] = {}

    async def identify(self, metadata: Mapping[str, str]) -> Caller:
        """The caller, whose deadline is still to be set; raises Unauthenticated. Names in `metadata` are lower case."""
        digest = hashlib.sha256(credentials(metadata).encode(errors="surrogateescape")).hexdigest()
        now = self._clock.monotonic()
        known = self._good.get(digest)
        if known is not None and now < known.until:
            return known.caller
        key = await self._find(digest)
        if key is None or not hmac.compare_digest(key.sha256, digest):
            self._good.pop(digest, None)
            raise Unauthenticated(
                "A valid key is needed: metadata `authorization: Bearer <key>` or `x-api-key: <key>`."
            )
        caller = Caller(project=key.project, role=key.role, key_id=key.id)
        if len(self._good) >= _MOST_REMEMBERED:
            self._good.clear()
        self._good[digest] = _Remembered(caller, now + _REMEMBERED_SECONDS * self._clock.scale)
        return caller


def credentials(metadata: Mapping[str, str]) -> str:
    """The key that a call carries; "" when it carries none."""
    scheme, _, token = metadata.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return metadata.get("x-api-key", "").strip()
