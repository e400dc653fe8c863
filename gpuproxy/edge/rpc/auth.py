"""Who is calling: an API key, looked up by its hash, or the token of a user who has logged in.

Every cause of failure has one text and costs one look-up, so that an answer tells nothing about keys or users. Only
the SHA-256 of what a caller sent is ever compared, stored or kept here.
"""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

from gpuproxy.identity.tokens import Token, Tokens
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import Unauthenticated
from gpuproxy.ports import Clock
from gpuproxy.store.keys import KeyRow
from gpuproxy.store.users import UserRow

_REMEMBERED_SECONDS = 1.0
"""Real seconds for which good credentials need no look-up: a revoked key or a disabled user ends within them."""
_MOST_REMEMBERED = 4096
_BETWEEN = "\n"


Find = Callable[[str], Awaitable[KeyRow | None]]
"""The key with this SHA-256 (hex), unless it is revoked or there is none."""
FindUser = Callable[[str], Awaitable[UserRow | None]]
"""The user with this id, unless disabled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bearers:
    """How tokens are read, and their users found."""

    tokens: Tokens
    find: FindUser


@dataclass(frozen=True, slots=True)
class _Remembered:
    caller: Caller
    until: float


class Authenticator:
    """Looks credentials up, and remembers good ones for a moment."""

    def __init__(self, find: Find, clock: Clock, bearers: Bearers | None = None) -> None:
        """Without `bearers`, only keys are known."""
        self._find = find
        self._clock = clock
        self._bearers = bearers
        self._good: dict[str, _Remembered] = {}

    async def identify(self, metadata: Mapping[str, str]) -> Caller:
        """The caller, whose deadline is still to be set; raises Unauthenticated. Names in `metadata` are lower case."""
        text = credentials(metadata)
        digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
        now = self._clock.monotonic()
        known = self._good.get(digest)
        if known is not None and now < known.until:
            return known.caller
        lasts = _REMEMBERED_SECONDS * self._clock.scale
        token = self._token(text)
        if token is not None:
            lasts = min(lasts, (token.expires_at - self._clock.now()).total_seconds())
        caller = await (self._of_key(digest) if token is None else self._of_user(token))
        if caller is None:
            self._good.pop(digest, None)
            raise Unauthenticated(
                "A valid key or token is needed: metadata `authorization: Bearer <key or token>` or `x-api-key: <key>`."
            )
        if len(self._good) >= _MOST_REMEMBERED:
            self._good.clear()
        self._good[digest] = _Remembered(caller, now + lasts)
        return caller

    def _token(self, text: str) -> Token | None:
        if self._bearers is None or text.count(".") != 2 or not text.isascii():
            return None
        return self._bearers.tokens.read(text)

    async def _of_key(self, digest: str) -> Caller | None:
        key = await self._find(digest)
        if key is None or not hmac.compare_digest(key.sha256, digest):
            return None
        return Caller(project=key.project, role=key.role, key_id=key.id, user_id=key.user_id)

    async def _of_user(self, token: Token) -> Caller | None:
        user = await self._bearers.find(token.user_id) if self._bearers else None
        if self._bearers is None or user is None or not self._bearers.tokens.fits(token, user):
            return None
        return Caller(project=user.project, role=user.role, user_id=user.id)


def named(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Metadata by name. Values of one name are put together by a character that no value can hold."""
    found: dict[str, str] = {}
    for name, value in pairs:
        found[name] = f"{found[name]}{_BETWEEN}{value}" if name in found else value
    return found


def credentials(metadata: Mapping[str, str]) -> str:
    """The key or token that a call carries; "" when it carries none, or two of a name: which one counts is no guess."""
    if any(_BETWEEN in metadata.get(name, "") for name in ("authorization", "x-api-key")):
        return ""
    scheme, _, token = metadata.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return metadata.get("x-api-key", "").strip()
