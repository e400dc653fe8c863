"""The engine and both interfaces, wired over the given ports: real ones, or those of a simulation."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

from gpuproxy.app import figures
from gpuproxy.app.access import Access
from gpuproxy.app.metrics import Begin, Counted, Metrics
from gpuproxy.app.pools import build_pools
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
from gpuproxy.edge.messages.instances import encode_offer, offer_json
from gpuproxy.edge.rpc.auth import Authenticator, TokenAuth
from gpuproxy.edge.rpc.dispatch import Around, Dispatcher
from gpuproxy.edge.rpc.rpcs import Rpc, built_of
from gpuproxy.edge.rpc.service import Service
from gpuproxy.edge.rpc.session import Session
from gpuproxy.health.checkup import Health, gpu_failures
from gpuproxy.health.readiness import Readiness
from gpuproxy.health.sheets import Sheets
from gpuproxy.instances.load import Load
from gpuproxy.instances.machines import Machines
from gpuproxy.instances.requests import Instances
from gpuproxy.loadbalancer.choice import Chooser
from gpuproxy.loadbalancer.setting import StrategySetting
from gpuproxy.model.labels import Signer
from gpuproxy.ports import Clock, Database, Probe, Provider, Random
from gpuproxy.reconcile import vouching
from gpuproxy.reconcile.doubts import Probes
from gpuproxy.reconcile.observe import AccountWatch
from gpuproxy.reconcile.volumes import VolumeSide
from gpuproxy.reconcile.watches import Watches
from gpuproxy.rental.attempt import Attempts
from gpuproxy.rental.joins import Reserver
from gpuproxy.rental.recovery import Recovery
from gpuproxy.rental.rounds import RentalContext
from gpuproxy.reservations.requests import Reservations
from gpuproxy.runtime.accounts import Accounts
from gpuproxy.runtime.background import Background
from gpuproxy.runtime.claims import Claims, HeldClaim
from gpuproxy.runtime.lateness import Lateness
from gpuproxy.runtime.limits import Limits
from gpuproxy.runtime.loops import Step, repeat, repeat_every, repeat_when_due
from gpuproxy.runtime.regions import Regions
from gpuproxy.store import counters
from gpuproxy.store.leases import due_topic
from gpuproxy.warmpool.requests import WarmPools
from gpuproxy.warmpool.supervisor import Supervisor


@dataclass(slots=True, kw_only=True)
class Engine:
    """Everything below the edge, wired, and its background work."""

    reserver: Reserver
    recovery: Recovery
    reservations: Reservations
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
    limits: Limits
    pools: WarmPools
    supervisor: Supervisor
    volume_watches: Watches
    readiness: Readiness
    metrics: Metrics
    accounts: Accounts
    _loops: Background = field(default_factory=lambda: Background("loop"))

    async def start(self) -> None:
        """Recover what an earlier process left, then start the background loops."""
        await self.db.write(counters.recount)
        await self.recovery.start()
        loops = [
            self.catalog.run(),
            *(self._supervise(watch) for watch in self.watches),
            *(self._due(watch) for watch in self.watches),
            *(self._volumes(watch) for watch in self.volume_watches),
            self.supervisor.run(),
            *(watch.claim.keep(watch.nudge, again=True) for watch in self.watches if not self.db.exclusive),
            *(
                self._every(partial(self._true_up, each), self.limits.true_up_seconds, "true-up", each.provider)
                for each in self.true_ups
            ),
            *(
                self._every(each.step, self.limits.billing_check_seconds, "billing check", each.provider)
                for each in self.billing_checks
            ),
        ]
        for loop in loops:
            self._loops.start(loop)

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

    async def _true_up(self, each: TrueUp) -> None:
        await each.step()
        await self.history.step_when_due(self.limits.history_seconds)

    async def _due(self, watch: AccountWatch) -> None:
        topic = due_topic(watch.provider.name, watch.provider.account)
        await repeat_when_due(watch.due, topic, self.db, self.clock, f"due {watch.provider.account}")

    async def drain(self, seconds: float) -> None:
        """Start no more creates. Wait for running creates, stops and starts, for at most `seconds` real seconds."""
        await asyncio.gather(self.reserver.drain(seconds), self.machines.drain(seconds), self.supervisor.drain(seconds))

    async def stop(self) -> None:
        """Stop the background work. The database has what is left to do."""
        await self._loops.close()
        await self.machines.close()
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
) -> Engine:
    """Wire the engine over the given ports. Without `lateness`, its event loop counts as punctual.

    With `check_key`, a public key, a machine is ready only if it lets the probe log in. The secrets of warm pools are
    encrypted with `secrets_key`. `removed`: accounts without a key, with which nothing is rented or searched.
    """
    lateness = lateness or Lateness(clock)
    seed = random.token(8)
    limits, metrics, claims = _limits(settings), Metrics(), Claims(db, clock, seed)
    counted = [Counted(provider, metrics, clock, begin) for provider in (*providers, *removed)]
    accounts = Accounts(counted, clock, seed=seed, regions=regions, removed=[(p.name, p.account) for p in removed])
    catalog = _catalog(settings, accounts, clock, lateness, seed)
    watch = partial(
        AccountWatch, db=db, clock=clock, probe=probe, signer=signer, limits=limits, probes=Probes(),
        lateness=lateness, check_key=check_key,
    )  # fmt: skip
    supervised = [claims.of_account(each.name, each.account) for each in accounts]
    watches, volume_watches = _watches(watch, accounts, supervised, clock)
    context = RentalContext(
        db=db, clock=clock, limits=limits, chooser=Chooser(catalog, accounts, db, limits), accounts=accounts,
        attempts=Attempts(accounts, watches, catalog, db=db, clock=clock), watches=watches, signer=signer,
        check_key=check_key,
    )  # fmt: skip
    pools, supervisor = build_pools(
        context, catalog, random, probe=probe, lateness=lateness, volume_watches=volume_watches,
        secrets_key=secrets_key, limits=settings.pool_limits, default_spec=settings.default_pool,
    )  # fmt: skip
    reserver = Reserver(context, claims, random=random, default_strategy=settings.lb_strategy)
    instances = Instances(db, nudge=watches.nudge)
    return Engine(
        reserver=reserver, accounts=accounts,
        recovery=Recovery(db, accounts, claims, supervised=supervised, is_running=reserver.is_running),
        reservations=Reservations(db, stop=reserver.stop, nudge=watches.nudge),
        instances=instances, spending=Spending(db),
        load=Load(db, settings.lb_strategy), strategies=StrategySetting(db, settings.lb_strategy),
        health=_health(db, accounts, clock),
        sheets=Sheets(db, accounts, watches, clock, settings.marketplaces, settings.intervals),
        machines=Machines(instances, accounts, watches, db=db, clock=clock, limits=limits),
        catalog=catalog, watches=watches, volume_watches=volume_watches, clock=clock, db=db, signer=signer,
        billing_checks=tuple(BillingCheck(watch.provider, db, clock, watch.longest_listing_gap) for watch in watches),
        true_ups=tuple(TrueUp(provider, db, clock) for provider in accounts),
        history=History(db, clock, timedelta(seconds=settings.keep_history) if settings.keep_history else None),
        pools=pools, supervisor=supervisor, metrics=metrics, limits=limits,
        readiness=Readiness(db=db, watches=watches, clock=clock, limits=limits, lateness=lateness),
    )  # fmt: skip


def _watches(
    watch: "partial[AccountWatch]", accounts: Accounts, claims: Sequence[HeldClaim], clock: Clock
) -> tuple[Watches, Watches]:
    """The watches of the accounts' machines, and of their volumes. Both of an account work under one claim."""
    claimed = list(zip(accounts, claims, strict=True))
    volumes = [each for each in claimed if "volumes" not in each[0].capabilities.missing]
    of_machines = Watches([watch(provider, claim=claim) for provider, claim in claimed])
    of_volumes = Watches([watch(VolumeSide(provider), claim=claim, kind="volume") for provider, claim in volumes])
    for provider, _ in volumes:
        key = (provider.name, provider.account)
        vouching.pair(of_machines.at(key), of_volumes.at(key), clock)
    return of_machines, of_volumes


def _catalog(settings: Settings, accounts: Accounts, clock: Clock, lateness: Lateness, seed: str) -> Catalog:
    return Catalog(
        list(accounts.usable()), clock, {"grpc": encode_offer, "json": offer_json}, seed=seed,
        regions=accounts.regions, lateness=lateness, refresh_seconds=settings.catalog_refresh_interval,
        stale_after_seconds=settings.catalog_stale_after,
    )  # fmt: skip


def _health(db: Database, accounts: Accounts, clock: Clock) -> Health:
    failures = gpu_failures((each.name, each.capabilities) for each in accounts)
    return Health(db, accounts.keys() - accounts.removed, failures, clock)


def _limits(settings: Settings) -> Limits:
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
        extend_margin=settings.extend_margin,
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
        marketplaces=marketplaces,
        clock=engine.clock,
        pools=engine.pools,
        pool_max_price=settings.warmpool_max_price,
        sheets=engine.sheets,
    )
    token_auth = TokenAuth(tokens=access.tokens, find=access.users.find)
    authenticator = Authenticator(access.keys.find, engine.clock, token_auth)
    dispatcher = Dispatcher(authenticator, engine.clock, random, engine.metrics.rpc, around)

    async def measured() -> bytes:
        return engine.metrics.render(await figures.read(engine.db, engine.watches, engine.clock))

    pages = Pages(engine.readiness.checks, measured, built_of(service), tuple(marketplaces.values()))
    http = HttpServer(
        dispatcher,
        service,
        random=random,
        clock=engine.clock,
        pages=pages.routes,
        max_concurrent=settings.max_concurrent_rpcs,
        drain_seconds=settings.drain_seconds,
    )
    grpc = GrpcServer(dispatcher, service, extra=extra, max_concurrent_rpcs=settings.max_concurrent_rpcs)
    return Interfaces(grpc=grpc, http=http, pages=pages)
