"""The options of `warmpool provision` and `warmpool enable`, and the fields of a request that they fill."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from gpuproxy.cli.arguments import DurationType, PairType, PriceType, ScriptType, TextType, WordType
from gpuproxy.cli.key_files import read_public_key
from gpuproxy.cli.machines import seconds
from gpuproxy.cli.secret_options import RegistryType, SecretEnvType, registry_auth
from gpuproxy.edge.messages.launch import MAX_DISK_GB, MIN_DISK_GB

_MODES = ("shared", "recreate")
_CROSS_HOSTS = ("empty",)
_DURATIONS = ("keep_failed_primary", "drill_every")
_OPTIONS = (
    click.option("--gpu", "gpu_name", type=TextType(), help="GPU model, in any spelling (default: what the host has)."),
    click.option("--image", type=TextType(), help="Docker image (default: PyTorch)."),
    click.option(
        "--disk",
        "disk_size",
        type=click.IntRange(MIN_DISK_GB, MAX_DISK_GB),
        metavar="GB",
        help="Disk of each machine (default: 50).",
    ),
    click.option(
        "--volume",
        "volume_size",
        type=click.IntRange(1, MAX_DISK_GB),
        metavar="GB",
        help="Size of the shared volume (default: 100).",
    ),
    click.option(
        "--max-price",
        type=PriceType(),
        metavar="USD",
        help="Maximum price per GPU-hour (default: the server's GPUPROXY_WARMPOOL_MAX_PRICE, else GPUPROXY_MAX_PRICE).",
    ),
    click.option("--env", type=PairType(), multiple=True, metavar="K=V", help="Environment variable (repeatable)."),
    click.option(
        "--secret-env",
        type=SecretEnvType(),
        multiple=True,
        metavar="K[=V]",
        help="Environment variable that is stored only encrypted (repeatable). K alone takes the value from this "
        "command's environment.",
    ),
    click.option(
        "--registry-auth",
        "registry",
        type=RegistryType(),
        metavar="USER[@SERVER]",
        help="Log in to the image's registry. The password is read from GPUPROXY_REGISTRY_SECRET, asked for, or read "
        "from stdin.",
    ),
    click.option(
        "--port", "ports", type=click.IntRange(1, 65_535), multiple=True, help="Container port to open (repeatable)."
    ),
    click.option(
        "--ssh-key",
        "ssh_keys",
        multiple=True,
        type=click.Path(path_type=Path),
        help="File with a public SSH key for these machines (repeatable).",
    ),
    click.option(
        "--onstart",
        type=ScriptType(),
        help='Text of a script that runs once the machine has the lock on the volume. From a file: "$(cat FILE)".',
    ),
    click.option("--mount-path", type=TextType(), help="Where the volume is mounted (default: /data)."),
    click.option(
        "--mode",
        type=WordType(_MODES),
        help="shared: the stopped standby has the volume too. recreate: no standby; failover makes a machine. "
        "Default: shared where the marketplace allows it.",
    ),
    click.option(
        "--cross-host", type=WordType(_CROSS_HOSTS), help="If the host is lost: another host, without the data."
    ),
    click.option("--health", type=TextType(), help="How the primary is probed: tcp, ssh or an http URL."),
    click.option(
        "--hold-gpu/--no-hold-gpu",
        default=None,
        help="Keep the standby running, so that it keeps its GPUs; costs more.",
    ),
    click.option(
        "--keep-failed",
        "keep_failed_primary",
        type=DurationType(),
        help="How long a failed primary is kept stopped; 0: not at all (default: 24h).",
    ),
    click.option(
        "--drill-every", type=DurationType(), help="Test the failover by itself so often, at least 1h; 0: never."
    ),
    click.option("--drill-window", type=TextType(), metavar="HH:00-HH:00", help="When drills may begin, in UTC."),
)


def pool_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options for what a pool is made of. Each is None or empty if it is not given."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def pool_fields(
    *,
    env: Iterable[tuple[str, str]] = (),
    secret_env: Iterable[tuple[str, str]] = (),
    registry: tuple[str, str] | None = None,
    ssh_keys: Iterable[Path] = (),
    **fields: Any,
) -> dict[str, Any]:
    """The fields of a request for these options; only those that are given."""
    made: dict[str, Any] = {
        "env": dict(env),
        "secret_env": dict(secret_env),
        "registry_auth": registry_auth(registry) if registry else None,
        "ssh_public_keys": [read_public_key("--ssh-key", path) for path in ssh_keys],
        **{name: seconds(fields.pop(name)) for name in _DURATIONS if fields.get(name) is not None},
        **fields,
    }
    return {name: value for name, value in made.items() if value is not None and value not in ((), {}, [])}
