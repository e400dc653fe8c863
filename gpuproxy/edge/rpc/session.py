"""The calls about who may call, and with which SSH keys machines are reached: logins, API keys, SSH keys.

What a caller may not see does not exist: a wrong id and another project's are told apart by nobody but an admin.
"""
# ruff: noqa: N802 - methods are named as in the contract

from gpuproxy.edge.messages import translate
from gpuproxy.edge.messages.public_keys import NotAKey, PublicKey, public_key
from gpuproxy.edge.messages.violations import Violations
from gpuproxy.edge.rpc.admission import network_of
from gpuproxy.edge.rpc.rpcs import RANK
from gpuproxy.identity.key_rings import KeyRing, SshKeyRing
from gpuproxy.identity.logins import Logins
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import InvalidArgument, NotFound, PermissionDenied, Violation
from gpuproxy.model.users import MAX_EMAIL, MOST_PASSWORD_BYTES, ROLES
from gpuproxy.v1 import gpuproxy_pb2 as pb

_MAX_NAME = 64


class Session:
    """Logins and keys."""

    def __init__(self, *, logins: Logins, keys: KeyRing, ssh_keys: SshKeyRing) -> None:
        self._logins = logins
        self._keys = keys
        self._ssh_keys = ssh_keys

    async def Login(self, request: pb.LoginRequest, caller: Caller) -> pb.LoginResponse:
        """A token for an email and a password."""
        found = Violations()
        email = found.text("email", request.email, MAX_EMAIL)
        if not email:
            found.add("email", "is required")
        if not request.password:
            found.add("password", "is required")
        found.at_most("password", "bytes", len(request.password.encode(errors="surrogatepass")), MOST_PASSWORD_BYTES)
        found.finish()
        user, token = await self._logins.login(email, request.password, network_of(caller.peer))
        return pb.LoginResponse(
            token=token.text, user_id=user.id, email=user.email, expires_at=translate.timestamp(token.expires_at)
        )

    async def CreateAPIKey(self, request: pb.CreateAPIKeyRequest, caller: Caller) -> pb.CreateAPIKeyResponse:
        """A key for the caller's project, never mightier than the caller, ending with the caller's user."""
        found = Violations()
        name = found.text("name", request.name, _MAX_NAME)
        if not name:
            found.add("name", "is required")
        asked = found.word("role", request.role, ROLES, "user")
        found.finish()
        role = next(each for each in ROLES if each == asked)
        if RANK[role] > RANK[caller.role]:
            raise PermissionDenied(
                f"Who has the role {caller.role} can't make a key with the role {role}.",
                metadata={"needed": role, "role": caller.role},
            )
        made = await self._keys.create(caller.project, name, role, caller.user_id)
        return pb.CreateAPIKeyResponse(
            api_key=made.text,
            name=made.row.name,
            created_at=int(made.row.created_at.timestamp()),
            id=made.row.id,
            prefix=made.row.prefix,
        )

    async def ListAPIKeys(self, _request: pb.ListAPIKeysRequest, caller: Caller) -> pb.ListAPIKeysResponse:
        """The project's keys; for an admin everybody's."""
        rows = await self._keys.list(caller.scope)
        return pb.ListAPIKeysResponse(keys=[translate.key_message(row) for row in rows])

    async def RevokeAPIKey(self, request: pb.RevokeAPIKeyRequest, caller: Caller) -> pb.RevokeAPIKeyResponse:
        """End a key that is not mightier than the caller."""
        if not request.id:
            raise InvalidArgument([Violation("id", "is required: the key's id, not the key")])
        role = next((row.role for row in await self._keys.list(caller.scope) if row.id == request.id), caller.role)
        if RANK[role] > RANK[caller.role]:
            raise PermissionDenied(
                f"Who has the role {caller.role} can't revoke a key with the role {role}.",
                metadata={"needed": role, "role": caller.role},
            )
        if not await self._keys.revoke(caller.scope, request.id):
            raise NotFound("There is no such key; ListAPIKeys shows their ids.")
        return pb.RevokeAPIKeyResponse()

    async def AddSSHKey(self, request: pb.AddSSHKeyRequest, caller: Caller) -> pb.AddSSHKeyResponse:
        """A key for every machine that the caller's project rents from now on."""
        found = Violations()
        name = found.text("name", request.name, _MAX_NAME)
        key = _public_key(request.public_key, found)
        found.finish()
        kind = key.line.partition(" ")[0]
        row = await self._ssh_keys.add(
            caller.project, name or key.comment[:_MAX_NAME] or kind, key.line, key.fingerprint
        )
        return pb.AddSSHKeyResponse(key=translate.ssh_key_message(row))

    async def ListSSHKeys(self, _request: pb.ListSSHKeysRequest, caller: Caller) -> pb.ListSSHKeysResponse:
        """The project's keys, an admin's too: these are what the caller's machines are given."""
        rows = await self._ssh_keys.list(caller.project)
        return pb.ListSSHKeysResponse(keys=[translate.ssh_key_message(row) for row in rows])

    async def DeleteSSHKey(self, request: pb.DeleteSSHKeyRequest, caller: Caller) -> pb.DeleteSSHKeyResponse:
        """No machine is given the key from now on."""
        if not request.id:
            raise InvalidArgument([Violation("id", "is required: the key's id, not the key")])
        if not await self._ssh_keys.delete(caller.scope, request.id):
            raise NotFound("There is no such SSH key; ListSSHKeys shows their ids.")
        return pb.DeleteSSHKeyResponse()


def _public_key(text: str, found: Violations) -> PublicKey:
    try:
        return public_key(text)
    except NotAKey as error:
        found.add("public_key", str(error) if text.strip() else "is required")
    return PublicKey(line="", comment="", fingerprint="")
