"""The wiring: the only place that knows which concrete things exist, and the lifetime of every task.

`serve` is one straight line: open the books, start the clock, connect the accounts, recover, listen, wait for a
signal, drain. Commands that work without a server (`upkeep`, `people`) take their books and accounts from here.
"""

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import structlog

from gpuproxy import database_files, deployment, logs
from gpuproxy.access import Access, open_access
from gpuproxy.banner import banner
from gpuproxy.config import Account, ConfigError, Settings, check_start
from gpuproxy.deployment import WrongDatabase
from gpuproxy.edge.auth import Authenticator, Bearers
from gpuproxy.edge.dispatch import Around, Dispatcher
from gpuproxy.edge.faces import Faces
from gpuproxy.edge.grpc_server import GrpcServer
from gpuproxy.edge.http_pages import Pages
from gpuproxy.edge.http_server import HttpServer
from gpuproxy.edge.rpcs import Rpc, built_of
from gpuproxy.edge.service import Service
from gpuproxy.edge.session import Session
from gpuproxy.edge.translate import encode_offer, offer_json
from gpuproxy.engine import figures
from gpuproxy.engine.accounts import Accounts
from gpuproxy.engine.books import Books
from gpuproxy.engine.call import Workshop
from gpuproxy.engine.catalog import Catalog
from gpuproxy.engine.choice import Chooser
from gpuproxy.engine.doubts import Knocks
from gpuproxy.engine.figures import Figures
from gpuproxy.engine.limits import Limits
from gpuproxy.engine.loops import due_forever, settle_forever, watch_forever, witness_forever
from gpuproxy.engine.machines import Machines
from gpuproxy.engine.observe import AccountWatch
from gpuproxy.engine.readiness import Readiness
from gpuproxy.engine.reserve import Reserver
from gpuproxy.engine.settling import Settling
from gpuproxy.engine.witness import Witness
from gpuproxy.listening import allow_many_files, certificates_of, complain_rarely, listen
from gpuproxy.metrics import Begin, Counted, Metrics
from gpuproxy.model.labels import Signer
from gpuproxy.model.offers import ProviderName
from gpuproxy.ports import Clock, Database, Http, Probe, Provider, ProviderSetup, Random
from gpuproxy.safe_books import require_safe
from gpuproxy.sandbox_child import SandboxChild, SandboxFailed, start_sandbox
from gpuproxy.store import counters
from gpuproxy.store.ballast import Ballast
from gpuproxy.store.driver import sqlite3
from gpuproxy.store.place import DatabaseLocked, WrongPlace
from gpuproxy.store.sqlite import SqliteDatabase
from gpuproxy.system import SocketProbe, SystemRandom, Threads
from gpuproxy.transport import AioHttp

if TYPE_CHECKING:
    from gpuproxy.tracing import Tracing

log = structlog.get_logger(__name__)

_SANDBOX_KEY = "sandbox-key"


@dataclass(slots=True, kw_only=True)
class Engine:
    """Everything below the edge, wired, and its background work."""

    reserver: Reserver
    books: Books
    machines: Machines
    catalog: Catalog
    watches: tuple[AccountWatch, ...]
    clock: Clock
    db: Database
    providers: tuple[ProviderName, ...]
    signer: Signer
    witnesses: tuple[Witness, ...]
    witness_seconds: float
    settlings: tuple[Settling, ...]
    settling_seconds: float
    readiness: Readiness
    metrics: Metrics
    _tasks: tuple[asyncio.Task[None], ...] = ()

    async def start(self) -> None:
        """Take over what an earlier process left, then look after everything in the background."""
        await self.db.write(counters.recount)
        await self.reserver.recover()
        loops = [
            self.catalog.run(),
            *(watch_forever(watch, self.clock) for watch in self.watches),
            *(due_forever(watch, self.db, self.clock) for watch in self.watches),
            *(settle_forever(settling, self.clock, self.settling_seconds) for settling in self.settlings),
            *(witness_forever(witness, self.clock, self.witness_seconds) for witness in self.witnesses),
        ]
        self._tasks = tuple(asyncio.create_task(loop) for loop in loops)

    async def drain(self, seconds: float) -> None:
        """Start no more creates; wait for those under way, at most so many real seconds."""
        await self.reserver.drain(seconds)

    async def stop(self) -> None:
        """End the background work; the books know what is left to do."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for watch in self.watches:
            await watch.close()


async def serve(settings: Settings, *, sandbox: bool) -> int:
    """Run the server until SIGTERM or SIGINT; the exit code. Raises ConfigError when it must not start."""
    check_start(settings, sandbox=sandbox)
    collect_rarely()
    redactor = logs.configure(level=settings.log_level, style=settings.log_format, secrets=settings.secrets)
    random = SystemRandom()
    allow_many_files()
    complain_rarely(asyncio.get_running_loop())
    certificates = certificates_of(settings)
    async with AsyncExitStack() as stack:
        tracing = _tracing(settings, stack)
        db = await stack.enter_async_context(open_books(settings))
        try:
            clock = await deployment.start_clock(db, settings.time_scale)
            db.judge_by(clock.now)
            await deployment.claim_market(db, "sandbox" if sandbox else "real")
            child = await _sandbox(stack, settings, clock) if sandbox else None
            providers = await connect_accounts(stack, settings, clock, child)
            await deployment.claim_accounts(db, frozenset((p.name, p.account) for p in providers))
            configured = settings.admin_api_key.get_secret_value() if settings.admin_api_key else ""
            redactor.add(await deployment.ensure_admin(db, random, configured, settings.admin_key_file))
        except (WrongDatabase, SandboxFailed) as error:
            raise ConfigError(str(error)) from error
        access = await open_access(settings, db, clock, random)
        redactor.add(access.secret)
        signer = await deployment.signer(db, random)
        engine = build_engine(
            settings,
            db=db,
            clock=clock,
            random=random,
            providers=providers,
            probe=SocketProbe(),
            signer=signer,
            begin=tracing.provider_call if tracing else None,
        )
        stack.push_async_callback(engine.stop)
        await engine.start()
        stack.callback(asyncio.create_task(engine.metrics.watch_lag(clock)).cancel)
        faces = build_faces(settings, engine, access, random, around=tracing.rpc if tracing else None)
        try:
            ports = await listen(settings, faces, certificates)
        except ConfigError:
            await faces.drain(0)  # the one that does listen
            raise
        print(banner(settings, *ports, child.url if child else ""), flush=True)  # noqa: T201
        await _until_signalled(engine, faces)
        log.info("draining", seconds=settings.drain_seconds)
        await asyncio.gather(faces.drain(settings.drain_seconds), engine.drain(settings.drain_seconds))
        _say_goodbye(await figures.read(db, engine.watches, clock))
    return 0


def _say_goodbye(left: Figures) -> None:
    if left.rented:
        effect = "they go on costing money, and no lease ends, until a server is started on this database again"
        log.info("machines_stay_rented", machines=left.rented, usd_per_hour=left.usd_per_hour, effect=effect)


def collect_rarely() -> None:
    """Look for reference cycles less often than Python does by itself.

    We make hardly any, and one look at twenty thousand offers stops the loop for 40 ms: a choice among thousands of
    offers, whose objects all go by themselves, would cause several.
    """
    gc.set_threshold(20_000, 10, 10)


def build_engine(
    settings: Settings,
    *,
    db: Database,
    clock: Clock,
    random: Random,
    providers: list[Provider],
    probe: Probe,
    signer: Signer,
    begin: Begin | None = None,
) -> Engine:
    """Wire the engine over whatever ports it is given."""
    limits = _limits(settings)
    metrics = Metrics()
    providers = [Counted(provider, metrics, clock, begin) for provider in providers]
    accounts = Accounts(providers, clock)
    catalog = _catalog(settings, providers, clock)
    knocks = Knocks()
    watches = tuple(
        AccountWatch(provider, db, clock=clock, probe=probe, signer=signer, limits=limits, knocks=knocks)
        for provider in accounts
    )
    shop = Workshop(
        db=db,
        clock=clock,
        random=random,
        accounts=accounts,
        catalog=catalog,
        chooser=Chooser(catalog, accounts, db, limits),
        signer=signer,
        watches=watches,
        limits=limits,
        default_strategy=settings.lb_strategy,
        owner=random.token(8),
    )
    reserver = Reserver(shop)
    books = Books(
        db, stop=reserver.stop, nudge=shop.nudge, default_strategy=settings.lb_strategy, accounts=accounts.keys()
    )
    return Engine(
        reserver=reserver,
        books=books,
        machines=Machines(books, accounts, watches, db=db, clock=clock, limits=limits),
        catalog=catalog,
        watches=watches,
        clock=clock,
        db=db,
        providers=accounts.names(),
        signer=signer,
        witnesses=tuple(Witness(watch.provider, db, clock, watch.blind_spell) for watch in watches),
        witness_seconds=limits.witness_seconds,
        settlings=tuple(Settling(provider, db, clock) for provider in accounts),
        settling_seconds=limits.settling_seconds,
        readiness=Readiness(db=db, watches=watches, clock=clock, limits=limits),
        metrics=metrics,
    )


def _catalog(settings: Settings, providers: list[Provider], clock: Clock) -> Catalog:
    return Catalog(
        providers,
        clock,
        {"grpc": encode_offer, "json": offer_json},
        refresh_seconds=settings.catalog_refresh_interval,
        stale_after_seconds=settings.catalog_stale_after,
    )


def _limits(settings: Settings) -> Limits:
    return Limits(
        poll_seconds=settings.ready_poll_interval,
        reconcile_seconds=settings.reconcile_interval,
        probe_timeout=settings.ready_probe_timeout,
        max_unknown=settings.max_unknown,
        replacement_factor=settings.replacement_factor,
        max_creates_per_minute=settings.max_creates_per_minute,
        witness_seconds=settings.witness_interval,
    )


def build_faces(
    settings: Settings,
    engine: Engine,
    access: Access,
    random: Random,
    *,
    extra: Mapping[str, Rpc] | None = None,
    around: Around | None = None,
) -> Faces:
    """Both faces over the engine; `extra`: gRPC calls outside the contract, for measurements."""
    service = Service(
        reserver=engine.reserver,
        books=engine.books,
        machines=engine.machines,
        catalog=engine.catalog,
        session=Session(logins=access.logins, keys=access.keys, ssh_keys=access.ssh_keys),
        fingerprint_key=access.fingerprint_key,
        default_max_price=settings.max_price,
        lease_duration=timedelta(seconds=settings.lease_duration) if settings.lease_duration else None,
        providers=engine.providers,
        clock=engine.clock,
    )
    bearers = Bearers(tokens=access.tokens, find=access.users.find)
    authenticator = Authenticator(access.keys.find, engine.clock, bearers)
    dispatcher = Dispatcher(authenticator, engine.clock, random, engine.metrics.rpc, around)

    async def measured() -> bytes:
        return engine.metrics.render(await figures.read(engine.db, engine.watches, engine.clock))

    pages = Pages(engine.readiness.checks, measured, built_of(service))
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
    return Faces(grpc=grpc, http=http, pages=pages)


def _tracing(settings: Settings, stack: AsyncExitStack) -> "Tracing | None":
    """None, and nothing imported, where no endpoint is set."""
    if not settings.otel_endpoint:
        return None
    try:
        from gpuproxy.tracing import exporting
    except ImportError:
        raise ConfigError(
            "GPUPROXY_OTEL_ENDPOINT is set but OpenTelemetry is not installed: not started. "
            "Install gpuproxy[otel], or leave it empty."
        ) from None
    tracing = exporting(settings.otel_endpoint)
    stack.push_async_callback(tracing.close)
    return tracing


@asynccontextmanager
async def open_books(settings: Settings, *, alone: bool = True) -> AsyncIterator[SqliteDatabase]:
    """The database until the end of the block; raises ConfigError when it can't be had."""
    require_safe(settings, warn=alone)  # a command's stdout is for its answer
    path = settings.database_path
    ballast = Ballast(database_files.beside(path, ".ballast")) if alone else None
    try:
        db = SqliteDatabase(str(path), lambda: datetime.now(UTC), alone=alone, ballast=ballast)
    except DatabaseLocked as error:
        raise ConfigError(f"{error} Stop it first, or set GPUPROXY_DATABASE_URL to another file.") from error
    except (WrongPlace, sqlite3.Error, OSError) as error:
        raise ConfigError(f"GPUPROXY_DATABASE_URL: {settings.database_path} can't be opened: {error}.") from error
    try:
        yield db
    finally:
        await db.close()


async def _sandbox(stack: AsyncExitStack, settings: Settings, clock: Clock) -> SandboxChild:
    return await stack.enter_async_context(start_sandbox(settings.sandbox_state_file, clock))


async def connect_accounts(
    stack: AsyncExitStack, settings: Settings, clock: Clock, child: SandboxChild | None
) -> list[Provider]:
    """One Provider for each account, each over a connection pool of its own."""
    found = {point.name: point for point in entry_points(group="gpuproxy.providers")}
    accounts = settings.accounts
    if child is not None:
        accounts = (Account(provider="vast.ai", name="sandbox-1", key=_SANDBOX_KEY, base_url=child.url),)
    providers = []
    for account in accounts:
        http = AioHttp()
        stack.push_async_callback(http.close)
        setup = _setup(settings, account, http, clock, {"sandbox": "true"} if child else {})
        connect: Callable[[ProviderSetup], Provider] = found[account.provider].load()
        providers.append(connect(setup))
    return providers


def _setup(settings: Settings, account: Account, http: Http, clock: Clock, marks: Mapping[str, str]) -> ProviderSetup:
    return ProviderSetup(
        account=account.name,
        key=account.key,
        base_url=account.base_url,
        http=http,
        clock=clock,
        workers=Threads(),
        intervals=settings.intervals.get(account.provider, {}),
        timeouts={
            "search": settings.search_timeout,
            "create": settings.create_timeout,
            "call": settings.call_timeout,
        },
        marks=marks,
    )


async def _until_signalled(engine: Engine, faces: Faces) -> None:
    """Serve until SIGTERM or SIGINT; SERVING is said once the first snapshot of a market is there."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    stopped = asyncio.ensure_future(stop.wait())
    first = asyncio.ensure_future(engine.catalog.first_snapshot())
    await asyncio.wait([stopped, first], return_when=asyncio.FIRST_COMPLETED)
    await faces.serving(not stopped.done())
    await stopped
    first.cancel()
