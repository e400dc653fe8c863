"""What the engine can say about itself in numbers, read when somebody asks."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gpuproxy.billing.check import reading_of
from gpuproxy.health.checkup import gpu_failures, is_dead
from gpuproxy.model.leases import TERMINAL
from gpuproxy.model.money import usd
from gpuproxy.model.offers import AccountKey, ProviderName
from gpuproxy.ports import Capabilities, Clock, Database, Tx
from gpuproxy.reconcile.observe import AccountWatch
from gpuproxy.store import account_problems, leases, pace, totals

_OVER = frozenset(state.value for state in TERMINAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountFigures:
    """One account; seconds of the clock."""

    provider: str
    account: str
    pass_age: float | None
    """Since its machines were last compared with the books; None: not yet."""
    silent: float
    """For how long it has not answered; 0 while it does."""
    create_wait: float
    """Until the next create may be sent."""
    paused: bool
    """Nothing is created with it, because its key is refused or its funds are used up."""
    spend_differs: bool
    """The last billing check: the provider's spend differs from the ledger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One moment."""

    leases: Mapping[tuple[str, str], int]
    """By (provider, state)."""
    unknown: Mapping[str, tuple[int, float]]
    """By provider: how many outcomes are unknown, and for how many seconds the oldest one is."""
    dead: Mapping[str, int]
    """By provider: machines that were ready and are useless now."""
    spent_usd: float
    usd_per_hour: float
    accounts: Sequence[AccountFigures]

    @property
    def rented(self) -> int:
        """Leases that cost money, or may."""
        return sum(count for (_, state), count in self.leases.items() if state not in _OVER)


async def read(db: Database, watches: Iterable[AccountWatch], clock: Clock) -> Figures:
    """The figures of this moment."""

    def books(tx: Tx) -> Figures:
        now = tx.now()
        spent, rate = totals.spending(tx)
        unknown, paused = totals.unknown_since(tx), account_problems.paused(tx)
        return Figures(
            leases=totals.leases_by_state(tx),
            unknown={name: (count, (now - since).total_seconds()) for name, (count, since) in unknown.items()},
            dead=_dead(tx, {watch.provider.name: watch.provider.capabilities for watch in watches}),
            spent_usd=usd(spent),
            usd_per_hour=usd(rate),
            accounts=[_account(tx, watch, clock, paused) for watch in watches],
        )

    return await db.read(books)


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
