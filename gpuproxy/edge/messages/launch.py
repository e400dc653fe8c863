"""Validation of what to run on a machine: image, environment, ports, SSH keys, disk, script.

ReserveGPUs, CreateGPUInstance and the calls that make a warm pool have these fields under the same names. Values of
env, secret_env and registry_auth may be secrets, so errors never quote them.
"""

import re
from collections.abc import Mapping, Sequence
from typing import cast

from gpuproxy.edge.messages.public_keys import InvalidPublicKey, public_key
from gpuproxy.edge.messages.violations import Violations, shown
from gpuproxy.model.demands import DEFAULT_IMAGE, RUN_MODES, LaunchSpec, RegistryAuth, RunMode
from gpuproxy.model.offers import DEFAULT_DISK_GB
from gpuproxy.v1 import gpuproxy_pb2 as pb

LaunchRequest = pb.ReserveGPUsRequest | pb.CreateGPUInstanceRequest
PoolRequest = pb.ProvisionWarmPoolRequest | pb.EnableWarmPoolRequest

MIN_DISK_GB = 8
MAX_DISK_GB = 65_536
_MAX_IMAGE = 512
_MAX_ENV = 128
_MAX_ENV_NAME = 128
_MAX_ENV_BYTES = 32 * 1024
_MAX_PORTS = 64
_MAX_SSH_KEYS = 32
_MAX_SCRIPT = 64 * 1024
_MAX_ARGS = 128
_MAX_ARG = 4096

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = rf"{_LABEL}(?:\.{_LABEL})*(?::[0-9]{{1,5}})?"
_PART = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?:{_HOST}/)?{_PART}(?:/{_PART})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?"
)
_REGISTRY = re.compile(_HOST)
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def launch_spec(request: LaunchRequest, found: Violations) -> LaunchSpec:
    """The launch specification of a request. `demanded` has the names of the fields that the caller set."""
    spec = LaunchSpec(
        image=image(request.image, found),
        disk_gb=disk_gb(request.disk_gb, found),
        env=env("env", request.env, found),
        secret_env=env("secret_env", request.secret_env, found),
        ports=ports(request.ports, found),
        onstart=script(request.onstart, found),
        run_mode=cast("RunMode", found.word("run_mode", request.run_mode, RUN_MODES, "ssh")),
        args=_args(request.args, found),
        ssh_public_keys=ssh_keys(request.ssh_public_keys, found),
        registry_auth=registry_auth(request, found),
        demanded=_demanded(request),
    )
    if spec.run_mode == "entrypoint" and spec.ssh_public_keys:
        found.add("ssh_public_keys", "can't be installed with run_mode entrypoint, which runs the image's own command")
    check_env(request, found)
    return spec


def check_env(request: LaunchRequest | PoolRequest, found: Violations) -> None:
    """Check env and secret_env together: no name in both, and their size."""
    for name in sorted(request.env.keys() & request.secret_env.keys()):
        found.add("secret_env", f"{shown(name)} is also in env; give it only once")
    entries = (*request.env.items(), *request.secret_env.items())
    size = sum(len(name.encode()) + len(value.encode()) for name, value in entries)
    if size > _MAX_ENV_BYTES:
        found.add("env", f"must have at most {_MAX_ENV_BYTES} bytes together with secret_env, not {size}")


def disk_gb(value: float, found: Violations) -> float:
    """The disk size in GB; 0 means the default size."""
    if value == 0:
        return DEFAULT_DISK_GB
    return found.number("disk_gb", value, MIN_DISK_GB, MAX_DISK_GB)


def image(given: str, found: Violations) -> str:
    """The Docker image; "" means the default image."""
    name = given.strip()
    if not name:
        return DEFAULT_IMAGE
    if len(name) > _MAX_IMAGE:
        found.add("image", f"must have at most {_MAX_IMAGE} characters")
    elif not _IMAGE.fullmatch(name):
        found.add("image", f"must be a Docker image such as {DEFAULT_IMAGE}, not {shown(name)}")
    return name


def env(field: str, given: Mapping[str, str], found: Violations) -> tuple[tuple[str, str], ...]:
    """The environment variables, sorted by name."""
    found.at_most(field, "entries", len(given), _MAX_ENV)
    entries = tuple(sorted(given.items()))  # a protobuf map keeps no order; the errors must not change by chance
    for name, value in entries:
        if not _ENV_NAME.fullmatch(name) or len(name) > _MAX_ENV_NAME:
            found.add(
                field, f"a name must be letters, digits and _ (at most {_MAX_ENV_NAME}), and not begin with a digit"
            )
        elif "\0" in value:
            found.add(f"{field}.{name}", "must not contain a NUL")
    return entries


def ports(given: Sequence[int], found: Violations) -> tuple[int, ...]:
    """The container ports, each once."""
    found.at_most("ports", "entries", len(given), _MAX_PORTS)
    for at, port in enumerate(given):
        found.number(f"ports[{at}]", port, 1, 65_535)
    return tuple(dict.fromkeys(given))


def script(text: str, found: Violations) -> str:
    """The script onstart."""
    if len(text.encode()) > _MAX_SCRIPT:
        found.add("onstart", f"must have at most {_MAX_SCRIPT} bytes")
    if "\0" in text:
        found.add("onstart", "must not contain a NUL")
    return text


def _args(args: Sequence[str], found: Violations) -> tuple[str, ...]:
    found.at_most("args", "entries", len(args), _MAX_ARGS)
    for at, arg in enumerate(args):
        if len(arg) > _MAX_ARG or "\0" in arg:
            found.add(f"args[{at}]", f"must have at most {_MAX_ARG} characters and no NUL")
    return tuple(args)


def ssh_keys(keys: Sequence[str], found: Violations) -> tuple[str, ...]:
    """The public keys, each once."""
    found.at_most("ssh_public_keys", "entries", len(keys), _MAX_SSH_KEYS)
    for at, key in enumerate(keys):
        try:
            public_key(key)
        except InvalidPublicKey as error:
            found.add(f"ssh_public_keys[{at}]", str(error))
    return tuple(dict.fromkeys(key.strip() for key in keys))


def registry_auth(request: LaunchRequest | PoolRequest, found: Violations) -> RegistryAuth | None:
    """The registry login; None if the request has none."""
    if not request.HasField("registry_auth"):
        return None
    auth = request.registry_auth
    server = auth.server.strip() or "docker.io"
    if len(server) > _MAX_IMAGE or not _REGISTRY.fullmatch(server):
        found.add("registry_auth.server", "must be a host name, with or without a port")
    for field, value in (("username", auth.username), ("secret", auth.secret)):
        if not value or len(value) > _MAX_ARG or not value.isprintable():
            found.add(f"registry_auth.{field}", f"must be 1 to {_MAX_ARG} printable characters")
    return RegistryAuth(server=server, username=auth.username, secret=auth.secret)


def _demanded(request: LaunchRequest) -> frozenset[str]:
    fields = ("image", "env", "secret_env", "ports", "onstart", "run_mode", "args", "ssh_public_keys", "disk_gb")
    asked = {name for name in fields if getattr(request, name)}
    return frozenset(asked | ({"registry_auth"} if request.HasField("registry_auth") else set()))
