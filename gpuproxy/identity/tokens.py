"""Tokens: a JWT says who logged in and until when; everything else about its user is looked up at each call.

Signed with HS256 and nothing else. Times are the deployment's clock's, so that a token ends when its expires_at says.
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
"""PyJWT would read the time by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A good token."""

    text: str = field(repr=False)
    user_id: str
    expires_at: datetime
    credential: str = field(default="", repr=False)
    """Stands for the password that it was given for."""


class Tokens:
    """Makes tokens and reads them."""

    def __init__(self, secret: str, clock: Clock) -> None:
        """`secret`: at least 32 bytes."""
        self._secret = secret
        self._clock = clock

    def make(self, user: UserRow) -> Token:
        """A token of one day."""
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
        """None for whatever is not a token of ours that is still good."""
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

    def fits(self, token: Token, user: UserRow) -> bool:
        """Whether the token was given for the password that the user has now."""
        return hmac.compare_digest(token.credential.encode(errors="replace"), self._credential(user).encode())

    def _credential(self, user: UserRow) -> str:
        """Other for every stored hash of a password, and telling nothing about it."""
        return hmac.digest(self._secret.encode(), b"cred\0" + user.password.encode(), "sha256").hex()[:32]
