"""Requests to io.net: what it accepts in a launch, the question for a price, and the body of a deploy.

io.net starts one of its own images with SSH and nothing else: no environment, no start script, no arguments.
"""

import json
import re
from collections.abc import Sequence
from urllib.parse import quote, urlencode

from gpuproxy.model.demands import LaunchSpec
from gpuproxy.model.errors import InvalidRequest, Scope, Violation
from gpuproxy.model.leases import InstanceId
from gpuproxy.providers.ionet.configurations import Configuration
from gpuproxy.providers.ionet.wire import NAME

PAGE = 100
"""Rows on a page of a listing; the maximum that io.net allows."""
LONGEST_BOOKING = 8_760
"""Hours."""
_IMAGE = "general"
"""The image with nothing installed but the driver. `datascience` is the other one."""
_SSH_PORT = 22
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")
"""io.net documents no rule for names. These are the characters that its clients use."""
_KEY_TYPES = ("ssh-rsa ", "ssh-ed25519 ", "ecdsa-sha2-")
_EVERYWHERE = ["0.0.0.0/0"]


def launch_violations(spec: LaunchSpec) -> tuple[Violation, ...]:
    """What io.net does not accept in a launch."""
    found = [
        Violation(name, f"can't be used on {NAME}: {why}")
        for name, why, given in (
            ("env", "its machines have no environment to set", spec.env),
            ("secret_env", "its machines have no environment to set", spec.secret_env),
            ("onstart", "its machines run no start script", spec.onstart),
            ("args", "its machines run no command of yours", spec.args),
            ("volume", "it has no volumes", spec.volume),
            ("stopped", "its machines can't be stopped", spec.stopped),
        )
        if given
    ]
    for at, key in enumerate(spec.ssh_public_keys):
        if not key.lstrip().startswith(_KEY_TYPES):
            found.append(Violation(f"ssh_public_keys[{at}]", f"{NAME} takes RSA, ECDSA and Ed25519 keys only"))
    return tuple(found)


def deploy_body(what: Configuration, spec: LaunchSpec, name: str, hours: int) -> dict[str, object]:
    """The body of a deploy. Raises InvalidRequest for a launch or a name that io.net does not accept."""
    for violation in launch_violations(spec):
        raise InvalidRequest(f"{violation.field} {violation.description}", scope=Scope.PROVIDER)
    if not _NAME.fullmatch(name):
        raise InvalidRequest(f"{name[:64]!r} can't be the name of a deployment at {NAME}", scope=Scope.PROVIDER)
    body: dict[str, object] = {
        "resource_private_name": name,
        "duration_hours": hours,
        "gpus_per_vm": what.cards,
        "hardware_id": what.hardware,
        "location_ids": [what.location],
        "vm_image_type": _IMAGE,
    }
    if spec.ssh_public_keys:
        body["ssh_keys"] = {f"key-{at}": key for at, key in enumerate(spec.ssh_public_keys, 1)}
    if services := _services(spec.ports):
        body["network_services"] = services
    return body


def price_query(what: Configuration, hours: int) -> str:
    """The question for the price of exactly this booking. `location_ids` is one text that holds a JSON array."""
    return urlencode(
        {
            "currency": "usdc",
            "duration_hours": hours,
            "gpus_per_vm": what.cards,
            "replica_count": 1,
            "hardware_id": what.hardware,
            "location_ids": json.dumps([what.location]),
        }
    )


def page_query(number: int) -> str:
    """The question for a page of the deployments, ended ones included. The first page has the number 1."""
    return urlencode({"page": number, "page_size": PAGE})


def _services(ports: Sequence[int]) -> dict[str, object]:
    """The public ports. SSH needs none: io.net gives it an address of its own."""
    return {
        f"port-{port}": {"port": port, "protocol": "tcp", "whitelist": _EVERYWHERE}
        for port in ports
        if port != _SSH_PORT
    }


def deployment_path(instance_id: InstanceId) -> str:
    """The path of a deployment."""
    return f"/deployment/{quote(instance_id, safe='')}"
