"""Logging in: an email and a password for a token, at a price that is the same whatever comes of it.

Wrong attempts are counted for an email together with the network that they come from, so that a stranger elsewhere
locks nobody out, and in memory, so that strangers cause no writing to the books; a restart forgets them. What is
refused because it came too early is not counted: no lock lasts longer than its own delay.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from gpuproxy.identity.passwords import Passwords
from gpuproxy.identity.tokens import Token, Tokens
from gpuproxy.identity.users import UserBook
from gpuproxy.model.errors import Unauthenticated
from gpuproxy.model.users import folded
from gpuproxy.ports import Clock
from gpuproxy.store.users import UserRow

FREE_FAILURES = 5
"""In a row; the last of them is followed by the first delay."""
FIRST_DELAY = 1.0
"""Real seconds; each further failure doubles it."""
LONGEST_DELAY = 300.0
_FORGOTTEN_AFTER = 3600.0
_MOST_REMEMBERED = 65_536
_WRONG = "Email and password do not match, or there were too many attempts: wait a few minutes, then try again."


@dataclass(slots=True, kw_only=True)
class _Tries:
    """Of one email from one network. Attempts take turns, so that many at once are counted one by one."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    failures: int = 0
    locked_until: float = 0.0
    last: float = 0.0


class Logins:
    """Lets users in."""

    def __init__(self, users: UserBook, passwords: Passwords, tokens: Tokens, clock: Clock) -> None:
        self._users = users
        self._passwords = passwords
        self._tokens = tokens
        self._clock = clock
        self._tries: OrderedDict[tuple[str, str], _Tries] = OrderedDict()

    async def login(self, email: str, password: str, network: str) -> tuple[UserRow, Token]:
        """The user and a new token; raises Unauthenticated, with one text after the same work for every cause."""
        tries = self._of(folded(email), network)
        async with tries.turn:
            locked = self._now() < tries.locked_until
            user = await self._users.by_email(email)
            may = user is not None and user.disabled_at is None and not locked
            good = await self._passwords.match(user.password if user and may else None, password)
            if user is None or not good:
                if not locked:
                    self._count(tries)
                raise Unauthenticated(_WRONG)
            tries.failures = 0
        return user, self._tokens.make(user)

    def _of(self, email: str, network: str) -> _Tries:
        now, who = self._now(), (email, network)
        tries = self._tries.pop(who, None)
        if tries is None or (now - tries.last > _FORGOTTEN_AFTER and not tries.turn.locked()):
            tries = _Tries()
        tries.last = now
        self._tries[who] = tries
        if len(self._tries) > _MOST_REMEMBERED:
            self._tries.popitem(last=False)
        return tries

    def _count(self, tries: _Tries) -> None:
        tries.failures += 1
        doublings = tries.failures - FREE_FAILURES
        if doublings >= 0:
            delay = LONGEST_DELAY if doublings > 16 else min(FIRST_DELAY * 2**doublings, LONGEST_DELAY)
            tries.locked_until = self._now() + delay

    def _now(self) -> float:
        """Real seconds: a guesser gains nothing from a clock that runs faster."""
        return self._clock.monotonic() / self._clock.scale
