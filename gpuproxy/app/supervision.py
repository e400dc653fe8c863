"""Wiring of what only one process does at a time: the watches of accounts, recovery, and the shares of lasting work."""

import math
from collections.abc import Sequence
from functools import partial

from gpuproxy.model.leases import ReservationId
from gpuproxy.ports import Clock, Database
from gpuproxy.probing.requests import Prober
from gpuproxy.reconcile import vouching
from gpuproxy.reconcile.observe import AccountWatch
from gpuproxy.reconcile.volumes import VolumeSide
from gpuproxy.reconcile.watches import Watches
from gpuproxy.rental.joins import Reserver
from gpuproxy.rental.recovery import Recovery
from gpuproxy.runtime.accounts import Accounts
from gpuproxy.runtime.claims import Claims, HeldClaim
from gpuproxy.runtime.exchange import Exchange
from gpuproxy.runtime.sharing import Sharing, Work
from gpuproxy.warmpool.supervisor import Supervisor


def watches_of(
    watch: "partial[AccountWatch]", accounts: Accounts, claims: Claims, clock: Clock
) -> tuple[Watches, Watches]:
    """The watches of the accounts' machines, and of their volumes. Both of an account work under one claim."""
    claimed = [(each, claims.of_account(each.name, each.account)) for each in accounts]
    volumes = [each for each in claimed if "volumes" not in each[0].capabilities.missing]
    of_machines = Watches([watch(provider, claim=claim) for provider, claim in claimed])
    of_volumes = Watches([watch(VolumeSide(provider), claim=claim, kind="volume") for provider, claim in volumes])
    for provider, _ in volumes:
        key = (provider.name, provider.account)
        vouching.pair(of_machines.at(key), of_volumes.at(key), clock)
    return of_machines, of_volumes


def recovery_of(
    db: Database, accounts: Accounts, claims: Claims, sharing: Sharing, callers: Sequence[Reserver | Prober]
) -> Recovery:
    """What takes over calls that nobody runs."""

    def is_running(reservation_id: ReservationId) -> bool:
        return any(caller.is_running(reservation_id) for caller in callers)

    return Recovery(db, accounts, claims, take_work=sharing.take_all, is_running=is_running)


def sharing_of(
    claims: Claims,
    watches: Watches,
    supervisor: Supervisor,
    accounts: Accounts,
    others: Sequence[HeldClaim],
    *,
    db: Database,
    clock: Clock,
) -> Sharing:
    """The lasting work: the accounts, and whatever else has a claim. It also exchanges the circuits of the accounts."""
    supervised = [
        Work(
            watch.claim,
            changed=watch.nudge,
            is_busy=partial(supervisor.is_failing_over, (watch.provider.name, watch.provider.account)),
            failing=partial(_failing, watch, accounts),
        )
        for watch in watches
    ]
    sharing = Sharing(claims, [*supervised, *map(Work, others)], db, clock)
    sharing.exchange(Exchange(accounts, claims.owner).step)
    return sharing


def _failing(watch: AccountWatch, accounts: Accounts) -> float:
    """For how many seconds this process can't list an account. One that has no key for it never can."""
    if (watch.provider.name, watch.provider.account) in accounts.removed:
        return math.inf
    return 0.0 if watch.silent_since is None else watch.silence.lasting.total_seconds()
