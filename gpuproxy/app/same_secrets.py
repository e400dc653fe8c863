"""Secrets that all servers of a deployment must have in common. The database has a fingerprint of each.

With one process, the fingerprints follow its secrets. Where several use the database, a server with another secret does
not start: it would take a repeated request_id for a new one, refuse the others' tokens, or be unable to start pools.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gpuproxy.config.environment import ConfigError
from gpuproxy.ports import Database, Tx
from gpuproxy.store import meta

DEMAND_KEY = "GPUPROXY_DEMAND_KEY_FILE"
POOL_KEY = "GPUPROXY_SECRETS_KEY_FILE"
_SHOWN = 16
"""Hexadecimal digits of a fingerprint. The secrets have 128 bits and more, so it tells nothing about them."""


def fingerprint(setting: str, secret: bytes) -> str:
    """What the database and messages show of a secret."""
    return hashlib.sha256(f"gpuproxy fingerprint of {setting}\0".encode() + secret).hexdigest()[:_SHOWN]


async def stored(db: Database, setting: str) -> str:
    """The fingerprint of the servers that use the database; "" if there is none, or if no other server can use it."""
    return "" if db.exclusive else await db.read(lambda tx: meta.read(tx, _key(setting)) or "")


async def require_same(db: Database, secrets: Mapping[str, bytes], *, force: bool = False) -> None:
    """Compare secrets with those of the other servers, by the setting that gives each; an empty one is not in use.

    `force`: make these the secrets of the deployment. Raises ConfigError if one differs.
    """
    mine = {setting: fingerprint(setting, secret) if secret else "" for setting, secret in secrets.items()}

    def write(tx: Tx) -> dict[str, str]:
        found = {}
        for setting, value in mine.items():
            before = meta.read(tx, _key(setting))
            if before is None or ((db.exclusive or force) and before != value):
                meta.write(tx, _key(setting), value)
                before = value
            found[setting] = before
        return found

    theirs = await db.write(write)
    for setting, value in mine.items():
        if theirs[setting] != value:
            raise differs(setting, value, theirs[setting])


@contextmanager
def removed_if_refused(file: Path) -> Iterator[None]:
    """Remove the file of a new secret again if other servers have another one by now.

    The file comes before the database: a secret whose fingerprint is stored, and that no file has, would be lost.
    """
    try:
        yield
    except ConfigError:
        file.unlink(missing_ok=True)
        raise


def differs(setting: str, mine: str, theirs: str) -> ConfigError:
    """The error of a server with another secret than the others."""
    have = f"fingerprint {mine}" if mine else "none"
    want = f"one with the fingerprint {theirs}" if theirs else "none"
    return ConfigError(
        f"{setting}: this server has another secret ({have}) than the servers that use this database ({want}): not "
        "started. Give it the secret of the other servers. To change the secret of all, stop every server, and start "
        "the first one with --force."
    )


def missing(setting: str, file: object, theirs: str) -> ConfigError:
    """The error of a server without the file that the others have."""
    return ConfigError(
        f"{setting}: {file} is missing or empty, but the servers that use this database have a key with the "
        f"fingerprint {theirs}: not started. Copy the file from one of them to this path, with mode 0600."
    )


def _key(setting: str) -> str:
    return f"fingerprint:{setting}"
