"""The lasting work of a deployment, shared between the processes that live: who does which part of it.

Lasting work is the supervision of accounts, the reading of catalogs, the sending to webhooks, and some periodic steps.
Each part has a claim. A process renews all of its claims in one unit of work, three times within the life of a claim.
The same unit tells the others that the process lives, gives up what is more than its share, and takes what is free.

`assigned` decides from what the database shows, so all processes come to the same result. Work stays where it is as
long as nobody has more than a fair share of it.

A process may be able to do its work worse than another one: it reaches the database, but not the marketplace. It gives
such work up and takes it again only if nobody else has taken it, or after a while.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from gpuproxy.ports import Clock, Database, FollowingClock, Tx
from gpuproxy.runtime.claims import RENEW_AGAIN, Claims, HeldClaim
from gpuproxy.runtime.loops import guarded
from gpuproxy.store import claims
from gpuproxy.store.claims import Claim

log = structlog.get_logger(__name__)

_REPLICA = "replica:"
_KEPT_SECONDS = 600.0
"""For so long a process keeps work that it gave up and that nobody took: the others may not be set up for it."""
_FAILING_SECONDS = 60.0
"""Work that has failed for so long is given up, if another process lives."""
_RESTING_SECONDS = 600.0
"""For so long a process leaves to others the work that failed."""
_LEFT_BY_ALL = 3.0
"""So many times the life of a claim must work be free before a process takes it for which it fails, or failed."""


def _nothing() -> None:
    """Nobody waits for the claim."""


@dataclass(frozen=True, slots=True)
class Work:
    """A part of the lasting work."""

    claim: HeldClaim
    changed: Callable[[], None] = _nothing
    """Called when this process has got the claim or has lost it."""
    is_busy: Callable[[], bool] = lambda: False
    """True while the work must not move to another process, such as during a failover."""
    failing: Callable[[], float] = lambda: 0.0
    """For how many seconds the work has failed in this process although another one may be able to do it."""


def assigned(works: Sequence[str], owners: Mapping[str, str], live: Collection[str]) -> Mapping[str, str]:
    """Which process should do each part of the work.

    `owners`: who has it now, if anybody does. The kind of a part is its name up to the first colon. No process gets
    more than its share of all parts, nor of the parts of one kind, unless a part could not be assigned otherwise.
    """
    kinds = Counter(map(_kind, works))
    most, most_of_kind = math.ceil(len(works) / len(live)), {k: math.ceil(n / len(live)) for k, n in kinds.items()}
    total: Counter[str] = Counter()
    of_kind: Counter[tuple[str, str]] = Counter()
    found: dict[str, str] = {}

    def give(work: str, process: str) -> None:
        found[work] = process
        total[process] += 1
        of_kind[process, _kind(work)] += 1

    for work in works:
        owner = owners.get(work, "")
        if owner in live and total[owner] < most and of_kind[owner, _kind(work)] < most_of_kind[_kind(work)]:
            give(work, owner)
    for work in works:
        if work not in found:
            give(work, min(live, key=lambda each: (of_kind[each, _kind(work)], total[each], each)))
    return found


def _kind(work: str) -> str:
    return work.partition(":")[0]


class Sharing:
    """The part of the lasting work that this process does."""

    def __init__(self, claims_: Claims, works: Sequence[Work], db: Database, clock: Clock) -> None:
        self.works = tuple(works)
        self.replicas = 1
        """How many processes live, this one included, as far as is known."""
        self.place = 0
        """The place of this process among them."""
        self._claims = claims_
        self._db = db
        self._clock = clock
        self._given_up: dict[str, int] = {}
        """Work that this process gave up, with its fence then."""
        self._kept: dict[str, float] = {}
        """Work that was given up in vain, and until when it is kept: a reading of Clock.monotonic()."""
        self._rests: dict[str, float] = {}
        """Work that failed here, and until when it is left to others: a reading of Clock.monotonic()."""
        self._patience: dict[str, float] = {}
        """For how many seconds such work may fail here once nobody else has taken it: longer each time."""
        self._exchange: Callable[[Tx, int], None] = lambda _tx, _place: None
        self._left = False
        self._renewed_at = -math.inf
        """When the last successful step began: a reading of Clock.monotonic()."""

    def exchange(self, unit: Callable[[Tx, int], None]) -> None:
        """Do `unit(tx, place)` in each unit of work of this object: it exchanges what processes keep in memory."""
        self._exchange = unit

    def take_all(self, tx: Tx) -> None:
        """Take all work that is free, in the first unit of work of the process."""
        for work in self.works:
            work.claim.take(tx, work.claim.made_at)

    async def run(self) -> None:
        """Renew, give up and take until cancelled. In a database of one process this returns at once."""
        if self._claims.seconds is None:
            return
        while True:
            renewed_at = self._renewed_at
            await guarded(self.step, self._clock, "sharing", after_failure=0.0)
            done = self._left or self._renewed_at != renewed_at
            await self._clock.sleep(self._claims.seconds / 3 if done else RENEW_AGAIN)

    async def step(self) -> None:
        """One unit of work with all claims."""
        if self._left:
            return
        began = self._clock.monotonic()
        before = {work.claim.name: work.claim.known for work in self.works}
        busy = {work.claim.name for work in self.works if work.is_busy()}
        failing = self._failing(began)
        at, stored, live = await self._db.write(lambda tx: self._write(tx, before, busy, failing))
        if isinstance(self._clock, FollowingClock):
            self._clock.follow(at, began)
        self.replicas, self.place = len(live), live.index(self._claims.owner)
        for work in self.works:
            self._note(work, before[work.claim.name], stored[work.claim.name], began, failing)
        self._renewed_at = began

    async def leave(self) -> None:
        """Give everything up, because this process ends: the others need not wait until the claims are over."""
        if self._claims.seconds is None:
            return
        self._left = True
        held = [claim for work in self.works if (claim := work.claim.known) is not None]
        name = f"{_REPLICA}{self._claims.owner}"

        def write(tx: Tx) -> None:
            for work in self.works:
                work.claim.doubt()
            for claim in held:
                claims.drop(tx, claim)
            claims.forget(tx, name)

        await guarded(lambda: self._db.write(write), self._clock, "sharing")
        for work in self.works:
            work.claim.now_has(None, 0.0)

    def _failing(self, now: float) -> frozenset[str]:
        """The work that fails here for too long."""
        self._rests = {name: until for name, until in self._rests.items() if now < until}
        self._patience = {name: seconds for name, seconds in self._patience.items() if name in self._rests}
        patience = {work.claim.name: self._patience.get(work.claim.name, _FAILING_SECONDS) for work in self.works}
        return frozenset(work.claim.name for work in self.works if work.failing() >= patience[work.claim.name])

    def _write(
        self, tx: Tx, before: Mapping[str, Claim | None], busy: Collection[str], failing: Collection[str]
    ) -> tuple[datetime, dict[str, Claim | None], list[str]]:
        owner, seconds = self._claims.owner, self._claims.seconds
        claims.sweep(tx, _REPLICA)
        claims.take(tx, f"{_REPLICA}{owner}", owner, seconds)
        live = sorted(row.owner for row in claims.with_prefix(tx, _REPLICA))
        now, names = tx.now(), list(before)
        rows = claims.named(tx, names)
        owners = {name: row.owner for name, row in rows.items() if row.until > now}
        wanted = assigned(names, owners, live)
        held = {work.claim.name: work.claim for work in self.works}
        stored: dict[str, Claim | None] = {}
        for name in names:
            claim = self._renewed(tx, before[name], rows.get(name))
            if claim is None:
                rests = len(live) > 1 and (name in failing or name in self._rests)
                if (wanted[name] == owner and not rests) or self._is_left(rows.get(name), now, rests=rests):
                    claim = claims.take(tx, name, owner, seconds)
            elif self._is_to_leave(name, wanted[name], busy, failing, alone=len(live) == 1):
                held[name].doubt()
                claims.drop(tx, claim)
                claim = None
            stored[name] = claim
        self._exchange(tx, live.index(owner))
        return now, stored, live

    def _renewed(self, tx: Tx, claim: Claim | None, row: Claim | None) -> Claim | None:
        """The claim with a new end; None if it is lost. A lost one must not be renewed: the whole unit would fail."""
        if claim is None or row is None or (row.owner, row.fence) != (claim.owner, claim.fence):
            return None
        return claims.renew(tx, claim, self._claims.seconds)

    def _is_to_leave(
        self, name: str, wanted: str, busy: Collection[str], failing: Collection[str], *, alone: bool
    ) -> bool:
        """Whether this process gives up work that it has."""
        if alone or self._clock.monotonic() < self._kept.get(name, 0.0):
            return False
        return name in failing or (wanted != self._claims.owner and name not in busy)

    def _is_left(self, row: Claim | None, now: datetime, *, rests: bool) -> bool:
        """Whether work is free for so long that whoever should do it seems not to know it, or not to be able to."""
        seconds = (self._claims.seconds or 0.0) * (_LEFT_BY_ALL if rests else 1.0)
        return row is not None and now - row.until > timedelta(seconds=seconds)

    def _note(
        self, work: Work, before: Claim | None, now: Claim | None, began: float, failing: Collection[str]
    ) -> None:
        name = work.claim.name
        if before is not None and now is None:
            self._given_up[name] = before.fence
            log.info("work_left", work=name, owner=self._claims.owner, failing=name in failing)
            if name in failing:
                self._rests[name] = began + _RESTING_SECONDS
        elif now is not None and (before is None or before.fence != now.fence):
            log.info("work_taken", work=name, owner=self._claims.owner, fence=now.fence)
            if self._given_up.pop(name, None) == now.fence - 1:  # nobody else has taken it
                self._kept[name] = self._clock.monotonic() + _KEPT_SECONDS
            if name in self._rests:
                self._patience[name] = 2 * self._patience.get(name, _FAILING_SECONDS)
        work.claim.now_has(now, began)
        if (before and before.fence) != (now and now.fence):
            work.changed()
