"""One watch for each account: list what exists, plan, write, and do what the plan asks for outside.

A pass reads the provider first and our rows after it, plans and writes in one unit of work, and only then starts the
outside effects. Nothing depends on a pass being whole: the next one sees what is left to do. A provider that does not
answer makes a pass without a listing, in which nothing is concluded about any machine.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from gpuproxy.engine import record
from gpuproxy.engine.effects import Effects
from gpuproxy.engine.limits import Limits
from gpuproxy.engine.reconcile import plan
from gpuproxy.engine.silence import Silence
from gpuproxy.engine.steps import Adopt, Advance, Confirm, Destroy, Knock, Listing, Note, Scene, Step, Stop
from gpuproxy.engine.sweep import Sightings, Stray, strays
from gpuproxy.model.errors import AuthFailed, InvalidRequest, ProviderError, Unavailable
from gpuproxy.model.labels import Signer
from gpuproxy.model.leases import Lease, LeaseEvent, LeaseState
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import AccountKey
from gpuproxy.ports import Clock, Database, Probe, Provider, Tx
from gpuproxy.store import leases, meta, reservations, troubles

_MOVING = frozenset({LeaseState.REQUESTED, LeaseState.STARTING, LeaseState.RELEASING})


@dataclass(frozen=True, slots=True)
class Decided:
    """What one pass came to."""

    steps: tuple[Step, ...]
    strays: tuple[Stray, ...]
    live: tuple[Lease, ...]
    sightings: Sightings


class AccountWatch:
    """Looks after every lease of one account."""

    def __init__(
        self, provider: Provider, db: Database, *, clock: Clock, probe: Probe, signer: Signer, limits: Limits
    ) -> None:
        self.provider = provider
        self._key = (provider.name, provider.account)
        self._db = db
        self._clock = clock
        self._signer = signer
        self._limits = limits
        self._effects = Effects(provider, db, clock=clock, probe=probe, limits=limits, changed=self.nudge)
        self._current: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None
        self._nudged = asyncio.Event()
        self._live: tuple[Lease, ...] = ()
        self._sightings = Sightings()
        self._credit: Micro | None = None
        self._owner = ""
        """Whose key it is, once the marketplace has said so."""
        self._trouble: ProviderError | None = None
        self._since = clock.now()
        self._listed_at = self._since
        self._blind = timedelta()
        self.last_pass_at: datetime | None = None
        self.silent_since: datetime | None = None
        self._silence = Silence(self._key, clock)

    def nudge(self) -> None:
        """Something changed: look soon."""
        self._nudged.set()

    async def look(self) -> None:
        """Return after a pass that began after this call; callers share passes."""
        if self._next is None:
            self._next = asyncio.create_task(self._pass_after(self._current))
            self._next.add_done_callback(_retrieve)
        await asyncio.shield(self._next)

    async def step(self) -> None:
        """One pass and all of its outside effects."""
        await self.look()
        await self._effects.done()

    async def preview(self) -> Decided:
        """What a pass would do now; nothing is written and nothing but reads goes out."""
        listing = await self._listing()
        second_word = await self._second_word(listing)
        return await self._db.read(lambda tx: self._decide(tx, listing, second_word=second_word))

    async def wait(self) -> None:
        """Return when the next pass is due: soon while something is changing, else at the slow pace."""
        await self._sleep(self._limits.poll_seconds)
        if not self._restless():
            await self._sleep(self._limits.reconcile_seconds - self._limits.poll_seconds)
        self._nudged.clear()

    def blind_spell(self) -> timedelta:
        """The longest time without a listing since this was asked last, the present one included."""
        longest = max(self._blind, self._clock.now() - self._listed_at)
        self._blind = timedelta()
        return longest

    async def close(self) -> None:
        """End what is under way; the books know what is left to do."""
        tasks = [task for task in (self._current, self._next) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._effects.close()

    async def _sleep(self, seconds: float) -> None:
        try:
            async with self._clock.timeout(seconds):
                await self._nudged.wait()
        except TimeoutError:
            return

    def _restless(self) -> bool:
        fresh = self._clock.now() - timedelta(seconds=self._limits.unknown_fresh)
        return any(_about_to_change(lease, fresh) for lease in self._live)

    async def _pass_after(self, earlier: asyncio.Task[None] | None) -> None:
        if earlier is not None and not earlier.done():
            await asyncio.wait([earlier])
        self._current, self._next = self._next, None
        await self._pass()

    async def _pass(self) -> None:
        listing = await self._listing()
        second_word = await self._second_word(listing)
        try:
            decided = await self._db.write(lambda tx: self._settle(tx, listing, second_word=second_word))
        except Unavailable:
            await self._go_on_deleting(listing)
            raise
        self._live, self._sightings = decided.live, decided.sightings
        self.last_pass_at = self._clock.now()
        for step in decided.steps:
            if isinstance(step, Destroy | Stop | Confirm | Knock):
                self._effects.start(step)
        for stray in decided.strays:
            self._effects.take_back(stray)

    async def _go_on_deleting(self, listing: Listing | None) -> None:
        """What the books say is to be given back, or has reached its end, goes although they can't be written."""
        decided = await self._db.read(lambda tx: self._decide(tx, listing, second_word=False))
        for step in decided.steps:
            over = isinstance(step, Advance) and step.facts.get("reason") == "EXPIRED"
            if isinstance(step, Destroy) or (over and step.lease.instance_id is not None):
                self._effects.start(Destroy(step.lease))

    async def _listing(self) -> Listing | None:
        began = self._clock.now()
        try:
            await self._recognise()
            found = await self.provider.list()
        except ProviderError as error:
            self._trouble = error
            if self.silent_since is None:
                self.silent_since = began
            self._silence.failed(error, self.silent_since)
            return None
        if self.silent_since is not None:
            self._silence.ended(self.silent_since)
            self.silent_since = None
        self._trouble = None
        self._blind = max(self._blind, self._clock.now() - self._listed_at)
        self._listed_at = began
        return Listing(began, found.instances, found.unreadable)

    async def _recognise(self) -> None:
        """Raises AuthFailed for a key of another account than the one that what is live was rented with.

        That one shows none of our machines and says of each that there is no such instance: all would count as lost.
        """
        if self._owner:
            return
        known = await self._db.read(lambda tx: _owner(tx, self._key) if leases.live(tx, *self._key) else None)
        try:
            owner = (await self.provider.spend()).owner
        except (AuthFailed, InvalidRequest):
            return  # a key that may not ask this
        except ProviderError:
            if known:
                raise
            return
        if known and owner and owner != known:
            raise AuthFailed(
                f"the key that is set for {self.provider.account} belongs to account {owner}, and what is rented under "
                f"this name to account {known}: set that account's key under this name again"
            )
        self._owner = owner

    async def _second_word(self, listing: Listing | None) -> bool:
        """Does the account's credit stand still? Asked only where the last pass left an outcome open.

        Whatever runs unseen costs money; two equal readings in a row say that nothing does.
        """
        open_outcome = any(lease.state is LeaseState.UNKNOWN or _nameless(lease) for lease in self._live)
        if listing is None or not open_outcome:
            self._credit = None
            return False
        before = self._credit
        try:
            self._credit = (await self.provider.spend()).credit
        except ProviderError:
            self._credit = None
        return before is not None and self._credit == before

    def _settle(self, tx: Tx, listing: Listing | None, *, second_word: bool) -> Decided:
        decided = self._decide(tx, listing, second_word=second_word)
        for step in decided.steps:
            _write(tx, step)
        if self._owner and _owner(tx, self._key) != self._owner:
            meta.write(tx, _owner_key(self._key), self._owner)
        if self._trouble is None:
            troubles.listed(tx, self._key)
        else:
            troubles.note(tx, self._key, self._trouble, None)
        return Decided(decided.steps, decided.strays, leases.live(tx, *self._key), decided.sightings)

    def _decide(self, tx: Tx, listing: Listing | None, *, second_word: bool) -> Decided:
        rows = leases.live(tx, *self._key)
        scene = Scene(
            leases=rows,
            reservations=reservations.named(tx, [lease.reservation_id for lease in rows]),
            listing=listing,
            now=tx.now(),
            capabilities=self.provider.capabilities,
            limits=self._limits,
            since=self._since,
            second_word=second_word,
        )
        if listing is None:
            return Decided(tuple(plan(scene)), (), rows, self._sightings)
        ours = [i.label for i in listing.instances if i.label is not None and self._signer.is_ours(i.label)]
        found, sightings = strays(
            listing.instances, _by_label(tx, ours, rows), self._signer.is_ours, self._sightings, tx.now()
        )
        return Decided(tuple(plan(scene)), tuple(found), rows, sightings)


def _owner(tx: Tx, account: AccountKey) -> str | None:
    """Whose key was used under the account's name last."""
    return meta.read(tx, _owner_key(account))


def _owner_key(account: AccountKey) -> str:
    return f"owner:{account[0]}:{account[1]}"


def _about_to_change(lease: Lease, fresh: datetime) -> bool:
    if lease.state is LeaseState.UNKNOWN or _nameless(lease):
        return lease.created_at > fresh
    return lease.state in _MOVING


def _nameless(lease: Lease) -> bool:
    """Being released, but no instance is known: it is not even certain that there is one."""
    return lease.state is LeaseState.RELEASING and lease.instance_id is None


def _by_label(tx: Tx, labels: Sequence[str], rows: Sequence[Lease]) -> dict[str, Lease]:
    """The leases of the labels; most are among the live rows."""
    known = {lease.label: lease for lease in rows}
    for label in labels:
        if label not in known and (lease := leases.by_label(tx, label)) is not None:
            known[label] = lease
    return known


def _retrieve(task: asyncio.Task[None]) -> None:
    """Whoever looked sees the error; when all of them have given up waiting, the next pass tells."""
    if not task.cancelled():
        task.exception()


def _write(tx: Tx, step: Step) -> None:
    """The part of a step that belongs into the books; the lease is re-read, for an earlier step may have changed it."""
    lease = leases.get(tx, step.lease.id)
    if isinstance(step, Advance):
        leases.advance(tx, lease, step.event, **step.facts)
    elif isinstance(step, Adopt):
        record.adopt(tx, lease, LeaseEvent.FOUND, step.instance_id)
    elif isinstance(step, Note):
        leases.note(tx, lease, **step.facts)
