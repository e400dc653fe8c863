"""Sessions of the dashboard: who has logged in, by the token in the browser's cookie.

Sessions are in memory, so a restart of the server ends them. Several servers also keep them in the database, so that
each knows those of the others, and a session that ended at one is over at all.

A session has the credentials of its login, an API key or a login token, and each request is authenticated with them. So
a session never outlives its key. Only the SHA-256 of the cookie's token is stored.
"""

import base64
import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from gpuproxy.identity.kept_sessions import KeptSessions, Rules
from gpuproxy.ports import Clock, Random

IDLE_SECONDS = 12 * 3600.0
"""Real seconds after which an unused session ends."""
MAX_SECONDS = 7 * 86400.0
"""Real seconds after which any session ends."""
MAX_SESSIONS = 4096
MAX_OF_ONE = 64
"""Sessions of one API key or user. One more ends the oldest of them."""
RULES = Rules(idle=IDLE_SECONDS, most=MAX_SECONDS, all=MAX_SESSIONS, of_one=MAX_OF_ONE)
"""The same for the sessions that several servers keep."""
_TOKEN_BYTES = 32


@dataclass(slots=True, kw_only=True)
class Session:
    """One login in one browser."""

    digest: str
    owner: str
    """The API key or the user that it belongs to."""
    metadata: Mapping[str, str] = field(repr=False)
    """The credentials, as the metadata of a call."""
    csrf: str = field(repr=False)
    """The secret that each form sends back."""
    began: float
    used: float
    streams: int = 0
    """Live views that are open now."""
    open: bool = True
    """False once it has ended."""


class Sessions:
    """All sessions of this server."""

    def __init__(self, clock: Clock, random: Random, kept: KeptSessions | None = None) -> None:
        """`kept`: the sessions of several servers."""
        self._kept = kept
        self._clock = clock
        self._random = random
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def open(self, metadata: Mapping[str, str], owner: str) -> tuple[str, Session]:
        """Begin a session. Returns the token for its cookie, which is stored nowhere, and the session."""
        token, now = self._secret(), self._now()
        session = Session(
            digest=_digest(token), owner=owner, metadata=metadata, csrf=self._secret(), began=now, used=now
        )
        self._make_room(owner)
        self._sessions[session.digest] = session
        return token, session

    async def begin(self, metadata: Mapping[str, str], owner: str) -> str:
        """Begin a session at all servers. Returns the token for its cookie."""
        token, session = self.open(metadata, owner)
        if self._kept is not None:
            await self._kept.keep(token, session.digest, owner, metadata=metadata, csrf=session.csrf)
        return token

    async def known(self, token: str) -> Session | None:
        """The session of a cookie's token, which may have begun at another server; None if it has ended at any."""
        session = self.find(token)
        if self._kept is None:
            return session
        kept = await self._kept.find(token, _digest(token)) if token else None
        if kept is None:
            if session is not None:
                self.end(session)
            return None
        if session is None:
            now = self._now()
            session = Session(
                digest=_digest(token), owner=kept.owner, metadata=kept.metadata, csrf=kept.csrf, began=now - kept.age,
                used=now,
            )  # fmt: skip
            self._make_room(kept.owner)
            self._sessions[session.digest] = session
        return session

    async def finish(self, session: Session) -> None:
        """End a session at all servers."""
        self.end(session)
        if self._kept is not None:
            await self._kept.end(session.digest)

    def find(self, token: str) -> Session | None:
        """The session of a cookie's token; None if there is none or it has ended."""
        session = self._sessions.get(_digest(token))
        if session is None:
            return None
        now = self._now()
        if now - session.used > IDLE_SECONDS or now - session.began > MAX_SECONDS:
            self.end(session)
            return None
        session.used = now
        self._sessions.move_to_end(session.digest)
        return session

    def end(self, session: Session) -> None:
        """End a session. Repeating it changes nothing."""
        session.open = False
        self._sessions.pop(session.digest, None)

    def _make_room(self, owner: str) -> None:
        own = [each for each in self._sessions.values() if each.owner == owner]
        for surplus in own[: max(0, len(own) - MAX_OF_ONE + 1)]:
            self.end(surplus)
        while len(self._sessions) >= MAX_SESSIONS:
            self.end(next(iter(self._sessions.values())))

    def _secret(self) -> str:
        return base64.urlsafe_b64encode(self._random.secret(_TOKEN_BYTES)).decode().rstrip("=")

    def _now(self) -> float:
        """Real seconds, so that an accelerated clock doesn't end sessions early."""
        return self._clock.monotonic() / self._clock.scale


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()
