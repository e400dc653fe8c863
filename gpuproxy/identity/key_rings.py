"""The keys of callers: API keys, which authenticate them, and SSH keys, which are installed on their machines.

Only the hash of an API key is stored. Its text is shown once, when it is created.
"""

import hashlib
from dataclasses import dataclass

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import FailedPrecondition
from gpuproxy.model.reasons import Reason
from gpuproxy.model.users import Role
from gpuproxy.ports import Database, Random, Tx
from gpuproxy.store import audit, keys, ssh_keys
from gpuproxy.store.keys import KeyRow
from gpuproxy.store.ssh_keys import SshKeyRow

PREFIX = "gpx_"
"""The prefix of every generated key. A key from the settings may have another prefix."""
_SHOWN = 10
_MAX_SSH_KEYS = 16
"""SSH keys per project. All of them must fit into the start script of a machine."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A new key: its text, which isn't stored, and its row."""

    text: str
    row: KeyRow


class KeyRing:
    """Creates, lists, revokes and finds API keys."""

    def __init__(self, db: Database, random: Random) -> None:
        self._db = db
        self._random = random

    async def find(self, sha256: str) -> KeyRow | None:
        """The key with this SHA-256 (hex); None if there is none or it is revoked."""
        return await self._db.read(lambda tx: keys.find(tx, sha256))

    async def create(
        self, project: str, name: str, role: Role, user_id: str = "", *, by: Caller = audit.COMMAND_LINE
    ) -> NewKey:
        """Create a key and return its text, which can't be read again. Disabling user `user_id` disables the key."""
        text, key_id = key_text(self._random), f"key-{self._random.token(8)}"

        def write(tx: Tx) -> NewKey:
            row = key_row(tx, text, project=project, name=name, role=role, key_id=key_id, user_id=user_id)
            keys.insert(tx, row)
            audit.record(tx, by, "key_created", key_id, f"{role} {name}", project=project)
            return NewKey(text, row)

        return await self._db.write(write)

    async def list(self, project: str | None) -> tuple[KeyRow, ...]:
        """The keys of a project, or of all projects for None; newest first."""
        return await self._db.read(lambda tx: keys.listed(tx, project))

    async def revoke(self, project: str | None, key_id: str, *, by: Caller = audit.COMMAND_LINE) -> bool:
        """Revoke a key; False if the project (None: any project) has no such key."""

        def write(tx: Tx) -> bool:
            known = next((row for row in keys.listed(tx, project) if row.id == key_id), None)
            if known is not None and known.revoked_at is None:
                audit.record(tx, by, "key_revoked", key_id, known.name, project=known.project)
            return keys.revoke(tx, project, key_id)

        return await self._db.write(write)


class SshKeyRing:
    """The public SSH keys that are installed on a project's machines."""

    def __init__(self, db: Database, random: Random) -> None:
        self._db = db
        self._random = random

    async def add(
        self, project: str, name: str, line: str, fingerprint: str, *, by: Caller = audit.COMMAND_LINE
    ) -> SshKeyRow:
        """Add a key and return its row; an existing row is returned unchanged. FailedPrecondition: too many keys."""
        key_id = f"ssh-{self._random.token(8)}"

        def write(tx: Tx) -> SshKeyRow:
            row = ssh_keys.add(
                tx,
                SshKeyRow(
                    id=key_id,
                    project=project,
                    name=name,
                    public_key=line,
                    fingerprint=fingerprint,
                    created_at=tx.now(),
                ),
            )
            if len(ssh_keys.listed(tx, project)) > _MAX_SSH_KEYS:
                raise FailedPrecondition(
                    f"A project can have at most {_MAX_SSH_KEYS} SSH keys. Delete one first.",
                    reason=Reason.TOO_MANY_SSH_KEYS,
                )
            if row.id == key_id:
                audit.record(tx, by, "ssh_key_added", key_id, f"{name} {fingerprint}", project=project)
            return row

        return await self._db.write(write)

    async def list(self, project: str | None) -> tuple[SshKeyRow, ...]:
        """The keys of a project, or of all projects for None; newest first."""
        return await self._db.read(lambda tx: ssh_keys.listed(tx, project))

    async def delete(self, project: str | None, key_id: str, *, by: Caller = audit.COMMAND_LINE) -> bool:
        """Delete a key; False if the project (None: any project) never had it."""

        def write(tx: Tx) -> bool:
            known = next((row for row in ssh_keys.listed(tx, project) if row.id == key_id), None)
            if known is not None:
                audit.record(tx, by, "ssh_key_deleted", key_id, known.name, project=known.project)
            return ssh_keys.delete(tx, project, key_id)

        return await self._db.write(write)


def key_text(random: Random) -> str:
    """The text of a new random API key."""
    return PREFIX + random.token(40)


def key_row(tx: Tx, text: str, *, project: str, name: str, role: Role, key_id: str, user_id: str = "") -> KeyRow:
    """The row of a key: its hash, and its first characters so that users can recognise it."""
    return KeyRow(
        id=key_id,
        project=project,
        name=name,
        role=role,
        prefix=text[:_SHOWN] if text.startswith(PREFIX) else "",
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        created_at=tx.now(),
        user_id=user_id,
    )
