"""The keys of callers: API keys, by which they are known, and the SSH keys that their machines are given.

Of an API key only a hash is kept: its text is shown once, when it is made.
"""

import hashlib
from dataclasses import dataclass

from gpuproxy.model.errors import FailedPrecondition
from gpuproxy.model.users import Role
from gpuproxy.ports import Database, Random, Tx
from gpuproxy.store import keys, ssh_keys
from gpuproxy.store.keys import KeyRow
from gpuproxy.store.ssh_keys import SshKeyRow

PREFIX = "gpx_"
"""How every key begins that was made here; a configured one may begin otherwise."""
_SHOWN = 10
_MAX_SSH_KEYS = 16
"""Of a project: all of them must fit into the script that a machine starts with."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key and its row; the key itself is never seen again."""

    text: str
    row: KeyRow


class KeyRing:
    """API keys: made, listed, revoked and found."""

    def __init__(self, db: Database, random: Random) -> None:
        self._db = db
        self._random = random

    async def find(self, sha256: str) -> KeyRow | None:
        """The key with this hash, unless it is revoked."""
        return await self._db.read(lambda tx: keys.find(tx, sha256))

    async def create(self, project: str, name: str, role: Role, user_id: str = "") -> NewKey:
        """A new key; its text is shown now or never. It ends with the user who made it, if there is one."""
        text, key_id = key_text(self._random), f"key-{self._random.token(8)}"

        def write(tx: Tx) -> NewKey:
            row = key_row(tx, text, project=project, name=name, role=role, key_id=key_id, user_id=user_id)
            keys.insert(tx, row)
            return NewKey(text, row)

        return await self._db.write(write)

    async def list(self, project: str | None) -> tuple[KeyRow, ...]:
        """A project's keys (None: everybody's), newest first."""
        return await self._db.read(lambda tx: keys.listed(tx, project))

    async def revoke(self, project: str | None, key_id: str) -> bool:
        """False when there is no such key in the project."""
        return await self._db.write(lambda tx: keys.revoke(tx, project, key_id))


class SshKeyRing:
    """The public keys that a project's machines are given."""

    def __init__(self, db: Database, random: Random) -> None:
        self._db = db
        self._random = random

    async def add(self, project: str, name: str, line: str, fingerprint: str) -> SshKeyRow:
        """The key as stored, which it may have been before; raises FailedPrecondition when there are too many."""
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
                    f"A project has at most {_MAX_SSH_KEYS} SSH keys; delete one first.", reason="TOO_MANY_SSH_KEYS"
                )
            return row

        return await self._db.write(write)

    async def list(self, project: str | None) -> tuple[SshKeyRow, ...]:
        """A project's keys (None: everybody's), newest first."""
        return await self._db.read(lambda tx: ssh_keys.listed(tx, project))

    async def delete(self, project: str | None, key_id: str) -> bool:
        """False when the project never had such a key."""
        return await self._db.write(lambda tx: ssh_keys.delete(tx, project, key_id))


def key_text(random: Random) -> str:
    """A key as its owner sees it."""
    return PREFIX + random.token(40)


def key_row(tx: Tx, text: str, *, project: str, name: str, role: Role, key_id: str, user_id: str = "") -> KeyRow:
    """The row of a key: its hash, and as much of its beginning as tells ours apart."""
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
