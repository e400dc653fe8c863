"""From a order to offers: ask the catalog, leave out what can't be had, let the balancer choose.

Choosing and writing the intent happen under one lock of the process (`Chooser.lock`), so that two calls never plan
with the same GPUs.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from gpuproxy.catalog.refresh import Catalog, Market, Selection
from gpuproxy.loadbalancer import breaker
from gpuproxy.loadbalancer.balancer import Choice, Shortage, Want, choose, reach
from gpuproxy.loadbalancer.learnt import Learnt
from gpuproxy.loadbalancer.refusals import account_paused, not_enough
from gpuproxy.model.demands import Order
from gpuproxy.model.errors import FailedPrecondition, NotSupported
from gpuproxy.model.load import HostLoad, Rotation
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import AccountKey, HostKey, Offer, ProviderName
from gpuproxy.model.reservations import Decision
from gpuproxy.model.strategies import STRATEGIES
from gpuproxy.outcomes.answers import no_account
from gpuproxy.ports import Capabilities, Database, Tx
from gpuproxy.runtime.accounts import Accounts
from gpuproxy.runtime.limits import Limits
from gpuproxy.store import account_problems, counters, exhausted, leases, rotations
from gpuproxy.store.account_problems import AccountProblem

_LOOKED_THROUGH = 4_000
"""Offers, the cheapest ones, for a price that would do: a refusal must not stop the loop for long."""
Terms = Mapping[ProviderName, Mapping[str, Capabilities]]
"""The accounts that may be used, in the order in which they were configured."""
Held = frozenset[tuple[ProviderName, str]]
Loads = Mapping[HostKey, HostLoad]


class Chooser:
    """Picks offers for calls."""

    def __init__(self, catalog: Catalog, accounts: Accounts, db: Database, limits: Limits) -> None:
        self._catalog = catalog
        self._accounts = accounts
        self._db = db
        self._limits = limits
        self.lock = asyncio.Lock()

    def terms(self, order: Order, learnt: Learnt) -> Terms:
        """The accounts that this call may still use, by provider."""
        terms: dict[ProviderName, dict[str, Capabilities]] = {}
        for provider in self._accounts:
            key = provider.name, provider.account
            usable_now = provider.name not in learnt.providers and key not in learnt.accounts
            asked = not order.filter.providers or provider.name in order.filter.providers
            if usable_now and asked and not _lacks(provider.capabilities, order):
                terms.setdefault(provider.name, {})[provider.account] = provider.capabilities
        return terms

    def check(self, order: Order) -> None:
        """Refuse what no provider asked for can do, before anyone is contacted."""
        if self.terms(order, Learnt()):
            return
        asked = [p for p in self._accounts if not order.filter.providers or p.name in order.filter.providers]
        reasons = {
            p.name: f"{what}: {p.capabilities.missing[what]}" for p in asked for what in _lacks(p.capabilities, order)
        }
        if not reasons:
            raise no_account(order.filter.providers)
        told = "; ".join(f"{name} can't do {reason}" for name, reason in reasons.items())
        raise FailedPrecondition(f"{told}. Nothing was rented.", reason=NotSupported.reason)

    async def refresh(self, order: Order, deadline: float) -> None:
        """Ask the marketplaces whose snapshots are not whole; called without the lock, for it takes a while."""
        await self._catalog.targeted(order.filter, deadline)

    async def choose(self, order: Order, gpus: int, strategy: str, learnt: Learnt) -> Choice:
        """Offers for exactly `gpus` GPUs, or, in a first choice with a min_count, as many as there are.

        Raises FailedPrecondition (NOT_ENOUGH_GPUS, or why every account is paused) and Unavailable. Called with the
        lock held, when an intent follows.
        """
        market = await self._catalog.market(order.filter)
        terms = self.terms(order, learnt)
        known = await self._db.read(lambda tx: _known(tx, terms, self._limits, strategy))
        if known.paused:
            terms = _without(terms, known.paused)
            if not terms:
                raise account_paused(next(iter(known.paused.values())))
        stormy = {each.provider for each in known.storms}
        terms = {name: accounts for name, accounts in terms.items() if name not in stormy}
        if known.storms and not terms:
            raise breaker.refusal_of(known.storms)
        selection = market.select(order.filter)
        free = _free(selection.offers, terms, known.held, learnt)
        ranking = _Ranking(
            Want(count=gpus, packing=order.packing, disk_gb=order.filter.disk_gb),
            [offer for offer in free if not known.exhausted(offer)],
            known,
            strategy,
        )
        try:
            choice = ranking.choose(order.least)
        except Shortage as shortage:
            dearer = _free(market.select(order.filter.at_any_price()).offers, terms, known.held, learnt)
            dearer = [offer for offer in dearer if not known.exhausted(offer)]
            nearest = _nearest(ranking.want, min(order.least, gpus), dearer)
            raise not_enough(order, shortage, market.unreachable, nearest, selection.rejected) from shortage
        used_up = len(free) - len(ranking.offers)
        return replace(
            choice,
            decision=_complete(choice.decision, selection, used_up),
            rotation=_still_there(choice.rotation, strategy, market),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What the books say that a choice goes by."""

    held: Held
    loads: Loads
    storms: tuple[breaker.Storm, ...]
    paused: Mapping[AccountKey, AccountProblem]
    exhausted: Callable[[Offer], bool]
    rotation: Rotation


def _known(tx: Tx, terms: Terms, limits: Limits, strategy: str) -> _Known:
    paused = account_problems.paused(tx)
    return _Known(
        held=leases.held_keys(tx),
        loads=counters.loads(tx),
        storms=breaker.storms(tx, terms, limits),
        paused={key: why for key, why in paused.items() if key[1] in terms.get(key[0], {})},
        exhausted=exhausted.rule(tx),
        rotation=rotations.read(tx, strategy),
    )


@dataclass(frozen=True, slots=True)
class _Ranking:
    """One choice: without the hosts that are ejected, as long as that costs nobody a machine."""

    want: Want
    offers: Sequence[Offer]
    known: _Known
    strategy: str

    def choose(self, least: int) -> Choice:
        """Raises Shortage when not even `least` GPUs can be had with every host."""
        ejected = {host for host, load in self.known.loads.items() if load.ejected_until is not None}
        out, kept = ejection(self.offers, ejected)
        notes = [f"ejected, but taken all the same: {', '.join(sorted(kept))}"] if kept else []
        if out:
            try:
                choice = self._choose(self.want, [offer for offer in self.offers if offer.host not in out])
            except Shortage:
                notes = [f"ejected, but nothing else would do: {', '.join(sorted(out | kept))}"]
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


def ejection(offers: Sequence[Offer], ejected: Collection[HostKey]) -> tuple[set[HostKey], set[HostKey]]:
    """Of the ejected hosts with offers, those that are left out, and those that are not.

    They stay where more than half of the hosts of their marketplace would go.
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
    """A pause is no lesson of the call's: it may be over before the next round."""
    left = {
        name: {account: what for account, what in accounts.items() if (name, account) not in paused}
        for name, accounts in terms.items()
    }
    return {name: accounts for name, accounts in left.items() if accounts}


def _complete(decision: Decision, selection: Selection, used_up: int) -> Decision:
    """With what was turned away before the choice."""
    rejected = dict(selection.rejected)
    considered = selection.total + sum(rejected.values())
    rejected |= dict(decision.rejected) | ({"no_capacity": used_up} if used_up else {})
    return replace(decision, considered=considered, rejected=tuple(sorted(rejected.items())))


def _still_there(rotation: Rotation, strategy: str, market: Market) -> Rotation:
    """Without the standing of hosts that have left the market: who comes back starts anew."""
    if not STRATEGIES[strategy].weighted:
        return rotation
    hosts = market.hosts
    return replace(rotation, standing={host: value for host, value in rotation.standing.items() if host in hosts})


def _free(offers: Sequence[Offer], terms: Terms, held: Held, learnt: Learnt) -> list[Offer]:
    """What some account may rent, and nobody holds."""
    return [
        offer
        for offer in offers
        if terms.get(offer.provider)
        and offer.id not in learnt.offers
        and offer.host not in learnt.hosts
        and not any((offer.provider, key) in held for key in offer.conflict_keys)
    ]


def _nearest(want: Want, least: int, offers: Sequence[Offer]) -> Micro | None:
    """The lowest limit per GPU-hour at which `least` GPUs could be chosen; None where there is none, or none soon.

    `offers` in the order of their price per GPU.
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
    """What the request needs and the provider can't do. A default is not a order."""
    spec = order.spec
    needs = {
        "custom_image": "image" in spec.demanded,
        "ports": bool(spec.ports),
        "registry_auth": spec.registry_auth is not None,
        "jupyter": spec.run_mode == "jupyter",
        "entrypoint": spec.run_mode == "entrypoint",
    }
    return [name for name, needed in needs.items() if needed and name in capabilities.missing]
