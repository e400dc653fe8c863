"""Authentication: an API key, looked up by its hash, or the token of a user who has logged in.

All failures have the same text and cost one look-up, so that an answer reveals nothing about keys or users. Only the
SHA-256 of the caller's credentials is compared, stored or cached.
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

_CACHE_SECONDS = 1.0
"""Real seconds for which valid credentials are cached. A revoked key or a disabled user stops working within them."""
_MAX_CACHED = 4096
_SEPARATOR = "\n"


Find = Callable[[str], Awaitable[KeyRow | None]]
"""Finds the key with this SHA-256 (hex); None if there is none or it is revoked."""
FindUser = Callable[[str], Awaitable[UserRow | None]]
"""Finds the user with this id; None if there is none or it is disabled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenAuth:
    """What token authentication needs: how to read tokens, and how to find their users."""

    tokens: Tokens
    find: FindUser


@dataclass(frozen=True, slots=True)
class _Cached:
    caller: Caller
    until: float


class Authenticator:
    """Looks credentials up and caches valid ones for a second."""

    def __init__(self, find: Find, clock: Clock, token_auth: TokenAuth | None = None) -> None:
        """Without `token_auth`, only API keys are accepted."""
        self._find = find
        self._clock = clock
        self._token_auth = token_auth
        self._cache: dict[str, _Cached] = {}

    async def identify(self, metadata: Mapping[str, str]) -> Caller:
        """The caller, without a deadline yet; raises Unauthenticated. Names in `metadata` are in lower case."""
        text = credentials(metadata)
        digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
        now = self._clock.monotonic()
        known = self._cache.get(digest)
        if known is not None and now < known.until:
            return known.caller
        lasts = _CACHE_SECONDS * self._clock.scale
        token = self._token(text)
        if token is not None:
            lasts = min(lasts, (token.expires_at - self._clock.now()).total_seconds())
        caller = await (self._of_key(digest) if token is None else self._of_user(token))
        if caller is None:
            self._cache.pop(digest, None)
            raise Unauthenticated(
                "No valid API key or token was sent. Send it as `authorization: Bearer <key or token>` or "
                "`x-api-key: <key>`."
            )
        if len(self._cache) >= _MAX_CACHED:
            self._cache.clear()
        self._cache[digest] = _Cached(caller, now + lasts)
        return caller

    def _token(self, text: str) -> Token | None:
        if self._token_auth is None or text.count(".") != 2 or not text.isascii():
            return None
        return self._token_auth.tokens.read(text)

    async def _of_key(self, digest: str) -> Caller | None:
        key = await self._find(digest)
        if key is None or not hmac.compare_digest(key.sha256, digest):
            return None
        return Caller(project=key.project, role=key.role, key_id=key.id, user_id=key.user_id)

    async def _of_user(self, token: Token) -> Caller | None:
        user = await self._token_auth.find(token.user_id) if self._token_auth else None
        if self._token_auth is None or user is None or not self._token_auth.tokens.has_current_password(token, user):
            return None
        return Caller(project=user.project, role=user.role, user_id=user.id)


def merged_metadata(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Metadata by name. Several values of one name are joined with a character that no value can contain."""
    found: dict[str, str] = {}
    for name, value in pairs:
        found[name] = f"{found[name]}{_SEPARATOR}{value}" if name in found else value
    return found


def credentials(metadata: Mapping[str, str]) -> str:
    """The key or token of a call; "" if there is none, or if one name has two values: the server doesn't guess."""
    authorization, key = metadata.get("authorization", ""), metadata.get("x-api-key", "")
    if _SEPARATOR in authorization or _SEPARATOR in key:
        return ""
    scheme, _, token = authorization.strip().partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return key.strip()
