"""The engine and both interfaces, wired over the given ports: real ones, or those of a simulation."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

from gpuproxy.app import figures
from gpuproxy.app.access import Access
from gpuproxy.app.dashboard import build_dashboard
from gpuproxy.app.metrics import Begin, Counted, Metrics
from gpuproxy.app.money import Money, build_money
from gpuproxy.app.offers import build_catalog
from gpuproxy.app.pools import build_pools
from gpuproxy.app.supervision import recovery_of, sharing_of, watches_of
from gpuproxy.app.webhooks import Outgoing, build_webhooks
from gpuproxy.billing.check import BillingCheck
from gpuproxy.billing.history import History
from gpuproxy.billing.spending import Spending
from gpuproxy.billing.true_up import TrueUp
from gpuproxy.catalog.refresh import Catalog
from gpuproxy.config.settings import Settings
from gpuproxy.edge.grpc.server import GrpcServer
from gpuproxy.edge.http.pages import Pages
from gpuproxy.edge.http.server import HttpServer
from gpuproxy.edge.interfaces import Interfaces
from gpuproxy.edge.rpc.auth import Authenticator, TokenAuth
from gpuproxy.edge.rpc.costs import CostCalls
from gpuproxy.edge.rpc.dispatch import Around, Dispatcher
from gpuproxy.edge.rpc.limits import LimitCalls
from gpuproxy.edge.rpc.providers import ProbeCalls, ProviderCalls
from gpuproxy.edge.rpc.rpcs import Rpc, built_of
from gpuproxy.edge.rpc.service import Service
from gpuproxy.edge.rpc.session import Session
from gpuproxy.edge.web.sessions import RULES
from gpuproxy.health.checkup import Health, gpu_failures
from gpuproxy.health.readiness import Readiness
from gpuproxy.health.sheets import Sheets
from gpuproxy.identity.kept_sessions import KeptSessions
from gpuproxy.instances.load import Load
from gpuproxy.instances.machines import Machines
from gpuproxy.instances.requests import Instances
from gpuproxy.loadbalancer.choice import Chooser
from gpuproxy.loadbalancer.setting import StrategySetting
from gpuproxy.model.labels import Signer
from gpuproxy.model.leases import ReservationId
from gpuproxy.ports import Clock, Database, Probe, Provider, Random, Tx, Workers
from gpuproxy.probing.requests import Prober
from gpuproxy.reconcile.doubts import Probes
from gpuproxy.reconcile.observe import AccountWatch
from gpuproxy.reconcile.watches import Watches
from gpuproxy.rental.attempt import Attempts
from gpuproxy.rental.joins import Reserver
from gpuproxy.rental.recovery import Recovery
from gpuproxy.rental.rounds import RentalContext
from gpuproxy.reservations.extending import Extender
from gpuproxy.reservations.requests import Reservations
from gpuproxy.runtime.accounts import Accounts
from gpuproxy.runtime.background import Background
from gpuproxy.runtime.claims import RECOVERED_EVERY, Claims, HeldClaim, alone, claimed
from gpuproxy.runtime.lateness import Lateness
from gpuproxy.runtime.limits import Limits
from gpuproxy.runtime.loops import Step, repeat, repeat_every, repeat_when_due
from gpuproxy.runtime.regions import Regions
from gpuproxy.runtime.sharing import Sharing
from gpuproxy.store import counters
from gpuproxy.store.leases import due_topic
from gpuproxy.warmpool.free_gpus import pools_per_account
from gpuproxy.warmpool.requests import WarmPools
from gpuproxy.warmpool.supervisor import Supervisor
from gpuproxy.webhooks.sending import Webhooks


@dataclass(slots=True, kw_only=True)
class Engine:
    """Everything below the edge, wired, and its background work."""

    reserver: Reserver
    recovery: Recovery
    reservations: Reservations
    extender: Extender
    instances: Instances
    load: Load
    spending: Spending
    strategies: StrategySetting
    health: Health
    sheets: Sheets
    machines: Machines
    catalog: Catalog
    watches: Watches
    clock: Clock
    db: Database
    signer: Signer
    billing_checks: tuple[BillingCheck, ...]
    true_ups: tuple[TrueUp, ...]
    history: History
    money: Money
    limits: Limits
    pools: WarmPools
    supervisor: Supervisor
    volume_watches: Watches
    readiness: Readiness
    metrics: Metrics
    accounts: Accounts
    prober: Prober
    webhooks: Webhooks
    sharing: Sharing
    history_claim: HeldClaim
    _loops: Background = field(default_factory=lambda: Background("loop"))

    async def start(self) -> None:
        """Recover what an earlier process left, then start the background loops."""
        await self.db.write(self._begin)
        await self.money.start()
        await self.recovery.start()
        loops = [
            self.catalog.run(),
            *(self._supervise(watch) for watch in self.watches),
            *(self._due(watch) for watch in self.watches),
            *(self._volumes(watch) for watch in self.volume_watches),
            self.supervisor.run(),
            *self.money.loops(),
            *self.webhooks.loops(),
            self.sharing.run(),
            *([] if self.db.exclusive else [repeat_every(self.recovery.step, RECOVERED_EVERY, self.clock, "recovery")]),
            *(
                self._every(partial(self._true_up, each), self.limits.true_up_seconds, "true-up", each.provider)
                for each in self.true_ups
            ),
            *(
                self._every(
                    self._alone(each.provider, each.step),
                    self.limits.billing_check_seconds,
                    "billing check",
                    each.provider,
                )
                for each in self.billing_checks
            ),
        ]
        for loop in loops:
            self._loops.start(loop)

    def _begin(self, tx: Tx) -> None:
        self.webhooks.start(tx)
        counters.recount(tx)

    async def _supervise(self, watch: AccountWatch) -> None:
        async def step() -> None:
            await watch.look()
            await self.recovery.step()

        await repeat(step, watch.wait, self.clock, f"watch {watch.provider.account}")

    async def _volumes(self, watch: AccountWatch) -> None:
        """Reconcile an account's volumes. Without any, their listing is rare, and the first one comes late."""
        if not await watch.has_leases():
            await watch.wait()
        await repeat(watch.look, watch.wait, self.clock, f"volumes {watch.provider.account}")

    async def _every(self, step: Step, seconds: float, what: str, provider: Provider) -> None:
        await repeat_every(step, seconds, self.clock, f"{what} {provider.account}")

    def _alone(self, provider: Provider, step: Step) -> Step:
        """The step of an account, which only its supervisor does."""
        return alone(self.watches.at((provider.name, provider.account)).claim, step)

    async def _true_up(self, each: TrueUp) -> None:
        await self._alone(each.provider, each.step)()
        await alone(self.history_claim, partial(self.history.step_when_due, self.limits.history_seconds))()

    async def _due(self, watch: AccountWatch) -> None:
        topic = due_topic(watch.provider.name, watch.provider.account)
        await repeat_when_due(watch.due, topic, self.db, self.clock, f"due {watch.provider.account}")

    async def drain(self, seconds: float) -> None:
        """Start no more creates. Wait for running creates, stops and starts, for at most `seconds` real seconds."""
        parts = (self.reserver, self.prober, self.machines, self.extender, self.supervisor)
        await asyncio.gather(*(each.drain(seconds) for each in parts))
        await self.sharing.leave()

    async def stop(self) -> None:
        """Stop the background work. The database has what is left to do."""
        await self._loops.close()
        await self.prober.close()
        await self.machines.close()
        await self.extender.close()
        await self.supervisor.close()
        for watch in (*self.watches, *self.volume_watches):
            await watch.close()
        await self.accounts.close()


def build_engine(
    settings: Settings,
    *,
    db: Database,
    clock: Clock,
    random: Random,
    providers: list[Provider],
    probe: Probe,
    signer: Signer,
    lateness: Lateness | None = None,
    begin: Begin | None = None,
    check_key: str = "",
    secrets_key: bytes | None = None,
    regions: Regions | None = None,
    removed: Sequence[Provider] = (),
    outgoing: Outgoing | None = None,
    workers: Workers | None = None,
) -> Engine:
    """Wire the engine over the given ports. Without `lateness`, its event loop counts as punctual.

    With `check_key`, a public key, a machine is ready only if it lets the probe log in. The secrets of warm pools are
    encrypted with `secrets_key`. `removed`: accounts without a key. `workers` pack what several processes share.
    """
    lateness, seed = lateness or Lateness(clock), random.token(8)
    limits, metrics, claims = limits_of(settings), Metrics(), Claims(db, clock, seed)
    counted = [Counted(provider, metrics, clock, begin) for provider in (*providers, *removed)]
    accounts = Accounts(counted, clock, seed=seed, regions=regions, removed=[(p.name, p.account) for p in removed])
    catalog, read = build_catalog(settings, accounts, claims, db=db, clock=clock, lateness=lateness, workers=workers)
    watch = partial(
        AccountWatch, db=db, clock=clock, probe=probe, signer=signer, limits=limits, probes=Probes(),
        lateness=lateness, check_key=check_key,
    )  # fmt: skip
    watches, volume_watches = watches_of(watch, accounts, claims, clock)
    context = _rental(limits, catalog, accounts, watches, signer, check_key=check_key, db=db, clock=clock)
    pools, supervisor = build_pools(
        context, catalog, random, probe=probe, lateness=lateness, volume_watches=volume_watches,
        secrets_key=secrets_key, limits=settings.pool_limits, default_spec=settings.default_pool,
    )  # fmt: skip
    reserver = Reserver(context, claims, random=random, default_strategy=settings.lb_strategy)
    extender = Extender(accounts, signer, db, clock)
    instances = Instances(db, nudge=watches.nudge, gpu_util=watches.gpu_util)
    machines = Machines(instances, accounts, watches, db=db, clock=clock, limits=limits)
    prober = Prober(context, catalog, machines, claims, random, volume_watches, settings.marketplaces)
    money = build_money(settings, accounts, limits, db, clock, claims=claims)
    webhooks = build_webhooks(outgoing, claims, db, clock, metrics)
    history = claims.of_work("history")
    others = [*read, *money.claims, history, *(sender.claim for sender in webhooks.senders)]
    sharing = sharing_of(claims, watches, supervisor, accounts, others, db=db, clock=clock)
    checks, true_ups = _account_steps(watches, db, clock)
    return Engine(
        reserver=reserver, prober=prober, accounts=accounts, webhooks=webhooks, sharing=sharing,
        recovery=recovery_of(db, accounts, claims, sharing, (reserver, prober)), billing_checks=checks,
        reservations=_reservations(db, watches, extender, (reserver, prober)), extender=extender, instances=instances,
        load=Load(db, settings.lb_strategy), strategies=StrategySetting(db, settings.lb_strategy), true_ups=true_ups,
        health=_health(db, accounts, clock), sheets=_sheets(settings, db, accounts, watches, clock),
        machines=machines, catalog=catalog, watches=watches, volume_watches=volume_watches, clock=clock, db=db,
        history=_history(settings, claimed(db, history), clock), history_claim=history, money=money,
        pools=pools, supervisor=supervisor, metrics=metrics, limits=limits, signer=signer, spending=Spending(db),
        readiness=Readiness(db=db, watches=watches, clock=clock, limits=limits, lateness=lateness),
    )  # fmt: skip


def _rental(
    limits: Limits,
    catalog: Catalog,
    accounts: Accounts,
    watches: Watches,
    signer: Signer,
    *,
    check_key: str,
    db: Database,
    clock: Clock,
) -> RentalContext:
    return RentalContext(
        db=db, clock=clock, limits=limits, chooser=Chooser(catalog, accounts, db, limits), accounts=accounts,
        attempts=Attempts(accounts, watches, catalog, signer, db=db, clock=clock), watches=watches, signer=signer,
        check_key=check_key,
    )  # fmt: skip


def _account_steps(watches: Watches, db: Database, clock: Clock) -> tuple[tuple[BillingCheck, ...], tuple[TrueUp, ...]]:
    """The periodic steps of each account, which write under the account's claim."""
    own = [(watch, claimed(db, watch.claim)) for watch in watches]
    checks = [BillingCheck(watch.provider, mine, clock, watch.gap.longest) for watch, mine in own]
    return tuple(checks), tuple(TrueUp(watch.provider, mine, clock) for watch, mine in own)


def _sheets(settings: Settings, db: Database, accounts: Accounts, watches: Watches, clock: Clock) -> Sheets:
    pools = partial(pools_per_account, limits=settings.pool_limits)
    of = settings.marketplaces, settings.intervals
    return Sheets(db, accounts, watches, clock, *of, pools_per_account=pools)


def _reservations(
    db: Database, watches: Watches, extender: Extender, callers: Sequence[Reserver | Prober]
) -> Reservations:
    stop = partial(_stop_renting, callers)
    return Reservations(db, stop=stop, nudge=watches.nudge, extender=extender, gpu_util=watches.gpu_util)


def _stop_renting(callers: Sequence[Reserver | Prober], reservation_id: ReservationId) -> None:
    """Start no more creates for a reservation that is being released."""
    for caller in callers:
        caller.stop(reservation_id)


def _history(settings: Settings, db: Database, clock: Clock) -> History:
    return History(db, clock, timedelta(seconds=settings.keep_history) if settings.keep_history else None)


def _health(db: Database, accounts: Accounts, clock: Clock) -> Health:
    failures = gpu_failures((each.name, each.capabilities) for each in accounts)
    return Health(db, accounts.keys() - accounts.removed, failures, clock)


def limits_of(settings: Settings) -> Limits:
    """The limits that the settings give the engine."""
    return Limits(
        poll_seconds=settings.ready_poll_interval,
        reconcile_seconds=settings.reconcile_interval,
        probe_timeout=settings.ready_probe_timeout,
        max_unknown=settings.max_unknown,
        replacement_factor=settings.replacement_factor,
        max_creates_per_minute=settings.max_creates_per_minute,
        billing_check_seconds=settings.witness_interval,
        min_offer_seconds=settings.min_offer_time,
        prepaid_hours=settings.prepaid_hours,
        hold_horizon=settings.hold_horizon,
        extend_margin=settings.extend_margin,
        ending_soon_seconds=settings.ending_soon,
        idle_below=settings.idle_below,
    )


def build_interfaces(
    settings: Settings,
    engine: Engine,
    access: Access,
    random: Random,
    *,
    extra: Mapping[str, Rpc] | None = None,
    around: Around | None = None,
) -> Interfaces:
    """Both interfaces over the engine; `extra`: gRPC calls outside the contract, for measurements."""
    # The one that can do most comes first: pools are made there, and examples name it.
    able = sorted(settings.marketplaces, key=lambda each: len(each.capabilities.missing))
    marketplaces = {each.prefix: each.name for each in able}
    service = Service(
        reserver=engine.reserver,
        reservations=engine.reservations,
        instances=engine.instances,
        load=engine.load,
        spending=engine.spending,
        strategies=engine.strategies,
        health=engine.health,
        machines=engine.machines,
        catalog=engine.catalog,
        session=Session(logins=access.logins, keys=access.keys, ssh_keys=access.ssh_keys),
        fingerprint_key=access.fingerprint_key,
        default_max_price=settings.max_price,
        lease_duration=timedelta(seconds=settings.lease_duration) if settings.lease_duration else None,
        lease_grace=timedelta(seconds=settings.lease_grace),
        marketplaces=marketplaces,
        clock=engine.clock,
        pools=engine.pools,
        pool_max_price=settings.warmpool_max_price,
        others=(
            ProviderCalls(engine.sheets),
            ProbeCalls(engine.prober),
            CostCalls(engine.money.costs, engine.clock),
            LimitCalls(engine.money.limits),
        ),
    )
    token_auth = TokenAuth(tokens=access.tokens, find=access.users.find)
    authenticator = Authenticator(access.keys.find, engine.clock, token_auth)
    dispatcher = Dispatcher(authenticator, engine.clock, random, engine.metrics.rpc, around)

    async def measured(checks: Mapping[str, str]) -> bytes:
        found, problems = await figures.read(engine.db, engine.watches, engine.clock), await engine.health.counts()
        return engine.metrics.render(found, problems=problems, checks=checks, usages=engine.money.horizons.usages)

    names = tuple(marketplaces.values())
    dashboard = build_dashboard(
        dispatcher, service, reservations=engine.reservations, health=engine.health, watches=engine.watches,
        db=engine.db, users=access.users.list, clock=engine.clock, random=random, providers=names,
        kept=None if engine.db.exclusive else KeptSessions(engine.db, engine.clock, RULES),
    )  # fmt: skip
    pages = Pages(engine.readiness.checks, measured, built_of(service), names)
    http = HttpServer(
        dispatcher, service, random=random, clock=engine.clock, pages=pages.routes, mount=dashboard.mount,
        max_concurrent=settings.max_concurrent_rpcs, drain_seconds=settings.drain_seconds,
    )  # fmt: skip
    grpc = GrpcServer(dispatcher, service, extra=extra, max_concurrent_rpcs=settings.max_concurrent_rpcs)
    return Interfaces(grpc=grpc, http=http, pages=pages)
