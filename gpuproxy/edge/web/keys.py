"""The page Keys: API keys and SSH keys; for an admin, the users. A new API key is shown once."""

from aiohttp import web

from gpuproxy.edge.rpc.rpcs import RANK
from gpuproxy.edge.web import forms
from gpuproxy.edge.web.visits import ROOT, Visit
from gpuproxy.v1 import gpuproxy_pb2 as pb

_PATH = f"{ROOT}keys"
_MOST = 500


async def page(visit: Visit, created: pb.CreateAPIKeyResponse | None = None) -> web.Response:
    """The lists."""
    keys = (await visit.call(pb.ListAPIKeysRequest(), pb.ListAPIKeysResponse)).keys
    in_use = [key for key in keys if not key.HasField("revoked_at")]
    revoked = [key for key in keys if key.HasField("revoked_at")]
    return visit.page(
        "keys.html",
        keys=[*in_use, *revoked][:_MOST],
        ssh_keys=(await visit.call(pb.ListSSHKeysRequest(), pb.ListSSHKeysResponse)).keys,
        roles=[role for role, rank in RANK.items() if rank <= RANK[visit.caller.role]],
        created=created,
        users=await visit.site.calls.users(visit.session.metadata) if visit.caller.role == "admin" else None,
    )


async def create(visit: Visit) -> web.Response:
    """Create a key and show it. The page is not stored by the browser."""
    request = forms.request_of(pb.CreateAPIKeyRequest, visit.form, without=("token",))
    return await page(visit, await visit.call(request, pb.CreateAPIKeyResponse))


async def revoke(visit: Visit) -> web.Response:
    """Revoke a key."""
    await visit.call(pb.RevokeAPIKeyRequest(id=visit.form.get("id", "")), pb.RevokeAPIKeyResponse)
    return visit.to(_PATH)


async def add_ssh(visit: Visit) -> web.Response:
    """Add an SSH key."""
    await visit.call(forms.request_of(pb.AddSSHKeyRequest, visit.form), pb.AddSSHKeyResponse)
    return visit.to(_PATH)


async def delete_ssh(visit: Visit) -> web.Response:
    """Delete an SSH key."""
    await visit.call(pb.DeleteSSHKeyRequest(id=visit.form.get("id", "")), pb.DeleteSSHKeyResponse)
    return visit.to(_PATH)
