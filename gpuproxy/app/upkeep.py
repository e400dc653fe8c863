"""The commands of operators: check a deployment, reconcile it once, export or import its key, back it up.

Each function opens the database itself. Servers may be running, except during `reconcile` without `dry_run` and
during `import_signing`.
"""

import asyncio
import base64
import binascii
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from gpuproxy.adapters import private_files
from gpuproxy.adapters.system import SocketProbe, SystemRandom
from gpuproxy.app import deployment
from gpuproxy.app.database_safety import require_safe
from gpuproxy.app.local_database import check_exists, with_database
from gpuproxy.app.main import check_login, connect_accounts
from gpuproxy.app.marketplaces import SANDBOX_ACCOUNT, SANDBOX_KEY, in_sandbox, proxies_in_use
from gpuproxy.app.opening import OpenDatabase, use_clock
from gpuproxy.app.removed_keys import last_accounts
from gpuproxy.app.wiring import limits_of
from gpuproxy.config.environment import ConfigError
from gpuproxy.config.settings import Settings
from gpuproxy.health import checkup
from gpuproxy.health.checkup import Finding
from gpuproxy.model.errors import RateLimited
from gpuproxy.model.lease_events import Release
from gpuproxy.model.offers import ProviderName
from gpuproxy.ports import Tx
from gpuproxy.reconcile.decided import Decided
from gpuproxy.reconcile.doubts import Probes
from gpuproxy.reconcile.observe import AccountWatch
from gpuproxy.reconcile.steps import Advance, Note, Step
from gpuproxy.runtime.claims import Claims
from gpuproxy.runtime.lateness import Lateness
from gpuproxy.store import leases, meta
from gpuproxy.store.claims import drop
from gpuproxy.store.sqlite import files as database_files
from gpuproxy.store.sqlite.copying import copy_to
from gpuproxy.store.sqlite.location import UnusableLocation, require_one_name

T = TypeVar("T")


def doctor(settings: Settings) -> tuple[Finding, ...]:
    """The problems that an operator should look at."""
    accounts = {(ProviderName(account.provider), account.name) for account in settings.accounts}
    failures = checkup.gpu_failures((each.name, each.capabilities) for each in settings.marketplaces)

    async def look(db: OpenDatabase) -> tuple[Finding, ...]:
        return await db.read(lambda tx: checkup.findings(tx, accounts | last_accounts(tx), failures, every_row=True))

    return _with_database(settings, look)


def notes(settings: Settings) -> list[str]:
    """One line for each marketplace that is reached through an HTTP proxy, and for each variable that can't be used.

    No line has credentials. Without an account, nothing uses a proxy, and the line says that there is none.
    """
    if not settings.accounts:
        return ["No marketplace key is set here: only the database was checked."]
    used = proxies_in_use(settings, settings.accounts)
    lines = [f"{name} is reached through the HTTP proxy {proxy}" for name, proxy in used.items()]
    return lines + [f"{setting} is not used: {problem}" for setting, problem in settings.proxy_problems]


@dataclass(frozen=True, slots=True)
class Once:
    """What one pass over all accounts found."""

    lines: list[str]
    """One for each step and its reason."""
    complete: bool
    """False if a marketplace did not answer: nothing is known of its machines."""


def reconcile(settings: Settings, *, dry_run: bool) -> Once:
    """Reconcile every account once. With `dry_run`, change nothing.

    Raises ConfigError if another process has the claim on an account, because that process does the work.
    """
    check_exists(settings)
    if not settings.accounts:
        raise ConfigError("No provider key is set, so there is no account to reconcile." + _sandbox_hint(settings))
    login = check_login(settings, sandbox=False)

    async def run(db: OpenDatabase) -> Once:
        async with AsyncExitStack() as stack:
            clock = await deployment.start_clock(db, settings.time_scale)
            await use_clock(db, clock.now)
            signer = await deployment.signer(db, SystemRandom())
            lines: list[str] = []
            complete = True
            lateness, claims = Lateness(clock), Claims(db, clock, SystemRandom().token(8))
            for provider in await connect_accounts(stack, settings, clock, None, lateness, db=db):
                watch = AccountWatch(
                    provider, db, clock=clock, probe=SocketProbe(login), signer=signer, limits=limits_of(settings),
                    probes=Probes(), lateness=lateness, claim=claims.of_account(provider.name, provider.account),
                    check_key=login.public_key if login else "",
                )  # fmt: skip
                lines += _lines(watch, await watch.preview())
                complete = complete and watch.silent_since is None
                if not dry_run:
                    await _reconciled(db, claims, watch)
            return Once(lines, complete)

    return _with_database(settings, run, alone=not dry_run)


async def _reconciled(db: OpenDatabase, claims: Claims, watch: AccountWatch) -> None:
    """One pass with all its effects under the claim, which is renewed meanwhile and given up at the end."""
    account = f"{watch.provider.name} {watch.provider.account}"

    def take(tx: Tx) -> bool:
        claims.begin(tx)
        return watch.claim.take(tx)

    if not await db.write(take):
        raise ConfigError(
            f"{account} is reconciled by another process, a server or this command: nothing was changed. If that has "
            "ended, its claim is over within 12 seconds."
        )
    keeping = asyncio.create_task(watch.claim.keep(lambda: None))
    try:
        await watch.step()
        held = watch.claim.known
    finally:
        keeping.cancel()
        await watch.close()
    if held is None:
        raise ConfigError(f"A server that was started meanwhile has taken {account} over, and does the rest.")
    await db.write(lambda tx: drop(tx, held))


def _sandbox_hint(settings: Settings) -> str:
    """The settings that name the market of `serve --sandbox`."""
    names = [each.env for each in in_sandbox(settings.marketplaces)]
    if not names:
        return ""
    urls, keys, accounts = (
        " and ".join(form.format(name) for name in names)
        for form in ("GPUPROXY_{}_URL", f"{{}}_API_KEY={SANDBOX_KEY}", f"{{}}_API_KEY_NAMES={SANDBOX_ACCOUNT}")
    )
    return (
        f" For the market of `serve --sandbox`, set {urls} to the sandbox address that the server printed, and also "
        f"{keys} and {accounts}."
    )


def export_signing(settings: Settings, file: Path) -> bool:
    """Write the deployment's id and signing key to `file` (mode 0600). Whoever has the file can claim its machines.

    False: the file contains this key already. Raises ConfigError if it contains anything else, which may be the only
    copy of another key.
    """

    async def read(db: OpenDatabase) -> bool:
        signer = await deployment.signer(db, SystemRandom())
        text = json.dumps({"deployment": signer.deployment, "key": base64.b64encode(signer.key).decode()})
        if _holds(file, text):
            private_files.restrict(file)
            return False
        _write_secret(file, text)
        return True

    check_exists(settings)
    _check_apart(settings, file)
    return _with_database(settings, read)


def import_signing(settings: Settings, file: Path) -> None:
    """Give a new database the id and the key of an exported deployment. Raises ConfigError if it has leases already."""
    try:
        found = json.loads(file.read_text())
        key, name = base64.b64decode(found["key"], validate=True), str(found["deployment"])
    except (OSError, ValueError, KeyError, TypeError, binascii.Error):
        raise ConfigError(f"{file} is not a signing key that `gpuproxy keys export-signing` wrote.") from None

    def write(tx: Tx) -> None:
        if leases.exist(tx):
            raise ConfigError("This database already has leases with its own key. Import the key into a new database.")
        meta.write(tx, meta.DEPLOYMENT, name)
        meta.write(tx, meta.SIGNING_KEY, base64.b64encode(key).decode())

    async def run(db: OpenDatabase) -> None:
        await db.write(write)

    _with_database(settings, run, alone=True, may_create=True)


def backup(settings: Settings, file: Path) -> None:
    """Write a consistent copy of the database to `file`, which must not exist. The server may be running.

    Raises ConfigError; then no file is left.
    """
    if settings.on_postgres:
        raise ConfigError(
            "`gpuproxy backup` copies SQLite files, and the database is in PostgreSQL. Use pg_dump, or a base backup "
            "with an archive of the log for point-in-time recovery: docs/postgres.md."
        )
    check_exists(settings)
    _check_apart(settings, file)
    require_safe(settings, warn=False)  # the last process that closes a database writes to it, even after a copy
    origin, copy = database_files.real(settings.database_path), file.absolute()  # SQLite reads no absolute path as URI
    try:
        require_one_name(origin)
    except UnusableLocation as error:
        raise ConfigError(f"GPUPROXY_DATABASE_URL: {settings.database_path} can't be copied: {error}.") from error
    _write_secret(file, "")
    whole = False
    try:
        copy_to(copy, origin)
        whole = True
    except OSError as error:
        raise ConfigError(f"{file} can't be written: {error}.") from error
    finally:
        if not whole:
            _remove(file)


def _remove(file: Path) -> None:
    """Remove an incomplete copy, so that it is not mistaken for a backup."""
    for each in (file, Path(f"{file}-journal")):
        with suppress(OSError):
            each.unlink()


def _lines(watch: AccountWatch, decided: Decided) -> list[str]:
    """One line for each step, or why there is none."""
    account = watch.provider.account
    if watch.trouble is not None:
        why = f"{watch.trouble.reason}: {watch.trouble}"
        if isinstance(watch.trouble, RateLimited):
            why += " A server that runs with the same key uses the same limit. Try again in a minute."
        return [f"{account}: no step, because the provider does not answer. {why}"]
    lines = [f"{account}: {_words(step)}" for step in decided.steps if not isinstance(step, Note)]
    lines += [f"{account}: destroy {stray.instance.id}: {stray.kind}" for stray in decided.strays]
    live = len(decided.live)
    return lines or [f"{account}: nothing to do; {live} live {'lease' if live == 1 else 'leases'}"]


def _words(step: Step) -> str:
    what = f"{step.lease.id} ({step.lease.instance_id or 'no instance id'}, {step.lease.state})"
    if isinstance(step, Advance):
        reason = f": {step.event.reason}" if isinstance(step.event, Release) else ""
        return f"{step.event.kind} {what}{reason}"
    return f"{type(step).__name__.lower()} {what}"


def _check_apart(settings: Settings, file: Path) -> None:
    """Raise ConfigError if `file` is the path of the database or of one of its files, even if that does not exist."""
    if not settings.on_postgres and database_files.real(file) in database_files.all_of(settings.database_path):
        raise ConfigError(f"{file} is a file of the database itself. Name another file.")


def _holds(file: Path, text: str) -> bool:
    with suppress(OSError):
        return not file.is_symlink() and file.stat().st_size == len(text) and file.read_text("latin-1") == text
    return False


def _write_secret(file: Path, text: str) -> None:
    try:
        private_files.write_new(file, text)
    except FileExistsError:
        raise ConfigError(f"{file} exists already. Name another file.") from None
    except OSError as error:
        raise ConfigError(f"{file} can't be written ({error.strerror}). Name another file.") from error


def _with_database(
    settings: Settings, work: Callable[[OpenDatabase], Awaitable[T]], *, alone: bool = False, may_create: bool = False
) -> T:
    async def run(db: OpenDatabase) -> T:
        await use_clock(db, await _clock_of(db))
        return await work(db)

    return with_database(settings, run, alone=alone, may_create=may_create)


async def _clock_of(db: OpenDatabase) -> Callable[[], datetime]:
    """The time on the deployment's clock, without starting it again."""
    stands = await db.read(deployment.stored_clock)
    return lambda: stands(datetime.now(UTC))
