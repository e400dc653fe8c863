"""API keys and SSH keys as messages. The key itself is in none of them."""

from gpuproxy.edge.messages.times import timestamp
from gpuproxy.store.keys import KeyRow
from gpuproxy.store.ssh_keys import SshKeyRow
from gpuproxy.v1 import gpuproxy_pb2 as pb


def key_message(row: KeyRow) -> pb.APIKey:
    """An API key without its secret."""
    return pb.APIKey(
        id=row.id,
        name=row.name,
        prefix=row.prefix,
        role=row.role,
        created_at=timestamp(row.created_at),
        revoked_at=timestamp(row.revoked_at),
    )


def ssh_key_message(row: SshKeyRow) -> pb.SSHKey:
    """A public SSH key of a project."""
    return pb.SSHKey(
        id=row.id,
        name=row.name,
        public_key=row.public_key,
        fingerprint=row.fingerprint,
        created_at=timestamp(row.created_at),
    )
