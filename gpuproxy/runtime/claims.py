"""The claims of this process: taking, renewing and losing them.

In a database of one process a claim has no end and is never renewed, because the lock on the database proves that no
other process is alive. In a shared one it lasts for `seconds` and is renewed three times as often.

The database's time decides who has a claim. Beside that, each process counts from before its own attempt and stops
believing in its claim earlier than the database does. So a process that was paused, or that can't reach the database,
stops before another one may take over.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from typing import TypeVar

import structlog

from gpuproxy.model.errors import ClaimLost
from gpuproxy.ports import Clock, Database, Tx, Wakeups
from gpuproxy.runtime.loops import guarded
from gpuproxy.store import claims
from gpuproxy.store.claims import Claim

log = structlog.get_logger(__name__)
T = TypeVar("T")

_began: ContextVar[Claim | None] = ContextVar("began", default=None)
"""The claim under which the present step began (see `alone`)."""
_RESERVATION = "reservation:"
CLAIM_SECONDS = 12.0
"""How long a claim lasts. A process that is not heard of for so long is replaced, at the latest a third of it later."""
RENEW_AGAIN = 1.0
"""Seconds after a renewal that failed. A database that is away for a moment must cost no claim."""
RECOVERED_EVERY = CLAIM_SECONDS / 3
"""Seconds between two looks for calls whose process is gone."""
_BELIEVED = 5 / 6
"""The part of a claim for which its process believes in it. The rest covers the way to the database and back."""


class HeldClaim:
    """One claim of this process, while it has it."""

    def __init__(self, name: str, owner: str, db: Database, clock: Clock, seconds: float | None) -> None:
        self.name = name
        self._claim: Claim | None = None
        self._believed_until = 0.0
        """A reading of Clock.monotonic()."""
        self._owner = owner
        self._db = db
        self._clock = clock
        self._seconds = seconds
        self.made_at = clock.monotonic()
        """A reading of Clock.monotonic()."""

    @property
    def claim(self) -> Claim | None:
        """What this process has; None before it is taken, after it is lost, and while it could not be renewed."""
        if self._seconds is not None and self._claim is not None and self._clock.monotonic() >= self._believed_until:
            return None
        return self._claim

    @property
    def known(self) -> Claim | None:
        """What this process last had, even if it could not be renewed in time; None once it is known to be lost."""
        return self._claim

    def is_held(self) -> bool:
        """Whether this process may act now, as far as it can know without asking the database."""
        return self.claim is not None

    def has(self, claim: Claim) -> bool:
        """Whether this process still has this very claim, as far as it can know without asking the database."""
        now = self.claim
        return now is not None and now.fence == claim.fence

    def take(self, tx: Tx, began: float | None = None) -> bool:
        """Take the claim in a unit of work. False if another process has it.

        `began`: a reading of Clock.monotonic() from before the unit, which may have read its time before this call.
        """
        began = self._clock.monotonic() if began is None else began
        taken = claims.take(tx, self.name, self._owner, self._seconds)
        tx.after_commit(lambda: self.now_has(taken, began))
        return taken is not None

    def require(self, tx: Tx) -> None:
        """Raise ClaimLost unless this process has the claim, and has had it since the present step began."""
        began = _began.get()
        if (claim := self.claim) is None or (began and began.name == self.name and began.fence != claim.fence):
            raise ClaimLost(f"{self._owner} does not have {self.name}")
        claims.require(tx, claim)

    def renew(self, tx: Tx, began: float | None = None) -> None:
        """Renew the claim in a unit of work, even if it is over. Raises ClaimLost if another process has taken it.

        `began`: as for `take`.
        """
        if self._claim is None:
            raise ClaimLost(f"{self._owner} does not have {self.name}")
        began = self._clock.monotonic() if began is None else began
        renewed = claims.renew(tx, self._claim, self._seconds)
        tx.after_commit(lambda: self.now_has(renewed, began))

    def lose(self) -> None:
        """Note that a unit of work has found the claim lost."""
        if self._claim is not None:
            log.warning("claim_lost", claim=self.name, owner=self._owner, effect="another process does this work now")
        self._claim = None

    def doubt(self) -> None:
        """Stop believing in the claim. Called in the unit of work that gives it up, before that is committed.

        Once it is committed, another process may begin. Whether it was, may not be known here for a while.
        """
        self._believed_until = 0.0

    def end(self, tx: Tx) -> None:
        """Remove the claim: its work is done for ever."""
        claims.forget(tx, self.name)

    def now_has(self, claim: Claim | None, began: float) -> None:
        """Note the result of an attempt that began at `began`, a reading of Clock.monotonic()."""
        self._claim = claim
        self._believed_until = began + (self._seconds or 0.0) * _BELIEVED

    async def keep(self, lost: Callable[[], None]) -> None:
        """Renew the claim until it is lost, and then call `lost`.

        In a database of one process this returns at once, because no claim ends.
        """
        if self._seconds is None:
            return
        while self._claim is not None:
            done = await guarded(lambda: self._kept(lost), self._clock, f"claim {self.name}", after_failure=0.0)
            await self._clock.sleep(self._seconds / 3 if done else RENEW_AGAIN)

    async def _kept(self, lost: Callable[[], None]) -> bool:
        """True, unless it raised."""
        began = self._clock.monotonic()
        try:
            await self._db.write(lambda tx: self.renew(tx, began))
        except ClaimLost:
            self.lose()
            lost()
        return True


class Claims:
    """Makes the claims of one process."""

    def __init__(self, db: Database, clock: Clock, owner: str, seconds: float = CLAIM_SECONDS) -> None:
        """`owner` names this process; no earlier or later process has the same name."""
        self.owner = owner
        self._db = db
        self._clock = clock
        self.seconds = None if db.exclusive else seconds
        """How long a claim lasts; None: it has no end, because no other process uses the database."""

    def of_account(self, provider: str, account: str) -> HeldClaim:
        """The claim of the supervisor of an account: only it plans, and sends destroys, stops and probes."""
        return self._held(f"account:{provider}:{account}")

    def of_reservation(self, reservation_id: str) -> HeldClaim:
        """The claim of a running call that rents: only it starts creates."""
        return self._held(reservation_claim(reservation_id))

    def of_webhook(self, target: str) -> HeldClaim:
        """The claim of the sender of a webhook's events: only it posts them."""
        return self._held(f"webhook:{target}")

    def of_catalog(self, provider: str) -> HeldClaim:
        """The claim of the reader of a marketplace's offers: the others use what it has read."""
        return self._held(f"catalog:{provider}")

    def of_work(self, name: str) -> HeldClaim:
        """The claim of periodic work of the whole deployment, such as posting to the ledger."""
        return self._held(f"work:{name}")

    def begin(self, tx: Tx) -> None:
        """A part of the first unit of a process: in a database of one process, all claims are of dead processes."""
        if self.seconds is None:
            claims.void(tx)
        claims.sweep(tx, _RESERVATION)

    def _held(self, name: str) -> HeldClaim:
        return HeldClaim(name, self.owner, self._db, self._clock, self.seconds)


class ClaimedDatabase:
    """The Database port for periodic work: nothing is written unless this process has the claim on the work."""

    def __init__(self, db: Database, claim: HeldClaim) -> None:
        self.exclusive = db.exclusive
        self._db = db
        self._claim = claim

    async def write(self, fn: Callable[[Tx], T]) -> T:
        """As the port. Raises ClaimLost too."""

        def claimed(tx: Tx) -> T:
            self._claim.require(tx)
            return fn(tx)

        return await self._db.write(claimed)

    async def read(self, fn: Callable[[Tx], T]) -> T:
        """As the port."""
        return await self._db.read(fn)

    def watch(self, topic: str) -> AbstractAsyncContextManager[Wakeups]:
        """As the port."""
        return self._db.watch(topic)

    async def close(self) -> None:
        """The database belongs to others too."""


def claimed(db: Database, claim: HeldClaim) -> Database:
    """The database for work that only the process with the claim may do. One process needs no check."""
    return db if db.exclusive else ClaimedDatabase(db, claim)


def alone(claim: HeldClaim, step: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[None]]:
    """The step, which does nothing unless this process has the claim.

    What it has read belongs to this claim. If the claim is lost and regained meanwhile, the step writes nothing more.
    """

    async def stepped() -> None:
        if (began := claim.claim) is None:
            return
        token = _began.set(began)
        try:
            await step()
        except ClaimLost:
            if claim.known is None or claim.known.fence == began.fence:
                claim.lose()
        finally:
            _began.reset(token)

    return stepped


def reservation_claim(reservation_id: str) -> str:
    """The name of the claim of a running call."""
    return f"{_RESERVATION}{reservation_id}"
