"""What each marketplace can do, and how this server's accounts there are now. Only reads."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from gpuproxy.billing.check import Reading, reading_of
from gpuproxy.model.errors import InvalidArgument, Violation
from gpuproxy.model.leases import Lease
from gpuproxy.model.meter import meter_rate
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import AccountKey
from gpuproxy.model.probes import Measurement
from gpuproxy.model.reasons import Reason
from gpuproxy.ports import Capabilities, Clock, Database, Descriptor, Tx
from gpuproxy.reconcile.watches import Watches
from gpuproxy.runtime.accounts import Accounts
from gpuproxy.runtime.circuits import CircuitState
from gpuproxy.store import account_problems, leases, probes
from gpuproxy.store.account_problems import AccountProblem
from gpuproxy.store.rows import moment

AccountState = Literal["healthy", "limited", "failing", "silent", "paused", "removed"]
_NOTHING_BACK = "Whole hours are paid in advance. A destroy pays nothing back."
_METERED = "Billed by use until the destroy. Nothing is paid in advance."


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSheet:
    """One account. Times are in the clock's seconds, money in micro-dollars."""

    name: str
    region: str
    state: AccountState
    reason: Reason
    since: datetime | None
    circuit: CircuitState
    failures: int
    create_wait: float
    create_interval: float
    credit: Micro | None
    credit_at: datetime | None
    machines: int
    unknown: int
    volumes: int
    rate: Micro
    """Per hour. Of a machine that is paid in advance, it is the price of its hours."""
    measured: Sequence[Measurement]
    """The last known values of what probes have measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """One marketplace."""

    marketplace: Descriptor
    capabilities: Capabilities
    """With the operator's settings."""
    intervals: Mapping[str, float]
    """The least number of seconds between two calls, by call."""
    pools_per_account: int | None
    accounts: Sequence[AccountSheet]

    @property
    def refund_rule(self) -> str:
        """What is paid back when a machine is destroyed, in words."""
        if self.capabilities.billing == "metered":
            return _METERED
        if self.capabilities.refund_after is None:
            return _NOTHING_BACK
        hours = self.capabilities.refund_after / 3600
        return f"Whole hours are paid in advance. A destroy pays back the time after the first {hours:g} h of use."


class Sheets:
    """The sheets of all installed marketplaces."""

    def __init__(  # noqa: PLR0917 - wired once
        self,
        db: Database,
        accounts: Accounts,
        watches: Watches,
        clock: Clock,
        marketplaces: Sequence[Descriptor],
        intervals: Mapping[str, Mapping[str, float]],
        *,
        pools_per_account: Callable[[Capabilities], int | None] = lambda _: None,
    ) -> None:
        """`intervals`: those that the operator set, by marketplace and call."""
        self._db = db
        self._accounts = accounts
        self._watches = watches
        self._clock = clock
        self._marketplaces = marketplaces
        self._intervals = intervals
        self._pools_per_account = pools_per_account

    async def read(self, provider: str = "") -> list[Sheet]:
        """All sheets by name, or that of one marketplace. Raises InvalidArgument."""
        asked = [each for each in self._marketplaces if provider in ("", each.name)]
        if not asked:
            names = ", ".join(sorted(each.name for each in self._marketplaces))
            text = f"must be one of {names}, all or empty, not {provider[:40]!r}"
            raise InvalidArgument([Violation("provider", text)])
        keys = self._accounts.keys()
        stored = await self._db.read(lambda tx: _stored(tx, keys))
        # Queues, circuits and watches belong to the thread of the event loop. A unit of work may run in another one.
        return [self._sheet(each, stored) for each in sorted(asked, key=lambda m: m.name)]

    def _sheet(self, marketplace: Descriptor, stored: Mapping[AccountKey, "_Stored"]) -> Sheet:
        own = [each for each in self._accounts if each.name == marketplace.name]
        capabilities = own[0].capabilities if own else marketplace.capabilities
        keys = [(each.name, each.account) for each in own]
        able = {"stop_start", "volumes"}.isdisjoint(capabilities.missing)
        return Sheet(
            marketplace=marketplace,
            capabilities=capabilities,
            intervals={call.name: call.seconds for call in marketplace.calls}
            | dict(self._intervals.get(marketplace.name, {})),
            pools_per_account=self._pools_per_account(capabilities) if able else None,
            accounts=[self._account(key, stored[key]) for key in keys],
        )

    def _account(self, key: AccountKey, stored: "_Stored") -> AccountSheet:
        circuit, turns, problem = self._accounts.circuit(key), self._accounts.creates(key), stored.problem
        silent = self._watches.at(key).silent_since
        state: AccountState = "healthy"
        if key in self._accounts.removed:
            state, silent, problem = "removed", None, None
        elif problem is not None and problem.pauses:
            state, silent = "paused", problem.since
        elif silent is not None:
            state = "silent"
        elif circuit.failures:
            state = "failing"
        elif turns.limited > 0:
            state = "limited"
        shown = problem if state in ("paused", "silent") else None
        reading = stored.reading
        return AccountSheet(
            name=key[1], region=self._accounts.regions.of.get(key, ""), state=state,
            reason=shown.reason if shown else Reason.NONE, since=silent, circuit=circuit.state,
            failures=circuit.failures, create_wait=turns.pause, create_interval=turns.interval,
            credit=Micro(reading.credit) if reading else None, credit_at=moment(reading.at) if reading else None,
            machines=sum(lease.instance_id is not None for lease in stored.machines),
            unknown=sum(lease.outcome_unknown for lease in stored.machines), volumes=len(stored.volumes),
            rate=Micro(sum(_rate(lease) for lease in (*stored.machines, *stored.volumes))), measured=stored.measured,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    """What the database has of one account."""

    problem: AccountProblem | None
    reading: Reading | None
    machines: Sequence[Lease]
    volumes: Sequence[Lease]
    measured: Sequence[Measurement]


def _stored(tx: Tx, keys: Iterable[AccountKey]) -> Mapping[AccountKey, _Stored]:
    problems, found = _worst(account_problems.current(tx)), {}
    for key in keys:
        probed = probes.find(tx, key)
        found[key] = _Stored(
            problem=problems.get(key), reading=reading_of(tx, *key), machines=leases.live(tx, *key),
            volumes=leases.live(tx, *key, "volume"), measured=() if probed is None else probed.facts,
        )  # fmt: skip
    return found


def _rate(lease: Lease) -> int:
    if lease.is_prepaid:  # no meter runs; its hours cost as much
        return lease.observed.price if lease.instance_id is not None else 0
    return meter_rate(lease) or 0


def _worst(found: Sequence[AccountProblem]) -> Mapping[AccountKey, AccountProblem]:
    """The problem of each account that matters most: one that pauses it, else the oldest."""
    return {each.account: each for each in sorted(found, key=lambda each: (each.pauses, -each.since.timestamp()))}
