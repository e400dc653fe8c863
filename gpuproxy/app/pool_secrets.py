"""The key that encrypts the secrets of warm pools. It is in a file outside the database."""

from pathlib import Path

import structlog
from cryptography.fernet import Fernet

from gpuproxy.adapters import private_files
from gpuproxy.app import same_secrets
from gpuproxy.config.environment import ConfigError
from gpuproxy.ports import Database, Tx
from gpuproxy.store import pools

log = structlog.get_logger(__name__)


async def secrets_key(db: Database, file: Path) -> bytes | None:
    """The key in the file. It is made if no pool has secrets yet; None if it is missing and one has.

    Raises ConfigError if the file can't be read or written, or has no key.
    """
    key = _read(file)
    if key is None:
        if theirs := await same_secrets.stored(db, same_secrets.POOL_KEY):
            raise same_secrets.missing(same_secrets.POOL_KEY, file, theirs)
        return await _made(db, file)
    try:
        Fernet(key)
    except ValueError:
        raise ConfigError(
            f"GPUPROXY_SECRETS_KEY_FILE: {file} has no Fernet key (32 bytes in URL-safe base64): not started."
        ) from None
    return key


def _read(file: Path) -> bytes | None:
    try:
        private_files.restrict(file)
        return file.read_bytes().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"GPUPROXY_SECRETS_KEY_FILE: {file} can't be read: {error}: not started.") from error


async def _made(db: Database, file: Path) -> bytes | None:
    def any_secrets(tx: Tx) -> bool:
        return pools.any_sealed(tx)

    if await db.read(any_secrets):
        log.warning(
            "secrets_key_missing", file=str(file), effect="machines of warm pools with secrets can't be launched"
        )
        return None
    key = Fernet.generate_key()
    try:
        private_files.write_new(file, key.decode())
    except OSError as error:
        raise ConfigError(f"GPUPROXY_SECRETS_KEY_FILE: {file} can't be written: {error}: not started.") from error
    with same_secrets.removed_if_refused(file):
        await same_secrets.require_same(db, {same_secrets.POOL_KEY: key})
    return key
