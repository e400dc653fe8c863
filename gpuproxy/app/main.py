"""The wiring of the server: the only module that chooses concrete implementations, and the owner of every task.

`serve` is a sequence: open the database, start the clock, connect the accounts, recover, listen, wait for a signal,
drain. Commands that work without a server (`upkeep`, `user_admin`) open the accounts with the functions here, and the
database with those of `opening`.
"""

import asyncio
import gc
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import structlog

from gpuproxy.adapters import logs, ssh_login
from gpuproxy.adapters.proxies import DIRECT, Proxies
from gpuproxy.adapters.ssh_login import SshLogin, UnusableKey
from gpuproxy.adapters.system import SocketProbe, SystemRandom, Threads
from gpuproxy.adapters.transport import AioHttp
from gpuproxy.app import deployment, figures
from gpuproxy.app.access import Access, open_access
from gpuproxy.app.banner import banner
from gpuproxy.app.deployment import WrongDatabase
from gpuproxy.app.figures import Figures
from gpuproxy.app.listening import allow_many_files, certificates_of, complain_rarely, listen
from gpuproxy.app.loops import running_loop
from gpuproxy.app.marketplaces import proxies_in_use, regions_of, sandbox_accounts
from gpuproxy.app.opening import open_database, use_clock
from gpuproxy.app.pool_secrets import secrets_key
from gpuproxy.app.removed_keys import claim_accounts
from gpuproxy.app.same_secrets import DEMAND_KEY, POOL_KEY, require_same
from gpuproxy.app.sandbox_child import SandboxChild, SandboxFailed, start_sandbox
from gpuproxy.app.webhooks import connect_webhooks
from gpuproxy.app.wiring import Engine, build_engine, build_interfaces
from gpuproxy.config.environment import ConfigError
from gpuproxy.config.loading import check_proxies, check_start
from gpuproxy.config.marketplaces import Account
from gpuproxy.config.settings import Settings
from gpuproxy.edge.interfaces import Interfaces
from gpuproxy.model.offers import ProviderName
from gpuproxy.ports import Clock, Database, Http, Provider, ProviderSetup
from gpuproxy.runtime.background import Background
from gpuproxy.runtime.fencing import FencedHttp
from gpuproxy.runtime.lateness import Lateness
from gpuproxy.runtime.shared_turns import SharedTurns
from gpuproxy.store import probes

if TYPE_CHECKING:
    from gpuproxy.app.tracing import Tracing

log = structlog.get_logger(__name__)


async def serve(settings: Settings, *, sandbox: bool, force: bool = False) -> int:
    """Run the server until SIGTERM or SIGINT, and return the exit code. Raises ConfigError if it must not start.

    `force`: start even if the key of an account that is still in use was removed, or if the secrets are not those of
    the servers that used the database before.
    """
    check_start(settings, sandbox=sandbox)
    collect_rarely()
    redactor = logs.configure(level=settings.log_level, style=settings.log_format, secrets=settings.secrets)
    random = SystemRandom()
    allow_many_files()
    complain_rarely(asyncio.get_running_loop())
    certificates = certificates_of(settings)
    login = check_login(settings, sandbox=sandbox)
    async with AsyncExitStack() as stack:
        tracing = _tracing(settings, stack)
        outgoing = connect_webhooks(stack, settings, redactor)
        db = await stack.enter_async_context(open_database(settings))
        try:
            clock = await deployment.start_clock(db, settings.time_scale)
            await use_clock(db, clock.now)
            await deployment.claim_market(db, "sandbox" if sandbox else "real")
            child = await _sandbox(stack, settings, clock) if sandbox else None
            lateness = Lateness(clock)
            providers = await connect_accounts(stack, settings, clock, child, lateness, db=db)
            removed = await claim_accounts(db, providers, settings.marketplaces, force=force)
            configured = settings.admin_api_key.get_secret_value() if settings.admin_api_key else ""
            redactor.add(await deployment.ensure_admin(db, random, configured, settings.admin_key_file))
        except (WrongDatabase, SandboxFailed) as error:
            raise ConfigError(str(error)) from error
        access = await open_access(settings, db, clock, random)
        signer = await deployment.signer(db, random)
        pool_key = await secrets_key(db, settings.pool_secrets_key_file)
        redactor.add(access.secret, pool_key.decode() if pool_key else "")
        await require_same(db, _shared_secrets(access, pool_key, login), force=force)
        engine = build_engine(
            settings, db=db, clock=clock, random=random, providers=providers, removed=removed,
            regions=regions_of(settings), probe=SocketProbe(login), check_key=login.public_key if login else "",
            signer=signer, lateness=lateness, begin=tracing.provider_call if tracing else None, secrets_key=pool_key,
            outgoing=outgoing, workers=Threads(),
        )  # fmt: skip
        stack.push_async_callback(engine.stop)
        measuring = Background("lateness")
        measuring.start(lateness.watch(engine.metrics.loop_lag))
        stack.push_async_callback(measuring.close)
        await engine.start()
        interfaces = build_interfaces(settings, engine, access, random, around=tracing.rpc if tracing else None)
        try:
            ports = await listen(settings, interfaces, certificates)
        except ConfigError:
            await interfaces.drain(0)  # close the interface that did start
            raise
        print(banner(settings, *ports, child.url if child else ""), flush=True)  # noqa: T201
        log.info("server_started", loop=running_loop())
        await _until_signalled(engine, interfaces)
        log.info("draining", seconds=settings.drain_seconds)
        await asyncio.gather(interfaces.drain(settings.drain_seconds), engine.drain(settings.drain_seconds))
        _log_rented(await figures.read(db, engine.watches, clock))
    return 0


def check_login(settings: Settings, *, sandbox: bool) -> SshLogin | None:
    """The login that each machine must accept, if a check key is configured. Raises ConfigError."""
    if settings.ssh_check_key is None:
        return None
    if sandbox:
        raise ConfigError(
            "GPUPROXY_SSH_CHECK_KEY is set, but machines of the sandbox only send a banner and let nobody in: not "
            "started. Remove the setting."
        )
    try:
        return ssh_login.load(settings.ssh_check_key)
    except UnusableKey as error:
        raise ConfigError(f"GPUPROXY_SSH_CHECK_KEY: {error}: not started.") from None


def _shared_secrets(access: Access, pool_key: bytes | None, login: SshLogin | None) -> Mapping[str, bytes]:
    """What all servers of a deployment must have in common, by the setting that gives it."""
    return {
        DEMAND_KEY: access.fingerprint_key,
        POOL_KEY: pool_key or b"",
        "GPUPROXY_JWT_SECRET": access.secret.encode(),
        "GPUPROXY_SSH_CHECK_KEY": login.public_key.encode() if login else b"",
    }


def _log_rented(left: Figures) -> None:
    if left.rented:
        effect = "they still cost money, and no lease expires until a server is started on this database again"
        log.info("machines_stay_rented", machines=left.rented, usd_per_hour=left.usd_per_hour, effect=effect)


def collect_rarely() -> None:
    """Run the garbage collector less often than Python does by default.

    The program creates hardly any reference cycles, but one collection with twenty thousand offers blocks the loop for
    40 ms. With the default, a choice among thousands of offers would cause several collections.
    """
    gc.set_threshold(20_000, 10, 10)


def _tracing(settings: Settings, stack: AsyncExitStack) -> "Tracing | None":
    """The exporter of traces. None if no endpoint is set; then OpenTelemetry is not imported."""
    if not settings.otel_endpoint:
        return None
    try:
        from gpuproxy.app.tracing import exporting
    except ImportError:
        raise ConfigError(
            "GPUPROXY_OTEL_ENDPOINT is set but OpenTelemetry is not installed: not started. "
            "Install gpuproxy[otel], or remove the setting."
        ) from None
    tracing = exporting(settings.otel_endpoint)
    stack.push_async_callback(tracing.close)
    return tracing


async def _sandbox(stack: AsyncExitStack, settings: Settings, clock: Clock) -> SandboxChild:
    return await stack.enter_async_context(start_sandbox(settings.sandbox_state_file, clock))


async def connect_accounts(
    stack: AsyncExitStack,
    settings: Settings,
    clock: Clock,
    child: SandboxChild | None,
    lateness: Lateness,
    *,
    db: Database,
) -> list[Provider]:
    """One Provider for each account, each with its own connection pool. `child`: use only this sandbox, and no proxy.

    `db`: what probes have measured is read from it.
    Raises ConfigError if a proxy is needed that can't be used.
    """

    def late() -> float:
        return lateness.total() / clock.scale

    marketplaces = {each.name: each for each in settings.marketplaces}
    accounts = settings.accounts if child is None else sandbox_accounts(settings.marketplaces, child.url)
    providers, proxies = [], DIRECT if child else _proxies(settings)
    for account in accounts:
        http = AioHttp(late, proxies=proxies)
        stack.push_async_callback(http.close)
        key = (ProviderName(account.provider), account.name)
        setup = replace(
            _setup(settings, account, FencedHttp(http), clock, {"sandbox": "true"} if child else {}),
            shared=None if db.exclusive else SharedTurns(db, clock, key),
            container_key=await db.read(partial(probes.container_key, account=key)),
        )
        providers.append(marketplaces[ProviderName(account.provider)].connect(setup))
    return providers


def _proxies(settings: Settings) -> Proxies:
    """The proxies for calls to marketplaces. The log names those in use, and the variables that can't be used."""
    check_proxies(settings)
    for setting, problem in settings.proxy_problems:
        log.warning("proxy_setting_ignored", setting=setting, problem=problem)
    for name, proxy in proxies_in_use(settings, settings.accounts).items():
        log.info("proxy_used", provider=name, proxy=proxy)
    return settings.proxies


def _setup(settings: Settings, account: Account, http: Http, clock: Clock, marks: Mapping[str, str]) -> ProviderSetup:
    return ProviderSetup(
        account=account.name,
        key=account.key,
        region=account.region,
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
        prepaid_hours=settings.prepaid_hours,
        marks=marks,
    )


async def _until_signalled(engine: Engine, interfaces: Interfaces) -> None:
    """Serve until SIGTERM or SIGINT. The health service reports SERVING after the first snapshot of a market."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    stopped = asyncio.ensure_future(stop.wait())
    first = asyncio.ensure_future(engine.catalog.first_snapshot())
    await asyncio.wait([stopped, first], return_when=asyncio.FIRST_COMPLETED)
    await interfaces.serving(not stopped.done())
    await stopped
    first.cancel()
