"""The RPCs for logins, API keys and SSH keys.

A key of another project is reported as not found, as if it didn't exist. Only admins see the keys of all projects.
"""
# ruff: noqa: N802 - methods are named as in the contract

from gpuproxy.edge.messages import keys, times
from gpuproxy.edge.messages.public_keys import InvalidPublicKey, PublicKey, public_key
from gpuproxy.edge.messages.violations import Violations
from gpuproxy.edge.rpc.concurrency import network_of
from gpuproxy.edge.rpc.rpcs import RANK
from gpuproxy.identity.key_rings import KeyRing, SshKeyRing
from gpuproxy.identity.logins import Logins
from gpuproxy.model import ids
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import InvalidArgument, NotFound, PermissionDenied, Violation
from gpuproxy.model.users import MAX_EMAIL, MAX_PASSWORD_BYTES, ROLES
from gpuproxy.v1 import gpuproxy_pb2 as pb

_MAX_NAME = 64


class Session:
    """The RPCs for logins, API keys and SSH keys; `service` includes them."""

    def __init__(self, *, logins: Logins, keys: KeyRing, ssh_keys: SshKeyRing) -> None:
        self._logins = logins
        self._keys = keys
        self._ssh_keys = ssh_keys

    async def Login(self, request: pb.LoginRequest, caller: Caller) -> pb.LoginResponse:
        """Return a token for an email address and a password."""
        found = Violations()
        email = found.text("email", request.email, MAX_EMAIL)
        if not email:
            found.add("email", "is required")
        if not request.password:
            found.add("password", "is required")
        found.at_most("password", "bytes", len(request.password.encode(errors="surrogatepass")), MAX_PASSWORD_BYTES)
        found.finish()
        user, token = await self._logins.login(email, request.password, network_of(caller.peer))
        return pb.LoginResponse(
            token=token.text, user_id=user.id, email=user.email, expires_at=times.timestamp(token.expires_at)
        )

    async def CreateAPIKey(self, request: pb.CreateAPIKeyRequest, caller: Caller) -> pb.CreateAPIKeyResponse:
        """Create a key in the caller's project. Its role is at most the caller's; it is disabled with the user."""
        found = Violations()
        name = found.text("name", request.name, _MAX_NAME)
        if not name:
            found.add("name", "is required")
        asked = found.word("role", request.role, ROLES, "user")
        found.finish()
        role = next(each for each in ROLES if each == asked)
        if RANK[role] > RANK[caller.role]:
            raise PermissionDenied(
                f"You can't create a key with the role {role}: your own role is {caller.role}.",
                metadata={"needed": role, "role": caller.role},
            )
        made = await self._keys.create(caller.project, name, role, caller.user_id, by=caller)
        return pb.CreateAPIKeyResponse(
            api_key=made.text,
            name=made.row.name,
            created_at=int(made.row.created_at.timestamp()),
            id=made.row.id,
            prefix=made.row.prefix,
        )

    async def ListAPIKeys(self, _request: pb.ListAPIKeysRequest, caller: Caller) -> pb.ListAPIKeysResponse:
        """Return the keys of the caller's project; for an admin, the keys of all projects."""
        rows = await self._keys.list(caller.scope)
        return pb.ListAPIKeysResponse(keys=[keys.key_message(row) for row in rows])

    async def RevokeAPIKey(self, request: pb.RevokeAPIKeyRequest, caller: Caller) -> pb.RevokeAPIKeyResponse:
        """Revoke a key whose role is at most the caller's."""
        if not request.id:
            raise InvalidArgument([Violation("id", "is required: the id of the key, not the key itself")])
        role = next((row.role for row in await self._keys.list(caller.scope) if row.id == request.id), caller.role)
        if RANK[role] > RANK[caller.role]:
            raise PermissionDenied(
                f"You can't revoke a key with the role {role}: your own role is {caller.role}.",
                metadata={"needed": role, "role": caller.role},
            )
        if not await self._keys.revoke(caller.scope, request.id, by=caller):
            raise _no_key("API key", "ListAPIKeys", request.id, "key-")
        return pb.RevokeAPIKeyResponse()

    async def AddSSHKey(self, request: pb.AddSSHKeyRequest, caller: Caller) -> pb.AddSSHKeyResponse:
        """Add a public key. It is installed on every machine that the caller's project rents from now on."""
        found = Violations()
        name = found.text("name", request.name, _MAX_NAME)
        key = _public_key(request.public_key, found)
        found.finish()
        kind = key.line.partition(" ")[0]
        row = await self._ssh_keys.add(
            caller.project, name or key.comment[:_MAX_NAME] or kind, key.line, key.fingerprint, by=caller
        )
        return pb.AddSSHKeyResponse(key=keys.ssh_key_message(row))

    async def ListSSHKeys(self, _request: pb.ListSSHKeysRequest, caller: Caller) -> pb.ListSSHKeysResponse:
        """Return the keys of the caller's own project, also for an admin: the caller's machines get these keys."""
        rows = await self._ssh_keys.list(caller.project)
        return pb.ListSSHKeysResponse(keys=[keys.ssh_key_message(row) for row in rows])

    async def DeleteSSHKey(self, request: pb.DeleteSSHKeyRequest, caller: Caller) -> pb.DeleteSSHKeyResponse:
        """Delete a key. Machines that are rented from now on don't get it."""
        if not request.id:
            raise InvalidArgument([Violation("id", "is required: the id of the key, not the key itself")])
        if not await self._ssh_keys.delete(caller.scope, request.id, by=caller):
            raise _no_key("SSH key", "ListSSHKeys", request.id, "ssh-")
        return pb.DeleteSSHKeyResponse()


def _no_key(kind: str, listing: str, key_id: str, expected: str) -> NotFound:
    said = ids.hint(key_id, expected=expected) or f"{listing} shows the ids of your keys."
    return NotFound(f"No {kind} has this id. {said}")


def _public_key(text: str, found: Violations) -> PublicKey:
    try:
        return public_key(text)
    except InvalidPublicKey as error:
        found.add("public_key", str(error) if text.strip() else "is required")
    return PublicKey(line="", comment="", fingerprint="")
