"""The claims of this process: taking, renewing and losing them.

In a database of one process a claim has no end and is never renewed, because the lock on the database proves that no
other process is alive. In a shared one it lasts for `seconds` and is renewed three times as often.
"""

from collections.abc import Callable

import structlog

from gpuproxy.model.errors import ClaimLost
from gpuproxy.ports import Clock, Database, Tx
from gpuproxy.runtime.loops import guarded
from gpuproxy.store import claims
from gpuproxy.store.claims import Claim

log = structlog.get_logger(__name__)

_RESERVATION = "reservation:"
CLAIM_SECONDS = 30.0
"""How long a claim lasts. A process that is not heard of for so long is replaced."""


class HeldClaim:
    """One claim of this process, while it has it."""

    def __init__(self, name: str, owner: str, db: Database, clock: Clock, seconds: float | None) -> None:
        self.name = name
        self.claim: Claim | None = None
        """What this process has; None before it is taken and after it is lost."""
        self._owner = owner
        self._db = db
        self._clock = clock
        self._seconds = seconds

    def take(self, tx: Tx) -> bool:
        """Take the claim in a unit of work. False if another process has it."""
        taken = claims.take(tx, self.name, self._owner, self._seconds)
        tx.after_commit(lambda: self._set(taken))
        return taken is not None

    def require(self, tx: Tx) -> None:
        """Raise ClaimLost unless this process has the claim."""
        if self.claim is None:
            raise ClaimLost(f"{self._owner} does not have {self.name}")
        claims.require(tx, self.claim)

    def renew(self, tx: Tx) -> None:
        """Renew the claim in a unit of work, even if it is over. Raises ClaimLost if another process has taken it."""
        if self.claim is None:
            raise ClaimLost(f"{self._owner} does not have {self.name}")
        renewed = claims.renew(tx, self.claim, self._seconds)
        tx.after_commit(lambda: self._set(renewed))

    def lose(self) -> None:
        """Note that a unit of work has found the claim lost."""
        if self.claim is not None:
            log.warning("claim_lost", claim=self.name, owner=self._owner, effect="another process does this work now")
        self.claim = None

    def end(self, tx: Tx) -> None:
        """Remove the claim: its work is done for ever."""
        claims.forget(tx, self.name)

    async def keep(self, changed: Callable[[], None], *, again: bool) -> None:
        """Renew the claim until cancelled. `changed` is called when this process has lost it or has got it.

        `again`: take it whenever it is free. Otherwise this returns when it is lost. In a database of one process this
        returns at once, because no claim ends.
        """
        if self._seconds is None:
            return
        while again or self.claim is not None:
            await guarded(lambda: self._kept(changed), self._clock, f"claim {self.name}")
            await self._clock.sleep(self._seconds / 3)

    async def _kept(self, changed: Callable[[], None]) -> None:
        had = self.claim is not None
        try:
            await self._db.write(self.renew if had else self.take)
        except ClaimLost:
            self.lose()
        if (self.claim is not None) != had:
            changed()

    def _set(self, claim: Claim | None) -> None:
        self.claim = claim


class Claims:
    """Makes the claims of one process."""

    def __init__(self, db: Database, clock: Clock, owner: str, seconds: float = CLAIM_SECONDS) -> None:
        """`owner` names this process; no earlier or later process has the same name."""
        self.owner = owner
        self._db = db
        self._clock = clock
        self._seconds = None if db.exclusive else seconds

    def of_account(self, provider: str, account: str) -> HeldClaim:
        """The claim of the supervisor of an account: only it plans, and sends destroys, stops and probes."""
        return self._held(f"account:{provider}:{account}")

    def of_reservation(self, reservation_id: str) -> HeldClaim:
        """The claim of a running call that rents: only it starts creates."""
        return self._held(reservation_claim(reservation_id))

    def begin(self, tx: Tx) -> None:
        """A part of the first unit of a process: in a database of one process, all claims are of dead processes."""
        if self._seconds is None:
            claims.void(tx)
        claims.sweep(tx, _RESERVATION)

    def _held(self, name: str) -> HeldClaim:
        return HeldClaim(name, self.owner, self._db, self._clock, self._seconds)


def reservation_claim(reservation_id: str) -> str:
    """The name of the claim of a running call."""
    return f"{_RESERVATION}{reservation_id}"
