"""One watch for each account: list what exists, plan, write, and start the outside effects of the plan.

A pass reads the provider first and then our rows. It plans and writes in one unit of work, and only then starts the
outside effects. A pass may stop halfway: the next one does what is left. If the provider does not answer, the pass has
no listing and concludes nothing about any machine.

Steps that need only the database (the end of a lease, a destroy, a stop) do not wait for a listing: `due` performs them
on time.
"""

import asyncio
import contextvars
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog

from gpuproxy.model.errors import ClaimLost, OrphansFound, ProviderError, Unavailable, UnreadableRows
from gpuproxy.model.labelling import label_of
from gpuproxy.model.labels import Signer
from gpuproxy.model.lease_events import Release
from gpuproxy.model.leases import Lease, LeaseId, LeaseKind, LeaseState
from gpuproxy.model.money import Micro
from gpuproxy.model.reasons import Reason
from gpuproxy.outcomes.sweep import Sightings, Stray, strays
from gpuproxy.ports import Clock, Database, ListedInstance, Probe, Provider, Tx
from gpuproxy.reconcile import booked, idleness, urgency, utilisation
from gpuproxy.reconcile.account_identity import AccountIdentity
from gpuproxy.reconcile.decided import Decided
from gpuproxy.reconcile.doubts import Doubt, Probes, after_listing
from gpuproxy.reconcile.effects import Effect, Effects
from gpuproxy.reconcile.labels import plain
from gpuproxy.reconcile.listings import Listing
from gpuproxy.reconcile.orphans import warn_of_orphans
from gpuproxy.reconcile.passes import Passes
from gpuproxy.reconcile.plan import plan, ready_is_overdue
from gpuproxy.reconcile.silence import ListingGap, Silence
from gpuproxy.reconcile.steps import Advance, Destroy, Scene
from gpuproxy.reconcile.ways_in import can_be_probed
from gpuproxy.reconcile.writing import by_label, mark, write_all
from gpuproxy.runtime.background import Background
from gpuproxy.runtime.claims import HeldClaim
from gpuproxy.runtime.lateness import Lateness
from gpuproxy.runtime.limits import Limits
from gpuproxy.store import account_problems, bookings, claims, leases, listed, owners
from gpuproxy.store.claims import Claim

log = structlog.get_logger(__name__)

_NEVER = datetime.min.replace(tzinfo=UTC)
_NOTHING_DUE = 3600.0
_STANDSTILL = timedelta(seconds=60)
_WITHOUT_VOLUMES = 1800.0
"""Seconds between two listings of an account's volumes while none is leased."""


class AccountWatch:
    """Reconciles every lease of one account."""

    def __init__(
        self,
        provider: Provider,
        db: Database,
        *,
        clock: Clock,
        probe: Probe,
        signer: Signer,
        claim: HeldClaim,
        limits: Limits,
        probes: Probes,
        lateness: Lateness,
        check_key: str = "",
        kind: LeaseKind = "machine",
    ) -> None:
        """Nothing is planned or sent without the `claim`. With `check_key`, a public key, SSH must let this key in.

        For the leases of volumes (`kind`), `provider` is a VolumeSide.
        """
        self.provider, self.claim = provider, claim
        self._fence: int | None = None
        self._key = (provider.name, provider.account)
        self._kind = kind
        self._db, self._clock = db, clock
        self._signer, self._limits = signer, limits
        self._probes, self._check_key = probes, check_key
        self._doubts: Mapping[LeaseId, Doubt] = {}
        self._idle: Mapping[LeaseId, datetime] = {}  # as in Decided
        self._effects = Effects(
            provider, db, clock=clock, probe=probe, limits=limits, probes=probes, signer=signer, changed=self.nudge,
            sure_of_key=lambda: self._identity.is_known or self._looked_at > _NEVER, has=claim.has, kind=kind,
        )  # fmt: skip
        self._passes = Background("pass")
        self._current: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None
        self._nudged = asyncio.Event()
        self.live: tuple[Lease, ...] = ()
        """The leases that were live at the end of the last pass."""
        self.vouched: Callable[[], bool] = lambda: False
        """Whether the other listing of the account confirms one that shows nothing known (see vouching.py)."""
        self.mounted: Callable[[], frozenset[str]] = frozenset
        """The volumes that running machines of the account mount, for the watch of its volumes."""
        self._sightings = Sightings()
        self._credit: tuple[Micro, datetime] | None = None
        """The last reading of the account's credit, and since when it has been the same."""
        self._identity = AccountIdentity(provider, db, kind)
        self.listing: Listing | None = None
        """What the last pass listed; None if the provider did not answer."""
        self.utils: Mapping[str, float] = {}
        """By instance: the GPU utilisation that the supervisor, maybe another process, has told of."""
        self.trouble: ProviderError | None = None  # why the last listing failed
        self._since = clock.now()
        self._asked = self._sent = self._seen = -math.inf
        """Readings of Clock.monotonic(): of the last call of `look`, the last listing sent, and the last one stored."""
        self._looked_at = _NEVER
        """When the last listing began whose conclusions are stored."""
        self.last_pass_at: datetime | None = None
        self.silent_since: datetime | None = None
        self.silence, self.passes, self.gap = Silence(self._key, clock, lateness), Passes(), ListingGap(clock)

    def nudge(self) -> None:
        """Make the next pass begin soon, because something changed."""
        self._nudged.set()

    async def look(self) -> None:
        """Return after a pass whose listing was sent after this call; callers share passes."""
        self._asked = self._clock.monotonic()
        if self._next is None:
            # In a context of its own, so that its log lines don't carry the trace id of the call that waits for it.
            self._next = self._passes.start(self._pass_after(self._current), context=contextvars.Context())
        await asyncio.shield(self._next)

    async def look_quietly(self) -> None:
        """As `look`, for who can do without the result."""
        with suppress(Unavailable):
            await self.look()

    async def step(self) -> None:
        """One pass and all of its outside effects."""
        await self.look()
        await self._effects.done()

    async def due(self) -> float:
        """Perform the steps that need only the database and are due. Returns the seconds until the next one."""
        if (claim := self.claim.claim) is None:
            return self._limits.poll_seconds
        decided = await self._db.read(lambda tx: self._decide(tx, None, credit_unchanged=False))
        if any(not isinstance(step, Effect) for step in decided.steps):
            try:
                decided = await self._db.write(
                    lambda tx: self._written(tx, self._decide(tx, None, credit_unchanged=False), claim)
                )
            except Unavailable:
                self._continue_destroys(decided, claim)
                raise
            except ClaimLost:
                self.claim.lose()
                return self._limits.poll_seconds
        self._effects.start_all(decided.steps, claim)
        if not self._db.exclusive and len(decided.live) > len(self.live):
            self.nudge()  # another process has rented: nothing else tells this one
        ends = urgency.all_due_at(decided.live, self._limits.ending_soon_seconds)
        times = [(at - self._clock.now()).total_seconds() for at in (*ends, *decided.bookings_due)]
        # A step that is already due is running or has failed, so it is checked again soon.
        return min((wait if wait > 0 else self._limits.poll_seconds for wait in times), default=_NOTHING_DUE)

    async def listed_since(self, at: datetime) -> bool:
        """Whether a listing that began at or after `at` succeeded and its conclusions are stored. Makes one pass.

        If another process supervises the account, its listings count.
        """
        with suppress(Unavailable):
            await self.look()
        if self.claim.claim is None:
            ago = self._clock.now() - at
            return await self._db.read(lambda tx: listed.last_began(tx, self._key) >= tx.now() - ago)
        return self._looked_at >= at

    async def has_leases(self) -> bool:
        """Whether a lease of the account is live."""
        return bool(await self._db.read(lambda tx: leases.live(tx, *self._key, self._kind)))

    async def preview(self) -> Decided:
        """What a pass would do now. Nothing is written, and only reads are sent."""
        listing = await self._listing()
        credit_unchanged = await self._credit_unchanged(listing)
        return await self._db.read(lambda tx: self._decide(tx, listing, credit_unchanged=credit_unchanged))

    async def wait(self) -> None:
        """Return when the next pass is due: soon while something is changing, otherwise at the slow interval."""
        await self._sleep(self._limits.poll_seconds)
        if not self._is_changing():
            rarely = self._kind == "volume" and not self.live  # only strays could be there
            idle = _WITHOUT_VOLUMES if rarely else self._limits.reconcile_seconds
            await self._sleep(idle - self._limits.poll_seconds)
        self._nudged.clear()

    async def close(self) -> None:
        """Cancel passes and effects. The database has what is left to do."""
        tasks = [task for task in (self._current, self._next) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._effects.close()

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with self._clock.timeout(seconds):
                await self._nudged.wait()

    def _is_changing(self) -> bool:
        now = self._clock.now()
        fresh = now - timedelta(seconds=self._limits.unknown_fresh)
        return any(urgency.about_to_change(lease, fresh, now) for lease in self.live)

    async def _pass_after(self, earlier: asyncio.Task[None] | None) -> None:
        if earlier is not None and not earlier.done():
            await asyncio.wait([earlier])
        self._current, self._next = self._next, None
        # The earlier pass may have waited long for its turn, so that its listing shows what this one is to show.
        if self._seen <= self._asked:
            await self._pass()

    async def _pass(self) -> None:
        if (claim := self.claim.claim) is None:  # another process supervises the account
            self.live, self.last_pass_at, self.listing, self.silent_since = (), self._clock.now(), None, None
            self.utils = await self._db.read(lambda tx: utilisation.told(tx, self._key))
            return
        await self._begin_under(claim)
        began = self._clock.now()
        listing = self.listing = await self._listing()
        credit_unchanged = await self._credit_unchanged(listing)
        try:
            decided = await self._db.write(lambda tx: self._apply(tx, listing, claim, credit_unchanged))
        except Unavailable:
            planned = await self._db.read(lambda tx: self._decide(tx, listing, credit_unchanged=False))
            self._continue_destroys(planned, claim)
            raise
        except ClaimLost:
            self.claim.lose()
            return
        if new := sorted(set(decided.sightings.orphans or ()) - set(self._sightings.orphans or ())):
            warn_of_orphans(self._key, new, self._kind)
        self.live, self._sightings, self._doubts = decided.live, decided.sightings, decided.doubts
        self._idle = decided.idle
        self.last_pass_at = self._clock.now()
        self.passes.note(began, self.last_pass_at, listing, decided)
        if self._kind == "machine":
            self._probes.keep(self._key, {lease.id for lease in decided.live})
        missing = {lease.id for lease in decided.live if listing is None or listing.shown(lease) is None}
        self._effects.forget(missing, {lease.id for lease in decided.live})
        if listing is not None:
            self._looked_at, self._seen = listing.began_at, self._sent
        self._effects.start_all(decided.steps, claim)
        self._release(decided.strays, claim)

    async def _begin_under(self, claim: Claim) -> None:
        """Forget what was seen before another process took over. What that one has listed counts for the gaps."""
        if self._fence not in (None, claim.fence):
            self._since, self._sightings, self._doubts, self._credit = self._clock.now(), Sightings(), {}, None
            self._idle = {}
            self._effects.forget_reads()
        if self._fence != claim.fence and not self._db.exclusive:
            self.gap.last(await self._db.read(lambda tx: listed.last_began(tx, self._key)))
        self._fence = claim.fence

    def _continue_destroys(self, decided: Decided, claim: Claim) -> None:
        """Destroy machines that are being released or whose lease has ended, even if the database can't be written."""
        for step in decided.steps:
            over = isinstance(step, Advance) and isinstance(step.event, Release) and step.event.reason == Reason.EXPIRED
            if isinstance(step, Destroy) or (over and step.lease.instance_id is not None):
                self._effects.start(Destroy(step.lease), claim)

    def _release(self, found: Sequence[Stray], claim: Claim) -> None:
        for stray in found:
            if self._kind == "machine" or stray.kind != "orphan":  # a volume may have data that somebody needs
                self._effects.release_stray(stray, claim)

    async def _listing(self) -> Listing | None:
        began, began_at, silent = self._clock.now(), self._clock.monotonic(), self.silent_since is not None
        try:
            doubtful = await self._identity.doubt()
            found = await self.provider.list()
            instances = [plain(instance, self._signer) for instance in found.instances]
            if doubtful is not None:
                await self._identity.vouch(replace(found, instances=instances), doubtful)
        except ProviderError as error:
            self.trouble = error
            if self.silent_since is None:
                self.silent_since = began
            self.silence.failed(error, self.silent_since)
            return None
        if self.silent_since is not None:
            self.silence.ended(self.silent_since)
            self.silent_since = None
        self.trouble = None
        self.gap.listed(began)
        read = tuple(self._effects.read)
        self._effects.read.clear()
        self._sent = began_at if found.sent_at is None else found.sent_at
        return Listing(began + timedelta(seconds=self._sent - began_at), instances, found.unreadable, read, silent)

    async def _credit_unchanged(self, listing: Listing | None) -> bool:
        """Whether the account's credit has been the same for a minute. Read only while an outcome is unknown.

        A machine that runs unseen costs money, so an unchanged credit means that none does. So does the other listing
        of the account, where the cost of what it shows changes the credit.
        """
        open_outcome = any(lease.outcome_unknown or urgency.stuck(lease) for lease in self.live)
        if listing is None or not open_outcome:
            self._credit = None
            return False
        if self.vouched():
            return True
        if "credit" in self.provider.capabilities.missing:
            return False
        before, now = self._credit, self._clock.now()
        try:
            credit = (await self.provider.spend()).credit
        except ProviderError:
            self._credit = None
            return False
        since = before[1] if before is not None and before[0] == credit else now
        self._credit = credit, since
        return now - since >= _STANDSTILL

    def _apply(self, tx: Tx, listing: Listing | None, claim: Claim, credit_unchanged: bool) -> Decided:
        claims.ahead(tx, claim)
        decided = self._written(tx, self._decide(tx, listing, credit_unchanged=credit_unchanged), claim)
        self._identity.note(tx)
        if self._kind == "volume":  # the account's problems are those of its machines
            return decided
        if listing is not None:
            began_at = tx.now() - (self._clock.now() - listing.began_at)
            mark(tx, self._key, began_at, decided.live, rarely=self._db.exclusive)
            if not self._db.exclusive:
                tx.after_commit(partial(setattr, self, "utils", utilisation.tell(tx, self._key, listing, self.utils)))
        trouble = self.trouble
        if trouble is None and listing is not None and listing.unreadable:
            trouble = UnreadableRows("; ".join(listing.unreadable))
        if trouble is None:
            account_problems.clear_after_listing(tx, self._key)
        else:
            account_problems.record(tx, self._key, trouble, None)
            self.silence.tell(tx, trouble, self.silent_since)
        if decided.sightings.orphans:
            found = OrphansFound(", ".join(sorted(decided.sightings.orphans)))
            account_problems.record(tx, self._key, found, timedelta(seconds=3 * self._limits.reconcile_seconds))
        return decided

    def _written(self, tx: Tx, decided: Decided, claim: Claim) -> Decided:
        """The decision with its steps written to the database. Raises ClaimLost."""
        claims.require(tx, claim)
        write_all(tx, decided.steps, decided.live)
        return replace(decided, live=leases.live(tx, *self._key, self._kind)) if decided.steps else decided

    def _decide(self, tx: Tx, listing: Listing | None, *, credit_unchanged: bool) -> Decided:
        listed.ahead(tx, self._key)
        rows = leases.live(tx, *self._key, self._kind)
        owned_by = owners.of_all(tx, rows)
        doubts, idle = self._doubts, self._idle

        def late(lease: Lease, instance: ListedInstance, listing: Listing) -> bool:
            overdue = ready_is_overdue(lease, owned_by[lease.owner_id], listing)
            return overdue and not can_be_probed(lease, instance, self.provider.capabilities)

        if listing is not None:
            doubts = after_listing(doubts, rows, listing, lambda lease, instance: late(lease, instance, listing))
            before = max(self._looked_at, listed.last_began(tx, self._key))
            idle = idleness.after_listing(idle, rows, listing, before, self._limits)
        scene = Scene(
            leases=rows,
            owners=owned_by,
            listing=listing,
            now=tx.now(),
            capabilities=self.provider.capabilities,
            limits=self._limits,
            since=self._since,
            doubts=doubts,
            idle=idle,
            unanswered=self._probes.unanswered,
            extensions=bookings.open_extensions(tx, self._key) if any(row.is_prepaid for row in rows) else {},
            credit_unchanged=credit_unchanged,
            vouched=self.vouched(),
            mounted=self.mounted(),
            label_of=partial(label_of, signer=self._signer),
            check_key=self._check_key,
        )
        due = tuple(at for lease in rows if (at := booked.due_at(lease, scene)) is not None)
        if listing is None:
            return Decided(tuple(plan(scene)), (), rows, self._sightings, doubts, idle, due)
        ours = [i.label for i in listing.instances if i.label is not None and self._signer.is_ours(i.label)]
        known = by_label(tx, ours, rows)
        if self._kind == "volume":  # one that is back was not released by us, so nobody may delete it
            known = {label: lease for label, lease in known.items() if lease.state is not LeaseState.LOST}
        found, sightings = strays(listing.instances, known, self._signer.is_ours, self._sightings, tx.now())
        return Decided(tuple(plan(scene)), tuple(found), rows, sightings, doubts, idle, due)
