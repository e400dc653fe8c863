"""From an order to offers: ask the catalog, leave out what can't be rented, let the balancer choose.

Choosing and writing the intent happen under one lock of the process (`Chooser.lock`), so that two calls never choose
the same GPUs.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from gpuproxy.catalog.market import Market
from gpuproxy.catalog.refresh import Catalog
from gpuproxy.catalog.snapshot import Selection
from gpuproxy.loadbalancer import breaker, groups, one_host
from gpuproxy.loadbalancer.balancer import Choice, Shortage, Want, choose, reach
from gpuproxy.loadbalancer.exclusions import Exclusions
from gpuproxy.loadbalancer.refusals import Seen, account_paused, not_enough
from gpuproxy.model.demands import Order
from gpuproxy.model.errors import FailedPrecondition, InvalidArgument, NotSupported
from gpuproxy.model.groups import ANY_GROUP, Group
from gpuproxy.model.load import HostLoad, Rotation
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import AccountKey, HostKey, Offer, OfferFilter, ProviderName
from gpuproxy.model.reservations import Decision
from gpuproxy.model.strategies import STRATEGIES
from gpuproxy.outcomes.answers import no_account
from gpuproxy.ports import Capabilities, Database, Tx
from gpuproxy.runtime.accounts import Accounts
from gpuproxy.runtime.limits import Limits
from gpuproxy.runtime.regions import Regions
from gpuproxy.store import account_problems, counters, exhausted, leases, rotations
from gpuproxy.store.account_problems import AccountProblem

_LOOKED_THROUGH = 4_000
"""How many of the cheapest offers are searched for a price limit that would do: a refusal must not block the loop."""
Terms = Mapping[ProviderName, Mapping[str, Capabilities]]
"""The accounts that may be used, by provider, in the order of the configuration."""
LockedKeys = frozenset[tuple[ProviderName, str]]
Loads = Mapping[HostKey, HostLoad]


class Chooser:
    """Chooses offers for rentals."""

    def __init__(self, catalog: Catalog, accounts: Accounts, db: Database, limits: Limits) -> None:
        self._catalog = catalog
        self._accounts = accounts
        self._db = db
        self._limits = limits
        self.lock = asyncio.Lock()

    def terms(self, order: Order, exclusions: Exclusions) -> Terms:
        """The accounts that this rental may still use, by provider."""
        terms: dict[ProviderName, dict[str, Capabilities]] = {}
        for provider in self._accounts.usable():
            key = provider.name, provider.account
            usable_now = provider.name not in exclusions.providers and key not in exclusions.accounts
            asked = not order.filter.providers or provider.name in order.filter.providers
            able = usable_now and asked and not _lacks(provider.capabilities, order)
            if able and not provider.check_launch(order.spec):
                terms.setdefault(provider.name, {})[provider.account] = provider.capabilities
        return terms

    def check(self, order: Order) -> None:
        """Refuse an order that no provider asked for can fulfil, before any provider is contacted.

        Raises InvalidArgument if all that could fulfil it object to its launch, and FailedPrecondition otherwise.
        """
        if self.terms(order, Exclusions()):
            return
        usable = self._accounts.usable()
        asked = [p for p in usable if not order.filter.providers or p.name in order.filter.providers]
        objections = [
            violation
            for provider in asked
            if not _lacks(provider.capabilities, order)
            for violation in provider.check_launch(order.spec)
        ]
        if objections:
            raise InvalidArgument(tuple(dict.fromkeys(objections)))
        reasons = {
            p.name: f"{what}: {p.capabilities.missing[what]}" for p in asked for what in _lacks(p.capabilities, order)
        }
        if not reasons:
            raise no_account(order.filter.providers)
        text = "; ".join(f"{name} can't do {reason}" for name, reason in reasons.items())
        raise FailedPrecondition(f"{text}. Nothing was rented.", reason=NotSupported.reason)

    def _concerning(self, wanted: OfferFilter, terms: Terms) -> OfferFilter:
        """The filter without marketplaces that can't be used: what they know or fail to say changes nothing."""
        asked = wanted.providers or {provider.name for provider in self._accounts.usable()}
        return wanted if not terms or terms.keys() >= asked else replace(wanted, providers=frozenset(terms))

    async def refresh(self, order: Order, deadline: float, until: datetime) -> None:
        """Search the marketplaces whose snapshots are incomplete. Call it without the lock: it takes a while."""
        await self._catalog.targeted(order.filter, deadline, until=until, alike=order.alike)

    async def survey(self, order: Order, strategy: str, exclusions: Exclusions) -> "Survey":
        """What a choice is made from. Raises Unavailable when no marketplace can be read."""
        allowed = self.terms(order, exclusions)
        market = await self._catalog.market(self._concerning(order.filter, allowed))
        known = await self._db.read(lambda tx: _known(tx, allowed, self._limits, strategy, self._rests))
        unpaused = _without(allowed, known.paused) if known.paused else allowed
        terms = _without(unpaused, {each.account for each in known.open_breakers})
        return Survey(market=market, known=known, unpaused=unpaused, terms=terms, regions=self._accounts.regions)

    async def choose(
        self,
        order: Order,
        gpus: int,
        strategy: str,
        exclusions: Exclusions,
        *,
        until: datetime,
        group: Group = ANY_GROUP,
        first: bool = True,
    ) -> Choice:
        """Offers for exactly `gpus` GPUs or, in a first choice with a min_count, for as many as there are.

        The offers last until `until`, and are all of `group`, if it is given. Only the `first` choice of a rental is
        shown, so only its decision says what one host would cost. If an intent follows, hold the lock.
        Raises FailedPrecondition (NOT_ENOUGH_GPUS, or the reason why every account is paused) and Unavailable.
        """
        survey = await self.survey(order, strategy, exclusions)
        survey.require_account()
        market, known = survey.market, survey.known

        def free(selection: Selection) -> list[Offer]:
            return survey.free(selection.offers, exclusions)

        def capable(offers: Sequence[Offer]) -> list[Offer]:
            return [offer for offer in offers if not known.exhausted(offer)]

        selection = market.select(order.filter, until)
        offered = free(selection)
        want = Want(count=gpus, packing=order.packing, disk_gb=order.filter.disk_gb)
        ranking = _Ranking(want, capable(offered), known, strategy)
        try:
            choice = _choice(ranking, order, group)
        except Shortage as shortage:
            dearer = capable(free(market.select(order.filter.at_any_price(), until)))
            nearest = _nearest_of(want, min(order.least, gpus), dearer, order, group)
            raise not_enough(order, shortage, selection.rejected, _seen(market, order, until), nearest) from shortage
        if first:
            choice = _noted(choice, ranking, order)
        used_up = len(offered) - len(ranking.offers)
        return replace(
            choice,
            decision=_complete(choice.decision, selection, used_up),
            rotation=_still_there(choice.rotation, strategy, market),
        )

    def _rests(self, account: AccountKey) -> float | None:
        return breaker.rests(self._accounts.circuit(account))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What a choice needs from the database."""

    locked_keys: LockedKeys
    loads: Loads
    open_breakers: tuple[breaker.OpenBreaker, ...]
    paused: Mapping[AccountKey, AccountProblem]
    exhausted: Callable[[Offer], bool]
    rotation: Rotation

    @property
    def ejected(self) -> set[HostKey]:
        """All hosts that are ejected now."""
        return {host for host, load in self.loads.items() if load.ejected_until is not None}


def _known(tx: Tx, terms: Terms, limits: Limits, strategy: str, rests: Callable[[AccountKey], float | None]) -> _Known:
    paused = account_problems.paused(tx)
    return _Known(
        locked_keys=leases.locked_keys(tx),
        loads=counters.loads(tx),
        open_breakers=breaker.open_breakers(tx, terms, limits, rests),
        paused={key: why for key, why in paused.items() if key[1] in terms.get(key[0], {})},
        exhausted=exhausted.rule(tx),
        rotation=rotations.read(tx, strategy),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What a choice is made from: the market, the accounts, and what the database knows."""

    market: Market
    known: "_Known"
    unpaused: Terms
    """The accounts that may be used and are not paused."""
    terms: Terms
    """Those of them whose circuit breaker is closed."""
    regions: Regions

    def require_account(self) -> None:
        """Raise the reason why no account can be used, if all are paused or have an open circuit breaker."""
        if self.known.paused and not self.unpaused:
            raise account_paused(next(iter(self.known.paused.values())))
        if self.known.open_breakers and not self.terms:
            raise breaker.refusal_of(self.known.open_breakers)

    def free(self, offers: Sequence[Offer], exclusions: Exclusions) -> list[Offer]:
        """The offers that an account may rent and that share no locked key."""
        return _free(offers, self.terms, self.known.locked_keys, exclusions, self.regions)


@dataclass(frozen=True, slots=True)
class _Ranking:
    """One choice. Ejected hosts are left out, unless there are not enough GPUs without them."""

    want: Want
    offers: Sequence[Offer]
    known: _Known
    strategy: str

    @property
    def ejected(self) -> set[HostKey]:
        """All hosts that are ejected now."""
        return self.known.ejected

    def choose(self, least: int) -> Choice:
        """Raises Shortage when even all hosts together have fewer than `least` GPUs."""
        out, kept = ejection(self.offers, self.ejected)
        notes = [f"ejected, but used: {', '.join(sorted(kept))}"] if kept else []
        if out:
            try:
                choice = self._choose(self.want, [offer for offer in self.offers if offer.host not in out])
            except Shortage:
                notes = [f"ejected, but used because nothing else fits: {', '.join(sorted(out | kept))}"]
            else:
                left_out = sum(offer.host in out for offer in self.offers)
                decision = replace(choice.decision, rejected=(("ejected", left_out),), notes=tuple(notes))
                return replace(choice, decision=decision)
        try:
            choice = self._choose(self.want, self.offers)
        except Shortage as shortage:
            if not least <= shortage.best < self.want.count:
                raise
            choice = self._choose(replace(self.want, count=shortage.best), self.offers)
        return replace(choice, decision=replace(choice.decision, notes=tuple(notes)))

    def _choose(self, want: Want, offers: Sequence[Offer]) -> Choice:
        return choose(want, offers, self.known.loads, self.strategy, self.known.rotation)


def _choice(ranking: _Ranking, order: Order, group: Group) -> Choice:
    if not order.alike:
        return ranking.choose(order.least)

    def within(offers: Sequence[Offer]) -> Choice:
        return replace(ranking, offers=offers).choose(order.least)

    try:
        return groups.choose(within, ranking.offers, order.alike, only=group)
    except groups.GroupShortage as shortage:
        least = min(order.least, ranking.want.count)
        shortage.enough_without = reach(replace(ranking.want, count=least), ranking.offers) >= least
        raise


def _noted(choice: Choice, ranking: _Ranking, order: Order) -> Choice:
    """The choice with what it is spread over, and with the price of one host out of the same offers."""

    def on_one_host(gpus: int) -> Choice:
        want = replace(ranking.want, count=gpus, packing="single_host")
        # How many ejected hosts are left out depends on all offers.
        offers = ranking.offers if ranking.ejected else one_host.large_enough(ranking.offers, gpus)
        return _choice(
            replace(ranking, want=want, offers=offers), replace(order, count=gpus, min_count=None), ANY_GROUP
        )

    return one_host.noted(choice, order.packing, on_one_host)


def _nearest_of(want: Want, least: int, offers: Sequence[Offer], order: Order, group: Group) -> Micro | None:
    """As `_nearest`; if all GPUs must be alike, the lowest limit of any group that may be used."""
    if not order.alike:
        return _nearest(want, least, offers)
    there = groups.usable(offers, order.alike, only=group).values()
    limits = [limit for own in there if (limit := _nearest(want, least, own)) is not None]
    return min(limits, default=None)


def _seen(market: Market, order: Order, until: datetime) -> Seen:
    """What a refusal says of the market."""
    named = market.offer(order.filter.offer_id) if order.filter.offer_id else None
    return Seen(
        silent=market.unreachable,
        truncated=market.truncated,
        models=market.models,
        named=None if named is None or named.lasts_until(until) else named,
        until=until,
    )


def ejection(offers: Sequence[Offer], ejected: Collection[HostKey]) -> tuple[set[HostKey], set[HostKey]]:
    """Divides the ejected hosts with offers into those that are left out and those that are kept.

    If more than half of a marketplace's hosts are ejected, none of its hosts is left out.
    """
    if not ejected:
        return set(), set()
    out: set[HostKey] = set()
    kept: set[HostKey] = set()
    for provider in {offer.provider for offer in offers}:
        there = {offer.host for offer in offers if offer.provider == provider}
        gone = there.intersection(ejected)
        (kept if 2 * len(gone) > len(there) else out).update(gone)
    return out, kept


def _without(terms: Terms, paused: Collection[AccountKey]) -> Terms:
    """The terms without paused accounts. Pauses are not added to the exclusions: they may end before the next round."""
    left = {
        name: {account: what for account, what in accounts.items() if (name, account) not in paused}
        for name, accounts in terms.items()
    }
    return {name: accounts for name, accounts in left.items() if accounts}


def _complete(decision: Decision, selection: Selection, used_up: int) -> Decision:
    """The decision with the offers that were rejected before the choice."""
    rejected = dict(selection.rejected)
    considered = selection.total + sum(rejected.values())
    rejected |= dict(decision.rejected) | ({"no_capacity": used_up} if used_up else {})
    return replace(decision, considered=considered, rejected=tuple(sorted(rejected.items())))


def _still_there(rotation: Rotation, strategy: str, market: Market) -> Rotation:
    """The rotation without hosts that have left the market. A host that returns starts from the beginning."""
    if not STRATEGIES[strategy].weighted:
        return rotation
    hosts = market.hosts
    return replace(rotation, standing={host: value for host, value in rotation.standing.items() if host in hosts})


def _free(
    offers: Sequence[Offer], terms: Terms, locked_keys: LockedKeys, exclusions: Exclusions, regions: Regions
) -> list[Offer]:
    """The offers that an account may rent and that share no locked key."""
    return [
        offer
        for offer in offers
        if (accounts := terms.get(offer.provider))
        and (not regions.matter(offer.provider) or regions.preferences(offer, accounts))
        and offer.id not in exclusions.offers
        and offer.host not in exclusions.hosts
        and not any((offer.provider, key) in locked_keys for key in offer.conflict_keys)
    ]


def _nearest(want: Want, least: int, offers: Sequence[Offer]) -> Micro | None:
    """The lowest price limit per GPU-hour at which `least` GPUs could be chosen; None if there is none.

    `offers` are in the order of their price per GPU. Only the first `_LOOKED_THROUGH` are searched.
    """
    ranked = offers[:_LOOKED_THROUGH]
    size = least
    while reach(want, ranked[:size]) < least:
        if size >= len(ranked):
            return None
        size *= 4
    enough = bisect_left(range(size + 1), least, key=lambda first: reach(want, ranked[:first]))
    return ranked[enough - 1].lowest_limit(want.disk_gb)


def _lacks(capabilities: Capabilities, order: Order) -> list[str]:
    """What the order needs and the provider can't do. A defaulted field is not a need."""
    spec = order.spec
    needs = {
        "custom_image": "image" in spec.demanded,
        "ports": bool(spec.ports),
        "registry_auth": spec.registry_auth is not None,
        "jupyter": spec.run_mode == "jupyter",
        "entrypoint": spec.run_mode == "entrypoint",
    }
    return [name for name, needed in needs.items() if needed and name in capabilities.missing]
