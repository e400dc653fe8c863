"""Figures about the engine for metrics and status, read from the database when they are requested."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from gpuproxy.billing.check import reading_of
from gpuproxy.health.checkup import gpu_failures, is_dead
from gpuproxy.model.leases import TERMINAL
from gpuproxy.model.money import usd
from gpuproxy.model.offers import AccountKey, ProviderName
from gpuproxy.model.pools import PoolState
from gpuproxy.model.webhooks import Standing
from gpuproxy.ports import Capabilities, Clock, Database, Tx
from gpuproxy.reconcile.observe import AccountWatch
from gpuproxy.store import account_problems, leases, outbox, pace, pools, totals

_OVER = frozenset(state.value for state in TERMINAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountFigures:
    """One account. Times are in the clock's seconds."""

    provider: str
    account: str
    pass_age: float | None
    """Seconds since its last pass; None before the first."""
    silent: float
    """Seconds for which it has not answered; 0 while it answers."""
    create_wait: float
    """Seconds until the next create may be sent."""
    paused: bool
    """No machines are created with it, because its key is refused or its funds are used up."""
    spend_differs: bool
    """The last billing check: the provider's spend differs from the ledger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The figures at one time."""

    leases: Mapping[tuple[str, str], int]
    """By (provider, state)."""
    unknown: Mapping[str, tuple[int, float]]
    """By provider: the number of unknown outcomes, and the age of the oldest one in seconds."""
    dead: Mapping[str, int]
    """By provider: the number of machines that were ready and no longer work."""
    pools: Mapping[PoolState, int]
    """The number of warm pools, by state."""
    spent_usd: float
    usd_per_hour: float
    webhooks: Sequence[Standing]
    """How the deliveries to each webhook go."""
    at: datetime
    """When they were read."""
    accounts: Sequence[AccountFigures]

    @property
    def rented(self) -> int:
        """The number of leases that cost money, or may."""
        return sum(count for (_, state), count in self.leases.items() if state not in _OVER)


async def read(db: Database, watches: Iterable[AccountWatch], clock: Clock) -> Figures:
    """The figures now."""

    def read_figures(tx: Tx) -> Figures:
        now = tx.now()
        spent, rate = totals.spending(tx)
        unknown, paused = totals.unknown_since(tx), account_problems.paused(tx)
        return Figures(
            leases=totals.leases_by_state(tx),
            unknown={name: (count, (now - since).total_seconds()) for name, (count, since) in unknown.items()},
            dead=_dead(tx, {watch.provider.name: watch.provider.capabilities for watch in watches}),
            pools=pools.by_state(tx),
            spent_usd=usd(spent),
            usd_per_hour=usd(rate),
            webhooks=outbox.standings(tx),
            at=now,
            accounts=[_account(tx, watch, clock, paused) for watch in watches],
        )

    return await db.read(read_figures)


def _dead(tx: Tx, providers: Mapping[ProviderName, Capabilities]) -> Mapping[str, int]:
    failures, now = gpu_failures(providers.items()), tx.now()
    found = Counter(lease.provider for lease in leases.live_of_project(tx, None) if is_dead(lease, now, failures))
    return {name: found[ProviderName(name)] for name in {*providers, *found}}


def _account(tx: Tx, watch: AccountWatch, clock: Clock, paused: Collection[AccountKey]) -> AccountFigures:
    now, provider = clock.now(), watch.provider
    passed, silent = watch.last_pass_at, watch.silent_since
    reading = reading_of(tx, provider.name, provider.account)
    wait = pace.next_create_at(tx, (provider.name, provider.account)) - tx.now()
    return AccountFigures(
        provider=provider.name,
        account=provider.account,
        pass_age=(now - passed).total_seconds() if passed else None,
        silent=(now - silent).total_seconds() if silent else 0.0,
        create_wait=wait.total_seconds(),
        paused=(provider.name, provider.account) in paused,
        spend_differs=reading is not None and reading.alarm,
    )
