"""Logins: exchange an email address and a password for a token. Success and failure take the same time.

Failed attempts are counted for each pair of email address and client network, so that somebody in another network
can't lock a user out. The counters are in memory, so that anonymous clients cause no database writes; a restart resets
them. Several servers also count together, in the database.

An attempt during a lock isn't counted, so that a lock never becomes longer than its delay.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from gpuproxy.identity.passwords import Passwords
from gpuproxy.identity.shared_failures import Outcome, SharedFailures
from gpuproxy.identity.tokens import Token, Tokens
from gpuproxy.identity.users import Users
from gpuproxy.model.errors import Unauthenticated
from gpuproxy.model.users import normalized_email
from gpuproxy.ports import Clock, Database
from gpuproxy.store.users import UserRow

FREE_FAILURES = 5
"""Consecutive failures until the first delay."""
FIRST_DELAY = 1.0
"""Real seconds; each further failure doubles it."""
MAX_DELAY = 300.0
_EXPIRES_AFTER = 3600.0
_MAX_ENTRIES = 65_536
_FAILED = (
    "The email address or the password is wrong, or there were too many attempts. Wait a few minutes, then try again."
)


@dataclass(slots=True, kw_only=True)
class _Attempts:
    """The attempts for one email address from one network. They run one at a time, so that each one is counted."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    failures: int = 0
    locked_until: float = 0.0
    last: float = 0.0


class Logins:
    """Checks passwords and issues tokens."""

    def __init__(
        self, users: Users, passwords: Passwords, tokens: Tokens, clock: Clock, *, shared: Database | None = None
    ) -> None:
        """`shared`: the database of several servers."""
        self._shared = None
        if shared is not None:
            self._shared = SharedFailures(shared, clock, expires_after=_EXPIRES_AFTER, delay=_delay_after)
        self._users = users
        self._passwords = passwords
        self._tokens = tokens
        self._clock = clock
        self._attempts: OrderedDict[tuple[str, str], _Attempts] = OrderedDict()

    async def login(self, email: str, password: str, network: str) -> tuple[UserRow, Token]:
        """The user and a new token. Raises Unauthenticated, with the same text and the same work for every cause."""
        attempts = self._attempts_of(normalized_email(email), network)
        async with attempts.turn:
            locked = self._now() < attempts.locked_until or await self._is_locked(email, network)
            user = await self._users.by_email(email)
            may = user is not None and user.disabled_at is None and not locked
            good = await self._passwords.match(user.password if user and may else None, password)
            if user is None or not good:
                if not locked:
                    self._count(attempts)
                await self._note(email, network, "locked" if locked else "bad")
                raise Unauthenticated(_FAILED)
            attempts.failures = 0
            await self._note(email, network, "good")
        return user, self._tokens.make(user)

    async def _is_locked(self, email: str, network: str) -> bool:
        return self._shared is not None and await self._shared.is_locked(normalized_email(email), network)

    async def _note(self, email: str, network: str, outcome: Outcome) -> None:
        if self._shared is not None:
            await self._shared.note(normalized_email(email), network, outcome)

    def _attempts_of(self, email: str, network: str) -> _Attempts:
        now, who = self._now(), (email, network)
        attempts = self._attempts.pop(who, None)
        if attempts is None or (now - attempts.last > _EXPIRES_AFTER and not attempts.turn.locked()):
            attempts = _Attempts()
        attempts.last = now
        self._attempts[who] = attempts
        if len(self._attempts) > _MAX_ENTRIES:
            self._attempts.popitem(last=False)
        return attempts

    def _count(self, attempts: _Attempts) -> None:
        attempts.failures += 1
        if delay := _delay_after(attempts.failures):
            attempts.locked_until = self._now() + delay

    def _now(self) -> float:
        """Real seconds, so that an accelerated clock doesn't allow more guesses."""
        return self._clock.monotonic() / self._clock.scale


def _delay_after(failures: int) -> float:
    """Real seconds until the next attempt after so many failures in a row; 0: none."""
    doublings = failures - FREE_FAILURES
    if doublings < 0:
        return 0.0
    return MAX_DELAY if doublings > 16 else min(FIRST_DELAY * 2**doublings, MAX_DELAY)
