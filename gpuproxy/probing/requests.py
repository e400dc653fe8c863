"""The calls about probes: plan one, start it as a task of the server, read how it stands, and end it.

A probe is a call of its own that rents: its reservation is claimed by this process and not concluded before the probe
ends. Releasing the reservation ends the probe early. A probe whose process died is finished by recovery, which releases
everything; what it had measured is stored. The claim says, also to other servers, whether a probe runs.
"""

import asyncio
import contextvars
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta

import structlog

from gpuproxy.catalog.refresh import Catalog
from gpuproxy.instances.machines import Machines
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import (
    ClaimLost,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ProviderError,
    Unavailable,
    Violation,
)
from gpuproxy.model.leases import LIVE, Lease, ReservationId
from gpuproxy.model.money import Micro, dollars
from gpuproxy.model.offers import HIGHEST_PRICE, AccountKey, Offer, OfferFilter, ProviderName
from gpuproxy.model.probes import (
    QUANTITIES,
    WANTED_SECONDS,
    Measurement,
    Part,
    Probe,
    inapplicable,
    known,
    merged,
)
from gpuproxy.model.reasons import Reason
from gpuproxy.outcomes import conclusion
from gpuproxy.outcomes.answers import no_account
from gpuproxy.ports import Descriptor, Provider, Random, Tx
from gpuproxy.probing import budgets, ground
from gpuproxy.probing.ground import DISK_GB, VOLUME_GB, Ground
from gpuproxy.probing.measuring import Measuring, Stopped
from gpuproxy.probing.renting import NotRented, ProbeRenting, ledger
from gpuproxy.reconcile.watches import Watches
from gpuproxy.rental.rounds import RentalContext
from gpuproxy.runtime import fencing
from gpuproxy.runtime.background import Background
from gpuproxy.runtime.claims import Claims, reservation_claim
from gpuproxy.store import claims, leases, probes, reservations
from gpuproxy.store.probes import Probed

log = structlog.get_logger(__name__)

_POLL = 2.0
_REACH_ANOTHER = 1.0
_GONE = 900.0
"""How long a probe waits until everything is proven gone, in seconds. After that the server goes on alone."""
_MEASURES_FOR = timedelta(seconds=WANTED_SECONDS - 120)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a probe would do."""

    provider: Provider
    ground: Ground
    parts: tuple[Part, ...]


@dataclass(slots=True)
class _Running:
    """A probe of this process."""

    probe: Probe
    renting: ProbeRenting
    facts: tuple[Measurement, ...]


class Prober:
    """Probes the accounts of this server."""

    def __init__(  # noqa: PLR0917 - wired once
        self,
        context: RentalContext,
        catalog: Catalog,
        machines: Machines,
        claims: Claims,
        random: Random,
        volume_watches: Watches,
        marketplaces: Sequence[Descriptor],
    ) -> None:
        self._context = context
        self._catalog = catalog
        self._machines = machines
        self._claims = claims
        self._random = random
        self._volume_watches = volume_watches
        self._own_read: Mapping[str, str] = {each.name: each.own_read for each in marketplaces}
        self._running: dict[ReservationId, _Running] = {}
        self._tasks = Background("probe")
        self._draining = False

    async def plan(self, caller: Caller, provider: str, account: str, budget: Micro) -> Probe:
        """What a probe would rent now, and what it may cost at most. Nothing is written and nothing is rented.

        Raises InvalidArgument, FailedPrecondition (NO_ACCOUNT, NOT_ENOUGH_GPUS, BUDGET_EXCEEDED, QUOTA_EXCEEDED) and
        Unavailable.
        """
        return self._drafted(caller, await self._planned(caller, provider, account, budget), budget)

    async def start(self, caller: Caller, provider: str, account: str, budget: Micro) -> Probe:
        """Start a probe that costs at most `budget` and return it. Raises as `plan`, and PROBE_RUNNING."""
        if self._draining:
            raise Unavailable("The server is shutting down; nothing was rented.", reason=Reason.SHUTTING_DOWN)
        plan = await self._planned(caller, provider, account, budget)
        key = plan.provider.name, plan.provider.account
        if any(each.probe.account == key for each in self._running.values()):
            raise _is_probed(key)
        if not self._supervises(plan.provider):
            raise Unavailable(
                f"Another server supervises account {key[1]} of {key[0]}, and only that one probes it. Nothing was "
                "rented. Repeat the call, so that it reaches another server.",
                reason=Reason.UNAVAILABLE,
                retry_after=_REACH_ANOTHER,
            )
        now = self._context.clock.now()
        reservation = ledger(key, caller, plan.ground.first.num_gpus * 3, self._random, now)
        probe = replace(
            self._drafted(caller, plan, budget), reservation_id=reservation.id, state="running", doing="beginning",
            measurements=tuple(
                Measurement(name=name, outcome="not_applicable", unit=QUANTITIES[name].unit, why=why, at=now)
                for name, why in self._inapplicable(plan.provider).items()
            ),
        )  # fmt: skip
        renting = ProbeRenting(
            context=self._context, provider=plan.provider, reservation=reservation, budget=budget,
            claim=self._claims.of_reservation(reservation.id), stop=asyncio.Event(),
        )  # fmt: skip
        running = self._running[reservation.id] = _Running(probe, renting, ())
        try:
            running.facts = await self._context.db.read(lambda tx: probes.facts(tx, key))
            stored = Probed(last=running.probe, facts=running.facts)
            await renting.begin(before=lambda tx: self._require_none(tx, key), after=lambda tx: probes.save(tx, stored))
        except BaseException:
            del self._running[reservation.id]
            raise
        # In a context of its own, so that its log lines do not carry the trace id of the call.
        self._tasks.start(self._run(running, plan, caller), reservation.id, context=contextvars.Context())
        return running.probe

    async def last(self, provider: str, account: str) -> Probe:
        """The last probe of an account (""; the first one), running or not.

        Raises InvalidArgument, NotFound and NO_ACCOUNT.
        """
        key = self._account(provider, account)
        found, runs_elsewhere = await self._context.db.read(lambda tx: self._found(tx, (key.name, key.account)))
        if found is None:
            text = f"Account {key.account} of {key.name} was never probed. `gpuproxy probe {key.name}` does it."
            raise NotFound(text, metadata={"provider": key.name, "account": key.account})
        runs = runs_elsewhere or found.last.reservation_id in self._running
        if found.last.state in ("running", "releasing") and not runs:
            return replace(
                found.last, state="interrupted",
                doing="The server was stopped during the probe. Everything that it rented is released.",
            )  # fmt: skip
        return found.last

    def _found(self, tx: Tx, account: AccountKey) -> tuple[Probed | None, bool]:
        """What is stored of an account, and whether another server runs a probe of it."""
        found = probes.find(tx, account)
        if found is None or found.last.state not in ("running", "releasing"):
            return found, False
        owner = claims.owner_of(tx, reservation_claim(found.last.reservation_id))
        return found, owner not in ("", self._claims.owner)

    def _require_none(self, tx: Tx, account: AccountKey) -> None:
        """Raise FailedPrecondition (PROBE_RUNNING) if another server probes the account."""
        if self._found(tx, account)[1]:
            raise _is_probed(account)

    def is_running(self, reservation_id: ReservationId) -> bool:
        """Whether this process runs the probe of a reservation."""
        return reservation_id in self._running

    def stop(self, reservation_id: ReservationId) -> None:
        """End the probe of a reservation that is being released."""
        if (running := self._running.get(reservation_id)) is not None:
            running.renting.stop.set()

    async def drain(self, seconds: float) -> None:
        """Accept no new probes, end running ones, and wait for at most `seconds` real seconds."""
        self._draining = True
        for reservation_id in self._running:
            self.stop(reservation_id)
        await self._tasks.drain(seconds)

    async def close(self) -> None:
        """Cancel what is still running. The database has what is left to do."""
        await self._tasks.close()

    # -- planning

    async def _planned(self, caller: Caller, provider: str, account: str, budget: Micro) -> Plan:
        if budget <= 0:
            raise InvalidArgument([Violation("max_spend", "must be more than 0: a probe rents machines")])
        market = self._account(provider, account, supervised=True)
        able, hours = market.capabilities, self._context.limits.prepaid_hours
        offers = await self._offers(market)
        pairs = ground.cheapest_pairs(offers) if "stop_start" not in able.missing else {}
        space = []
        if pairs and "volumes" not in able.missing:
            try:
                space = list(await market.volume_offers(ground.hosts_to_ask(pairs), VOLUME_GB))
            except ProviderError as error:
                text = f"{market.name} did not answer: {error}. Nothing was rented."
                raise Unavailable(text, reason=error.reason) from error
        chosen = ground.choose(offers, pairs, space)
        if chosen is None:
            text = f"Nothing can be rented at {market.name} with account {market.account} now. Nothing was rented."
            raise FailedPrecondition(text, reason=Reason.NOT_ENOUGH_GPUS)
        parts = ground.parts(chosen, able, hours)
        most = Micro(sum(part.most for part in parts))
        if most > budget:
            raise FailedPrecondition(
                f"The probe could cost {dollars(most)} and max_spend is {dollars(budget)}. Nothing was rented.",
                reason=Reason.BUDGET_EXCEEDED,
                metadata={"needed": f"{most / 1_000_000:.6f}"},
            )
        await self._context.db.read(lambda tx: budgets.check(tx, caller, chosen, able, hours))
        return Plan(market, chosen, parts)

    def _account(self, provider: str, account: str, *, supervised: bool = False) -> Provider:
        """The account with this name, or the first one that suits creates best; of those `supervised` here, if any."""
        if provider not in self._own_read:
            text = f"must be one of {', '.join(sorted(self._own_read))}, not {provider[:40]!r}"
            raise InvalidArgument([Violation("provider", text)])
        own = [each for each in self._context.accounts.usable() if each.name == provider]
        if not own:
            raise no_account([ProviderName(provider)])
        if account:
            named = next((each for each in own if each.account == account), None)
            if named is None:
                names = ", ".join(each.account for each in own)
                text = f"{account} is no account of {provider}. There are: {names}"
                raise InvalidArgument([Violation("account", text)])
            return named
        if supervised:
            own = [each for each in own if self._supervises(each)] or own
        ranks = [(self._context.accounts.circuit((each.name, each.account)).rank(), each) for each in own]
        return min(ranks, key=lambda each: 9 if each[0] is None else each[0])[1]

    def _supervises(self, market: Provider) -> bool:
        """Whether this server reconciles the account, so that it sees at once what becomes of its machines."""
        return self._context.watches.at((market.name, market.account)).claim.is_held()

    async def _offers(self, market: Provider) -> list[Offer]:
        """What this account can rent now and no lease has, cheapest first. Raises Unavailable."""
        wanted = OfferFilter(
            providers=frozenset({market.name}), max_price=HIGHEST_PRICE, disk_gb=DISK_GB, verified_only=True
        )
        seen = await self._catalog.market(wanted)
        until = self._context.clock.now() + timedelta(seconds=WANTED_SECONDS)
        locked = await self._context.db.read(leases.locked_keys)
        regions, able = self._context.accounts.regions, {market.account: market.capabilities}
        found = [
            each for each in seen.select(wanted, until).offers
            if market.account in regions.preferences(each, able)
            and not any((each.provider, key) in locked for key in each.conflict_keys)
        ]  # fmt: skip
        return sorted(found, key=lambda each: (each.price(DISK_GB), each.id))

    def _drafted(self, caller: Caller, plan: Plan, budget: Micro) -> Probe:
        return Probe(
            account=(plan.provider.name, plan.provider.account), reservation_id=ReservationId(""),
            project=caller.project, state="planned", began_at=self._context.clock.now(), parts=plan.parts,
            budget=budget,
        )  # fmt: skip

    def _inapplicable(self, market: Provider) -> Mapping[str, str]:
        return inapplicable(market.capabilities.missing, has_own_key=bool(self._own_read.get(market.name)))

    # -- running

    async def _run(self, running: _Running, plan: Plan, caller: Caller) -> None:
        """Measure, release everything, and prove it gone. A crash of this is repaired by recovery."""
        renting = running.renting
        keeping = self._tasks.start(renting.claim.keep(renting.stop.set), "claim")
        measuring = Measuring(
            renting=renting, machines=self._machines, watch=self._context.watches.at(renting.account), caller=caller,
            ground=plan.ground, own_read=self._own_read.get(plan.provider.name, ""),
            inapplicable=self._inapplicable(plan.provider).keys(), until=running.probe.began_at + _MEASURES_FOR,
            record=lambda found: self._record(running, found), tell=lambda text: self._tell(running, text),
        )  # fmt: skip
        try:
            try:
                with fencing.under(renting.claim.is_held):
                    await measuring.run()
                ended = "Everything that can be measured was measured."
            except (Stopped, NotRented) as error:
                ended = f"The probe ended early: {error}."
            await self._release(running, measuring, ended)
        finally:
            keeping.cancel()
            self._running.pop(renting.reservation.id, None)

    async def _release(self, running: _Running, measuring: Measuring, ended: str) -> None:
        renting = running.renting
        await self._update(running, replace(running.probe, state="releasing", doing="releasing everything"))
        with suppress(ClaimLost):  # then another process has taken it over, and releases everything
            await renting.write(lambda tx: _conclude(tx, renting))
        self._context.watches.nudge()
        self._volume_watches.nudge()
        left = await self._proven_gone(running, measuring)
        for name in QUANTITIES:
            if not any(each.name == name for each in running.probe.measurements):
                await self._record(running, _unmeasured(name, ended, self._context))
        if left:
            ended += f" {len(left)} of its leases are not proven gone yet; the server goes on with them."
        now, spent = self._context.clock.now(), await self._context.db.read(lambda tx: _spent(tx, renting))
        done = replace(running.probe, state="finished", ended_at=now, spent=spent, doing=ended)
        await self._update(running, done)
        await renting.write(renting.claim.end)
        log.info("probe_finished", provider=done.account[0], account=done.account[1], spent_usd=spent / 1_000_000)

    async def _proven_gone(self, running: _Running, measuring: Measuring) -> Sequence[Lease]:
        """Wait until no lease is live. Returns those that are after `_GONE` seconds."""
        clock, reservation_id = self._context.clock, running.renting.reservation.id
        ends, first, gone_at = clock.now() + timedelta(seconds=_GONE), measuring.first, None
        while True:
            listing = await measuring.listing()
            rows = await self._context.db.read(lambda tx: leases.of_reservation(tx, reservation_id))
            own = next((each for each in rows if first is not None and each.id == first.id), None)
            if own is not None and own.pending.destroy_taken_at is not None and listing is not None:
                absent = listing.shown(own) is None and listing.began_at > own.pending.destroy_taken_at
                gone_at = (gone_at or clock.now()) if absent else None
            live = [each for each in rows if each.state in LIVE]
            if not live or clock.now() >= ends:
                break
            await clock.sleep(_POLL)
        if (
            own is not None
            and gone_at is not None
            and own.state not in LIVE
            and own.pending.destroy_taken_at is not None
        ):
            seconds = (gone_at - own.pending.destroy_taken_at).total_seconds()
            await self._record(running, _measured("destroy_to_gone", seconds, self._context))
        return live

    async def _record(self, running: _Running, found: Measurement) -> None:
        running.facts = known(running.facts, found)
        await self._update(running, replace(running.probe, measurements=merged(running.probe.measurements, found)))

    async def _tell(self, running: _Running, text: str) -> None:
        await self._update(running, replace(running.probe, doing=text))

    async def _update(self, running: _Running, probe: Probe) -> None:
        running.probe = probe
        await self._save(running)

    async def _save(self, running: _Running) -> None:
        stored = Probed(last=running.probe, facts=running.facts)
        await running.renting.write(lambda tx: probes.update(tx, stored))


def _measured(name: str, seconds: float, context: RentalContext) -> Measurement:
    return Measurement(name=name, outcome="measured", value=f"{seconds:.1f}", unit="s", at=context.clock.now())


def _unmeasured(name: str, why: str, context: RentalContext) -> Measurement:
    return Measurement(name=name, outcome="not_measured", unit=QUANTITIES[name].unit, why=why, at=context.clock.now())


def _is_probed(account: AccountKey) -> FailedPrecondition:
    return FailedPrecondition(
        f"Account {account[1]} of {account[0]} is being probed. Wait until that probe has ended.",
        reason=Reason.PROBE_RUNNING,
        metadata={"provider": account[0], "account": account[1]},
    )


def _conclude(tx: Tx, renting: ProbeRenting) -> None:
    """End the call and release everything. Raises ClaimLost if another process has taken it over."""
    renting.claim.renew(tx)
    reservation = reservations.get(tx, renting.reservation.id)
    if reservation.settled_at is None:
        conclusion.conclude(tx, reservation.id, gone=True)
    conclusion.close(tx, reservation.id, Reason.RELEASED)


def _spent(tx: Tx, renting: ProbeRenting) -> Micro:
    return Micro(sum(leases.costs(tx, leases.of_reservation(tx, renting.reservation.id))))
