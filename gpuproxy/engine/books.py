"""Everything about reservations and instances that is not renting: look, extend, give back, load, strategy.

Another project's things do not exist for a caller; an admin sees all projects.
"""

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter

import msgspec

from gpuproxy.engine import pages, record
from gpuproxy.engine.call import view
from gpuproxy.engine.checkup import findings
from gpuproxy.engine.strategy import strategy_for
from gpuproxy.engine.watch import Change, watch
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, Violation
from gpuproxy.model.leases import LIVE, RENTED, InstanceId, Lease, LeaseState, ReservationId
from gpuproxy.model.load import HostLoad
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import AccountKey, HostKey, ProviderName
from gpuproxy.model.reservations import DESTROYED, RELEASED, Reservation, ReservationState, ReservationView
from gpuproxy.model.transactions import Adjustment, Transaction, count, newest
from gpuproxy.ports import Database, Tx
from gpuproxy.store import counters, leases, meta, meters, reservations, settlements, story
from gpuproxy.store.rows import micros
from gpuproxy.strategies import STRATEGIES, strategy_named, weight

_PAGE = 100
_PAGE_MAX = 1000
_OPEN = frozenset({LeaseState.REQUESTED, LeaseState.UNKNOWN})
"""A lease comes from one of these to the other, and out of them for good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseView:
    """A lease and what it has cost so far."""

    lease: Lease
    cost: Micro

    @property
    def place(self) -> tuple[int, int, str]:
        """Where it stands among all: those whose create is open first, then by age. It never comes to stand before."""
        return int(self.lease.state not in _OPEN), micros(self.lease.created_at), self.lease.id


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationPage:
    """One page of reservations, newest first."""

    views: tuple[ReservationView, ...]
    next_page_token: str
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRow:
    """How busy one instance's host, or one provider, is."""

    id: str
    provider: ProviderName
    connections: int
    gpus: int
    """Of the host; of a provider, those of our leases there."""
    response_ms: float = 0.0
    samples: int = 0
    """What response_ms rests on."""
    weight: float = 0.0
    """Under weighted_round_robin."""
    last_used: datetime | None = None
    picks: int = 0
    ejected_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """Load by instance and by provider."""

    server: tuple[LoadRow, ...]
    provider: tuple[LoadRow, ...]
    strategy: str


class Books:
    """Reads and releases. `stop` ends a running call's creates, `nudge` has the accounts looked at soon."""

    def __init__(
        self,
        db: Database,
        *,
        stop: Callable[[ReservationId], None],
        nudge: Callable[[], None],
        default_strategy: str,
        accounts: frozenset[AccountKey],
    ) -> None:
        self._db = db
        self._stop = stop
        self._nudge = nudge
        self._default_strategy = default_strategy
        self._accounts = accounts

    async def reservation(self, caller: Caller, reservation_id: str) -> ReservationView:
        """The reservation as it stands."""
        return await self._db.read(lambda tx: view(tx, _own(tx, caller, reservation_id).id))

    async def watch(self, caller: Caller, reservation_id: str, resume_token: str) -> AsyncGenerator[Change, None]:
        """The reservation as it stands, or with a token what came after it, then every change in order."""
        found = await self._db.read(lambda tx: _own(tx, caller, reservation_id))
        async with aclosing(watch(self._db, found.id, resume_token)) as changes:
            async for change in changes:
                yield change

    async def reservations(
        self, caller: Caller, *, state: str, labels: Mapping[str, str], page_size: int, page_token: str
    ) -> ReservationPage:
        """A page of them; `state` "" means any, all of `labels` must match."""
        if state and state not in frozenset(ReservationState):
            states = ", ".join(ReservationState)
            raise InvalidArgument([Violation("state", f"{state!r} is none of {states}")])
        request = pages.digest("ListReservations", msgspec.json.encode((state, sorted(labels.items()))))
        after = pages.after(page_token, request, tuple[int, str])

        def read(tx: Tx) -> ReservationPage:
            matching = [r for r in reservations.newest(tx, caller.scope, state) if labels.items() <= set(r.labels)]
            start = pages.start(matching, after, _newest_first)
            page = matching[start : start + (min(page_size, _PAGE_MAX) or _PAGE)]
            more = start + len(page) < len(matching)
            return ReservationPage(
                views=tuple(view(tx, r.id) for r in page),
                next_page_token=pages.token(request, _newest_first(page[-1])) if more else "",
                total=len(matching),
            )

        return await self._db.read(read)

    async def release(self, caller: Caller, reservation_id: str) -> ReservationView:
        """Give all of it back; doing so again changes nothing."""

        def write(tx: Tx) -> ReservationView:
            reservation = _own(tx, caller, reservation_id)
            rows = leases.of_reservation(tx, reservation.id)
            if not reservation.closing and (reservation.settled_at is None or any(r.state in LIVE for r in rows)):
                tx.after_commit(story.of_request(reservation, None, key=caller.key_id, user=caller.user_id))
                record.close(tx, reservation.id, RELEASED)
            return view(tx, reservation.id)

        released = await self._db.write(write)
        self._stop(released.reservation.id)
        self._nudge()
        return released

    async def extend(self, caller: Caller, reservation_id: str, expires_at: datetime) -> ReservationView:
        """Move the end to `expires_at`; it may not come sooner than agreed."""

        def write(tx: Tx) -> ReservationView:
            reservation = _own(tx, caller, reservation_id)
            rows = leases.of_reservation(tx, reservation.id)
            if reservation.closing or not any(
                r.state in RENTED | {LeaseState.REQUESTED, LeaseState.UNKNOWN} for r in rows
            ):
                raise FailedPrecondition(
                    f"Reservation {reservation.id} is {reservation.state}; there is nothing to extend.",
                    reason="RESERVATION_OVER",
                )
            if reservation.expires_at is not None and reservation.expires_at <= tx.now():
                raise FailedPrecondition(
                    f"Reservation {reservation.id} has reached its end; its machines are being released.",
                    reason="RESERVATION_OVER",
                )
            _require_later(reservation, expires_at, tx.now())
            reservations.change(tx, reservation, rows, expires_at=expires_at)
            for lease in rows:
                if lease.state in LIVE:
                    leases.note(tx, lease, expires_at=expires_at)
            return view(tx, reservation.id)

        return await self._db.write(write)

    async def instance(self, caller: Caller, provider: str, instance_id: str) -> LeaseView:
        """An instance by its contract id, however long it is over."""
        return await self._db.read(lambda tx: _costed(tx, _lease_of(tx, caller, provider, instance_id)))

    async def instances(self, caller: Caller) -> tuple[LeaseView, ...]:
        """What is, or may be, paid for now, in the order of its places."""

        def read(tx: Tx) -> tuple[LeaseView, ...]:
            views = (_costed(tx, lease) for lease in leases.live_of_project(tx, caller.scope))
            return tuple(sorted(views, key=attrgetter("place")))

        return await self._db.read(read)

    async def destroy(self, caller: Caller, provider: str, instance_id: str) -> Lease:
        """Give one machine back; doing so again changes nothing."""

        def write(tx: Tx) -> Lease:
            lease = _lease_of(tx, caller, provider, instance_id)
            if record.releasable(lease):
                reservation = reservations.get(tx, lease.reservation_id)
                tx.after_commit(story.of_request(reservation, lease, key=caller.key_id, user=caller.user_id))
            return record.release(tx, lease, DESTROYED)

        lease = await self._db.write(write)
        self._nudge()
        return lease

    async def load(self, caller: Caller, instance_id: str) -> LoadReport:
        """The project's live instances (or one of them), and each provider in use."""

        def read(tx: Tx) -> LoadReport:
            rows = [lease for lease in leases.live_of_project(tx, caller.scope) if lease.instance_id is not None]
            if instance_id:
                rows = [lease for lease in rows if lease.instance_id == instance_id]
                if not rows:
                    raise NotFound(f"No live instance {instance_id}.", metadata={"instance_id": instance_id})
            strategy = strategy_for(tx, caller.project, self._default_strategy)
            hosts = counters.loads(tx)
            weighted = STRATEGIES[strategy].weighted
            return LoadReport(
                server=tuple(_server_row(lease, hosts[lease.host], weighted=weighted) for lease in rows),
                provider=_provider_rows(leases.live_of_project(tx, None), hosts),
                strategy=strategy,
            )

        return await self._db.read(read)

    async def transactions(self, caller: Caller, limit: int, offset: int) -> tuple[list[Transaction | Adjustment], int]:
        """A part of what was spent, newest first, and how many transactions there are in all."""

        def read(tx: Tx) -> tuple[list[Transaction | Adjustment], int]:
            metered, now = meters.of_project(tx, caller.scope), tx.now()
            adjusted = settlements.of_project(tx, caller.scope)
            total = len(adjusted) + sum(count(meter, now) for meter in metered)
            return newest(metered, adjusted, now, offset, limit), total

        return await self._db.read(read)

    async def health(self) -> str:
        """How many things need a look, by kind, or the word ok; `gpuproxy doctor` names them."""
        found = await self._db.read(lambda tx: findings(tx, self._accounts))
        counted = Counter(finding.kind for finding in found)
        return ", ".join(f"{kind} {count}" for kind, count in sorted(counted.items())) or "ok"

    async def strategy(self, caller: Caller) -> tuple[str, str, tuple[str, ...]]:
        """The strategy in force, where it was set ("project" or "global"), and those there are."""

        def read(tx: Tx) -> tuple[str, str, tuple[str, ...]]:
            scope = "global" if meta.project_strategy(tx, caller.project) is None else "project"
            return strategy_for(tx, caller.project, self._default_strategy), scope, tuple(STRATEGIES)

        return await self._db.read(read)

    async def set_strategy(self, caller: Caller, name: str, scope: str) -> None:
        """Choose the strategy of the project or, for admins, of all projects without one of their own."""
        strategy_named(name)
        if scope not in ("", "project", "global"):
            raise InvalidArgument([Violation("scope", f"{scope!r} is neither project nor global")])
        if scope == "global" and caller.role != "admin":
            raise PermissionDenied("Only an admin sets the global strategy.")
        if scope == "global":
            await self._db.write(lambda tx: meta.write(tx, meta.GLOBAL_STRATEGY, name))
        else:
            await self._db.write(lambda tx: meta.set_project_strategy(tx, caller.project, name))


def _newest_first(reservation: Reservation) -> tuple[int, str]:
    """Where it stands in the list."""
    return -micros(reservation.created_at), reservation.id


def _own(tx: Tx, caller: Caller, reservation_id: str) -> Reservation:
    found = reservations.find(tx, ReservationId(reservation_id))
    if found is None or not caller.sees(found.project):
        raise NotFound(f"No reservation {reservation_id!r}.", metadata={"reservation_id": reservation_id})
    return found


def _lease_of(tx: Tx, caller: Caller, provider: str, instance_id: str) -> Lease:
    found = leases.by_instance(tx, ProviderName(provider), InstanceId(instance_id))
    if found is None or not caller.sees(found.project):
        raise NotFound(
            f"No instance {instance_id!r} of {provider} in the books.",
            metadata={"provider": provider, "instance_id": instance_id},
        )
    return found


def _costed(tx: Tx, lease: Lease) -> LeaseView:
    return LeaseView(lease=lease, cost=leases.cost(tx, lease.id))


def _require_later(reservation: Reservation, expires_at: datetime, now: datetime) -> None:
    if expires_at <= now:
        raise InvalidArgument([Violation("expires_at", f"{expires_at:%Y-%m-%dT%H:%M:%SZ} is not in the future")])
    if reservation.expires_at is not None and expires_at < reservation.expires_at:
        agreed = f"{reservation.expires_at:%Y-%m-%dT%H:%M:%SZ}"
        raise InvalidArgument([Violation("expires_at", f"is before the present end, {agreed}; to end it use release")])


def _server_row(lease: Lease, load: HostLoad, *, weighted: bool) -> LoadRow:
    return LoadRow(
        id=lease.instance_id or "",
        provider=lease.provider,
        connections=load.live,
        gpus=lease.host_gpus or lease.num_gpus,
        response_ms=load.response_ms,
        samples=load.samples,
        weight=weight(lease.vram_gb, lease.price, lease.num_gpus) / 10 if weighted else 0.0,
        last_used=load.last_picked_at,
        picks=load.picks,
        ejected_until=load.ejected_until,
    )


def _provider_rows(rows: Iterable[Lease], hosts: Mapping[HostKey, HostLoad]) -> tuple[LoadRow, ...]:
    by_provider: dict[ProviderName, list[Lease]] = {}
    for lease in rows:
        by_provider.setdefault(lease.provider, []).append(lease)
    return tuple(
        _provider_row(provider, live, [load for host, load in hosts.items() if host.startswith(f"{provider}/")])
        for provider, live in sorted(by_provider.items())
    )


def _provider_row(provider: ProviderName, live: Sequence[Lease], hosts: Sequence[HostLoad]) -> LoadRow:
    samples = sum(load.samples for load in hosts)
    return LoadRow(
        id=provider,
        provider=provider,
        connections=len(live),
        gpus=sum(lease.num_gpus for lease in live),
        response_ms=sum(load.samples * load.response_ms for load in hosts) / samples if samples else 0.0,
        samples=samples,
        last_used=max(lease.created_at for lease in live),
        picks=sum(load.picks for load in hosts),
    )
