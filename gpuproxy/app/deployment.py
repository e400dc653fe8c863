"""The state that belongs to a deployment: its clock, its secrets, its first admin and its market.

It is created at the first start and kept in the database or in a file beside it.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from gpuproxy.adapters import private_files
from gpuproxy.adapters.system import DatabaseClock, ScaledClock, SteadyClock
from gpuproxy.app import same_secrets
from gpuproxy.config.checks import admin_key_problem
from gpuproxy.config.environment import ConfigError
from gpuproxy.identity.key_rings import PREFIX, key_row, key_text
from gpuproxy.model.labels import Signer
from gpuproxy.ports import Clock, Database, Random, Tx
from gpuproxy.store import keys, leases, meta, reservations
from gpuproxy.store.keys import KeyRow
from gpuproxy.store.rows import micros, moment

log = structlog.get_logger(__name__)

DEFAULT_PROJECT = "default"
_ADMIN_KEY = "GPUPROXY_ADMIN_KEY_FILE"
_CONFIGURED = "admin (configured)"
"""The name of the key of the settings."""
_LEAST_DEMAND_KEY = 16
"""Bytes."""


class WrongDatabase(Exception):
    """The server can't start with this database. The text is for the operator."""


async def start_clock(db: Database, scale: float) -> Clock:
    """Start the deployment's clock. It is real time if the scale has always been 1.

    Otherwise it continues from the stored time at the given scale, and never goes back. Servers that share a database
    all count from the time that the first of them has stored. Raises ConfigError if their scale is another one.
    """
    if db.exclusive:
        now = datetime.now(UTC)
        origin = await db.write(lambda tx: _continued(tx, scale, now))
    else:
        origin = await db.write(lambda tx: _joined(tx, scale))
    return await steady_clock(db, ScaledClock(scale)) if origin is None else ScaledClock(scale, origin=origin)


def _continued(tx: Tx, scale: float, now: datetime) -> datetime | None:
    """The time at which the only server's clock starts, which is stored; None for real time."""
    stored = meta.read(tx, meta.CLOCK)
    if stored is None and scale == 1:
        return None
    stands = now if stored is None else _stands(json.loads(stored), now)
    meta.write(tx, meta.CLOCK, json.dumps({"scale": scale, "real": micros(now), "market": micros(stands)}))
    return stands


def _joined(tx: Tx, scale: float) -> datetime | None:
    """The time on the clock of the servers that share the database; None for real time. The first one stores it."""
    stored = meta.read(tx, meta.CLOCK)
    if stored is None and meta.read(tx, meta.MARKET) is None:
        return None if scale == 1 else _continued(tx, scale, tx.now())
    theirs = 1.0 if stored is None else json.loads(stored)["scale"]
    if theirs != scale:
        raise ConfigError(
            f"GPUPROXY_TIME_SCALE: the servers that use this database have a scale of {theirs:g}, and this one has "
            f"{scale:g}: not started. Use their scale, or another database."
        )
    return None if stored is None else _stands(json.loads(stored), tx.now())


async def steady_clock(db: Database, clock: Clock) -> Clock:
    """The clock, but never before the last known time while machines are rented, so that time does not go back.

    Where several processes use the database, its time is that of all of them.
    """
    if not db.exclusive:
        began = clock.monotonic()
        return DatabaseClock(clock, await db.read(lambda tx: tx.now()), began)
    return SteadyClock(clock, not_before=await db.read(leases.last_event_at))


def stored_clock(tx: Tx) -> Callable[[datetime], datetime]:
    """A function from a real time to the time on the deployment's clock."""
    stored = meta.read(tx, meta.CLOCK)
    if stored is None:
        return lambda now: now
    state = json.loads(stored)
    return lambda now: _stands(state, now)


async def claim_market(db: Database, kind: str) -> None:
    """Bind the database to a kind of market, `sandbox` or `real`. Raises WrongDatabase if it has the other kind."""
    found = await db.write(lambda tx: meta.ensure(tx, meta.MARKET, kind))
    if found != kind:
        raise WrongDatabase(
            f"This database belongs to a {found} market, but the server is to use a {kind} market: not started. "
            "Set GPUPROXY_DATABASE_URL to another file."
        )


async def signer(db: Database, random: Random) -> Signer:
    """The signer that creates and verifies this deployment's labels. Its key is created on first use."""
    deployment, key = random.token(6), base64.b64encode(random.secret(32)).decode()

    def write(tx: Tx) -> Signer:
        stored = meta.ensure(tx, meta.SIGNING_KEY, key)
        return Signer(meta.ensure(tx, meta.DEPLOYMENT, deployment), base64.b64decode(stored))

    return await db.write(write)


async def ensure_admin(db: Database, random: Random, configured: str, file: Path) -> str:
    """Ensure that the first admin has a key, and return the key's text so that logs can redact it.

    The key is `configured`. If none is configured, a key is created once and kept in `file` (mode 0600). Of several
    servers on one database, one creates it, and the others return "". A key that was configured before and that is not
    the first admin's now is revoked; see `_end_configured` for several servers.
    Raises ConfigError if the file has something else, and WrongDatabase if it can't be read or written.
    """
    if configured:
        await _ensure_key(db, random, configured, _CONFIGURED, alone=True)
        return configured
    text = await _own_admin(db, random, file)
    await _end_configured(db, text)
    return text


async def _own_admin(db: Database, random: Random, file: Path) -> str:
    """The key of the first admin in the file, which is created if there is none; see `ensure_admin`."""
    text = _kept(_ADMIN_KEY, file)
    if text:
        if problem := admin_key_problem(text, spaces=False):
            raise ConfigError(
                f"{_ADMIN_KEY}: {file} must contain nothing but an API key, which {problem}: not started. Name another "
                "file. If it does not exist, the server creates it with a key."
            )
        private_files.restrict(file)
        await _ensure_key(db, random, text, "admin")
        return text
    text = key_text(random)
    _keep(_ADMIN_KEY, file, text)  # first: a key that is in the database and in no file would be lost
    if not db.exclusive and not await db.write(lambda tx: meta.claim(tx, meta.FIRST_ADMIN)):
        _forget(file)
        log.info("admin_key_elsewhere", file=str(file), effect="another server has created the key of the first admin")
        return ""
    await _ensure_key(db, random, text, "admin")
    return text


async def _end_configured(db: Database, kept: str) -> None:
    """Revoke the key of a setting that was removed, unless it is `kept`, the text of the key file.

    With several servers it is only logged, because another server may have the setting.
    """
    digest = hashlib.sha256(kept.encode()).hexdigest()

    def write(tx: Tx) -> list[str]:
        own = [row for row in keys.listed(tx, DEFAULT_PROJECT) if row.name == _CONFIGURED and row.role == "admin"]
        left = [row.id for row in own if row.revoked_at is None and not row.user_id and row.sha256 != digest]
        for key_id in left if db.exclusive else ():
            keys.revoke(tx, DEFAULT_PROJECT, key_id)
        return left

    for key_id in await db.write(write):
        if db.exclusive:
            log.info("admin_key_removed", key=key_id, effect="it is no longer in the settings, so it is revoked")
        else:
            hint = f"if no server has it in its settings, revoke it: gpuproxy keys revoke {key_id}"
            log.warning("admin_key_left", key=key_id, hint=hint)


async def token_secret(db: Database, random: Random, configured: str) -> str:
    """The secret that signs login tokens: as configured, else created once and kept in the database."""
    made = base64.b64encode(random.secret(32)).decode()
    return configured or await db.write(lambda tx: meta.ensure(tx, meta.LOGIN_KEY, made))


async def fingerprint_key(db: Database, random: Random, file: Path) -> bytes:
    """The key that demands are hashed with, kept in `file` (mode 0600), so that copies of the database lack it.

    Raises WrongDatabase if the file is missing but needed: with another key, a repeated request would look different.
    Raises ConfigError if other servers of the database have a key.
    """
    text = _kept(same_secrets.DEMAND_KEY, file)
    if not text:
        if theirs := await same_secrets.stored(db, same_secrets.DEMAND_KEY):
            raise same_secrets.missing(same_secrets.DEMAND_KEY, file, theirs)
        if await db.read(reservations.has_keyed):
            raise WrongDatabase(
                f"{same_secrets.DEMAND_KEY}: {file} is missing or empty: not started. It holds the key by which the "
                "server recognises a repeated request_id. Restore the file; it was created beside the database. If it "
                "is lost, create a new key: "
                f"`head -c 32 /dev/urandom | base64 > {file}`. A repeated request_id from before is then refused with "
                "REQUEST_ID_REUSED, which names its reservation."
            )
        text = base64.b64encode(random.secret(32)).decode()
        _keep(same_secrets.DEMAND_KEY, file, text)
        with same_secrets.removed_if_refused(file):
            await same_secrets.require_same(db, {same_secrets.DEMAND_KEY: base64.b64decode(text)})
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):  # ValueError: text that is not ASCII
        key = b""
    if len(key) < _LEAST_DEMAND_KEY:
        raise WrongDatabase(
            f"{same_secrets.DEMAND_KEY}: {file} does not contain a valid key, which is base64 of at least "
            f"{_LEAST_DEMAND_KEY} bytes: not started. Restore the file that was created with the database."
        )
    private_files.restrict(file)
    return key


def _forget(file: Path) -> None:
    file.unlink(missing_ok=True)


def _keep(setting: str, file: Path, text: str) -> None:
    try:
        private_files.write(file, text + "\n")
    except OSError as error:
        raise WrongDatabase(f"{setting}: {file} can't be written ({error.strerror}): not started.") from error


def _kept(setting: str, file: Path) -> str:
    try:
        return file.read_text().strip() if file.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise WrongDatabase(f"{setting}: {file} can't be read ({type(error).__name__}): not started.") from error


async def _ensure_key(db: Database, random: Random, text: str, name: str, *, alone: bool = False) -> None:
    key_id = f"key-{random.token(8)}"

    def write(tx: Tx) -> tuple[KeyRow, int]:
        keys.hide_prefixes(tx, PREFIX)
        row = key_row(tx, text, project=DEFAULT_PROJECT, name=name, role="admin", key_id=key_id)
        known = next((known for known in keys.listed(tx, None) if known.sha256 == row.sha256), None)
        if known is None:
            keys.insert(tx, row)
        return known or row, keys.revoke_others(tx, row) if alone else 0

    row, ended = await db.write(write)
    if ended:
        log.info("admin_key_replaced", key=row.id, revoked_keys=ended)
    if row.revoked_at is not None:
        log.warning("admin_key_revoked", key=row.id, name=name, hint="a revoked key can't be used again; set another")


def _stands(stored: dict[str, float], now: datetime) -> datetime:
    """The time on a stored clock at the real time `now`."""
    passed = now - moment(int(stored["real"]))
    return moment(int(stored["market"])) + max(timedelta(0), passed) * stored["scale"]
