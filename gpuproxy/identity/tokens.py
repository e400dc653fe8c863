"""Login tokens: a JWT with the user's id and the expiry time. All other facts about the user are looked up per call.

Only HS256 signatures are accepted. Expiry is checked against the deployment's clock.
"""

import hmac
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import jwt
from jwt.types import Options

from gpuproxy.ports import Clock
from gpuproxy.store.users import UserRow

LIFETIME = timedelta(hours=24)
_ALGORITHM = "HS256"
_READ: Options = {"require": ["sub", "exp", "cred"], "verify_exp": False, "verify_iat": False, "verify_nbf": False}
"""PyJWT must not check the times, because it would use the system clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A valid token."""

    text: str = field(repr=False)
    user_id: str
    expires_at: datetime
    credential: str = field(default="", repr=False)
    """A digest of the password hash at login; a new password makes the token invalid."""


class Tokens:
    """Creates and verifies tokens."""

    def __init__(self, secret: str, clock: Clock) -> None:
        """`secret` is the signing key and has at least 32 bytes."""
        self._secret = secret
        self._clock = clock

    def make(self, user: UserRow) -> Token:
        """A new token that is valid for 24 hours."""
        begin = self._clock.now().replace(microsecond=0)
        end, credential = begin + LIFETIME, self._credential(user)
        claims = {
            "sub": user.id,
            "project": user.project,
            "role": user.role,
            "cred": credential,
            "iat": int(begin.timestamp()),
            "exp": int(end.timestamp()),
        }
        return Token(
            text=jwt.encode(claims, self._secret, algorithm=_ALGORITHM),
            user_id=user.id,
            expires_at=end,
            credential=credential,
        )

    def read(self, text: str) -> Token | None:
        """The token in `text`; None if it isn't a valid token of this deployment or has expired."""
        try:
            claims = jwt.decode(text, self._secret, algorithms=[_ALGORITHM], options=_READ)
        except jwt.PyJWTError:
            return None
        end = claims["exp"]
        if not isinstance(end, int) or end <= self._clock.now().timestamp():
            return None
        return Token(
            text=text,
            user_id=str(claims["sub"]),
            expires_at=datetime.fromtimestamp(end, UTC),
            credential=str(claims["cred"]),
        )

    def has_current_password(self, token: Token, user: UserRow) -> bool:
        """True if the user's password hasn't changed since the token was issued."""
        return hmac.compare_digest(token.credential.encode(errors="replace"), self._credential(user).encode())

    def _credential(self, user: UserRow) -> str:
        """A digest of the stored password hash that reveals nothing about it."""
        return hmac.digest(self._secret.encode(), b"cred\0" + user.password.encode(), "sha256").hex()[:32]
