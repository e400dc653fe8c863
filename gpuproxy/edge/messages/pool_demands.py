"""From the requests about warm pools to what the engine is asked: every rule about a field of theirs is here.

What runs on the machines is checked by `launch`, as for a reservation. All violations of a request are told at once.
Values of env, secret_env and registry_auth may be secrets, so errors never quote them.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, NamedTuple, Protocol

from gpuproxy.edge.messages import launch
from gpuproxy.edge.messages.demands import Defaults, provider
from gpuproxy.edge.messages.launch import MAX_DISK_GB, MIN_DISK_GB, PoolRequest
from gpuproxy.edge.messages.times import duration
from gpuproxy.edge.messages.violations import Violations, shown
from gpuproxy.model import ids
from gpuproxy.model.errors import FailedPrecondition, InvalidArgument, Refusal, Violation
from gpuproxy.model.offers import DEFAULT_DISK_GB, HIGHEST_PRICE, ProviderName
from gpuproxy.model.pool_calls import EnableDemand, HostQuery, ProvisionDemand
from gpuproxy.model.pools import (
    DEFAULT_MIN_GPUS,
    DEFAULT_MOUNT_PATH,
    DEFAULT_VOLUME_GB,
    PoolSecrets,
    PoolSpec,
)
from gpuproxy.model.reasons import Reason
from gpuproxy.v1 import gpuproxy_pb2 as pb
from gpuproxy.warmpool.health_urls import foreign_port, health_port

POOL_PRICE_SETTING = "GPUPROXY_WARMPOOL_MAX_PRICE"
PRICE_SETTING = "GPUPROXY_MAX_PRICE"
MIN_DRILL_EVERY = timedelta(hours=1)
_MAX_DRILL_EVERY = timedelta(days=366)
_MAX_KEEP_FAILED = timedelta(days=30)
_MAX_HOST_GPUS = 64
_MAX_NAME = 128
_MAX_PATH = 255
_MAX_HEALTH = 2048
_MAX_INT64 = 2**63 - 1
_PAGE, _PAGE_MAX = 50, 1000
_PATH = re.compile(r"(?:/[A-Za-z0-9._-]+)+/?")
_SYSTEM = re.compile(
    r"/(bin|boot|dev|etc|lib|lib32|lib64|libx32|proc|run|sbin|sys|usr|var/(lock|run|lib/(apt|dpkg|systemd))|(root|home/[^/]+)/\.ssh)(/.*)?"
)
_HOMES = frozenset({"/home", "/root", "/tmp", "/var", "/var/lib"})  # noqa: S108 - no file is made there
"""A volume mounted over one of them, or over or into one of _SYSTEM, would break the machine or lock its owner out."""
_WINDOW = re.compile(r"(\d\d):(\d\d)\s*-\s*(\d\d):(\d\d)", re.ASCII)
_VOLUME_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_MODES = ("shared", "recreate", "own_disk")
_CROSS_HOSTS = ("empty", "restore")


class PagePlace(NamedTuple):
    """The place of a pool in the list of pools."""

    machine_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolDefaults:
    """What stands for a field that the caller left empty."""

    defaults: Defaults
    max_price: float | None = None
    """USD per GPU-hour of GPUPROXY_WARMPOOL_MAX_PRICE; None: it is not set."""

    @property
    def price(self) -> tuple[float, str]:
        """The price limit of a pool whose request names none, and the setting that it comes from."""
        if self.max_price is not None:
            return self.max_price, POOL_PRICE_SETTING
        return self.defaults.max_price, PRICE_SETTING


class NamesPool(Protocol):
    """A request about one pool."""

    machine_id: int


def machine_id_of(request: NamesPool) -> int:
    """The caller's number of a machine; raises InvalidArgument."""
    found = Violations()
    number = _positive("machine_id", request.machine_id, found)
    found.finish()
    return number


def volume_id_of(request: pb.DeleteRetainedVolumeRequest) -> tuple[int, str]:
    """The machine's number and the volume's id; raises InvalidArgument."""
    found = Violations()
    number = _positive("machine_id", request.machine_id, found)
    volume_id = request.volume_id.strip()
    if ids.is_secret(volume_id):
        found.add("volume_id", ids.hint(volume_id))
    elif not _VOLUME_ID.fullmatch(volume_id):
        found.add("volume_id", "is required: the volume_id of an entry of retained_volumes in GetWarmPoolStatus")
    found.finish()
    return number, volume_id


def page_size_of(request: pb.ListWarmPoolsRequest) -> int:
    """Pools per page; raises InvalidArgument."""
    if request.page_size < 0:
        raise InvalidArgument([Violation("page_size", "must not be negative")])
    return min(request.page_size or _PAGE, _PAGE_MAX)


def host_query(request: pb.ListWarmPoolHostsRequest, given: PoolDefaults) -> HostQuery:
    """A ListWarmPoolHosts request; raises InvalidArgument."""
    found = Violations()
    if not 0 <= request.min_gpus <= _MAX_HOST_GPUS:
        found.add("min_gpus", f"must be 0 ({DEFAULT_MIN_GPUS}) to {_MAX_HOST_GPUS}, not {request.min_gpus}")
    query = HostQuery(
        gpu_model=found.text("gpu_name", request.gpu_name, _MAX_NAME),
        min_gpus=request.min_gpus or DEFAULT_MIN_GPUS,
        max_price=found.number("max_price", request.max_price, 0, HIGHEST_PRICE) or given.defaults.max_price,
        verified_only=request.verified if request.HasField("verified") else True,
        provider=_provider("", given, found),
    )
    found.finish()
    return query


def provision_demand(request: pb.ProvisionWarmPoolRequest, given: PoolDefaults) -> ProvisionDemand:
    """A ProvisionWarmPool request; raises InvalidArgument, and NOT_SUPPORTED for what no marketplace can do."""
    found = Violations()
    price, source = given.price
    spec = replace(PoolSpec(max_price=price, price_from=source), **_spec_fields(request, found))
    if request.allow_empty:
        found.add("allow_empty", "belongs to the mode own_disk, which is not supported; leave it out")
    demand = ProvisionDemand(
        machine_id=_positive("machine_id", request.machine_id, found),
        host_machine_id=_positive("host_machine_id", request.host_machine_id, found),
        provider=_provider(request.provider, given, found),
        spec=spec,
        secrets=_secrets(request, found),
        dry_run=request.dry_run,
        wait=request.wait if request.HasField("wait") else True,
    )
    found.finish()
    _check_supported(request)
    return demand


def enable_demand(request: pb.EnableWarmPoolRequest) -> EnableDemand:
    """An EnableWarmPool request; raises as `provision_demand`. Only what the caller set is in `given` and `secrets`."""
    found = Violations()
    host = _positive("host_machine_id", request.host_machine_id, found) if request.HasField("host_machine_id") else None
    secrets = _secrets(request, found)
    demand = EnableDemand(
        machine_id=_positive("machine_id", request.machine_id, found),
        host_machine_id=host,
        given=tuple(_spec_fields(request, found).items()),
        secrets=secrets or None,
    )
    found.finish()
    _check_supported(request)
    return demand


# --------------------------------------------------------------------------------------------------------------- fields


def _spec_fields(request: PoolRequest, found: Violations) -> dict[str, Any]:
    """The fields of PoolSpec that the caller set, checked."""
    made = {spec: check(request, found) for name, (spec, check) in _FIELDS.items() if _is_set(request, name)}
    if "max_price" in made:
        if made["max_price"]:
            made["price_from"] = ""
        else:
            del made["max_price"]
    launch.check_env(request, found)
    _check_together(request, made, found)
    return made


def _check_together(request: PoolRequest, made: Mapping[str, Any], found: Violations) -> None:
    """The rules about more than one field."""
    if made.get("mode") == "recreate" and made.get("hold_gpu"):
        found.add("hold_gpu", "needs a standby, and in the mode recreate there is none")
    if made.get("mode") == "recreate" and made.get("drill_every"):
        found.add("drill_every", "is not possible in the mode recreate, where each drill would destroy the primary")
    knows_ports = "ports" in made or isinstance(request, pb.ProvisionWarmPoolRequest)
    if knows_ports and (wrong := foreign_port(made.get("health", ""), made.get("ports", ()))):
        found.add("health", wrong)


def _is_set(request: PoolRequest, name: str) -> bool:
    field = request.DESCRIPTOR.fields_by_name[name]
    if field.has_presence:
        return request.HasField(name)  # type: ignore[arg-type]  # of the names in _FIELDS, both requests have each
    return bool(getattr(request, name))


def _size(field: str, least: int, default: int) -> Callable[[PoolRequest, Violations], int]:
    def check(request: PoolRequest, found: Violations) -> int:
        value: int = getattr(request, field)
        return int(found.number(field, value, least, MAX_DISK_GB)) if value else default

    return check


def _mode(request: PoolRequest, found: Violations) -> str:
    return found.word("mode", request.mode, _MODES, "")


def _cross_host(request: PoolRequest, found: Violations) -> str:
    return found.word("cross_host", request.cross_host, _CROSS_HOSTS, "")


def _mount_path(request: PoolRequest, found: Violations) -> str:
    """An absolute path without a trailing slash."""
    path = request.mount_path.strip()
    if not path:
        return DEFAULT_MOUNT_PATH
    parts = path.strip("/").split("/")
    if len(path) > _MAX_PATH or not _PATH.fullmatch(path) or "." in parts or ".." in parts:
        text = f"must be an absolute path of letters, digits and . _ - such as {DEFAULT_MOUNT_PATH}, without . and .."
        found.add("mount_path", f"{text}, not {shown(path)}")
    elif _SYSTEM.fullmatch(path) or path.rstrip("/") in _HOMES:
        found.add("mount_path", f"must not hide files of the machine's system, as {shown(path)} would")
    return path.rstrip("/")


def _health(request: PoolRequest, found: Violations) -> str:
    given = request.health.strip()
    if given.lower() in ("", "tcp", "ssh"):
        return given.lower()
    if health_port(given) is None or len(given) > _MAX_HEALTH or not given.isprintable() or " " in given:
        example = "http://localhost:8000/health"
        found.add("health", f"must be tcp, ssh or an http URL such as {example}, not {shown(given)}")
    return given


def _keep_failed(request: PoolRequest, found: Violations) -> timedelta:
    return duration("keep_failed_primary", request.keep_failed_primary, _MAX_KEEP_FAILED, found)


def _drill_every(request: PoolRequest, found: Violations) -> timedelta | None:
    every = duration("drill_every", request.drill_every, _MAX_DRILL_EVERY, found)
    if timedelta(0) < every < MIN_DRILL_EVERY:
        found.add("drill_every", f"must be at least {int(MIN_DRILL_EVERY.total_seconds())} s, or 0 for no drills")
    return every or None


def _drill_window(request: PoolRequest, found: Violations) -> tuple[int, int]:
    """The first hour of the day, and the hour at which the window ends; it may end on the next day."""
    if not request.drill_window.strip():
        return 0, 24
    match = _WINDOW.fullmatch(request.drill_window.strip())
    begin, minute, end, other = map(int, match.groups()) if match else (0, 1, 0, 0)
    if minute or other or begin > 23 or end > 24 or begin == end:
        text = 'must be two different full hours of the day (UTC) such as "02:00-05:00"'
        found.add("drill_window", f"{text}, not {shown(request.drill_window)}")
    return begin, end


_FIELDS: Mapping[str, tuple[str, Callable[[PoolRequest, Violations], object]]] = {
    "gpu_name": ("gpu_model", lambda request, found: found.text("gpu_name", request.gpu_name, _MAX_NAME)),
    "image": ("image", lambda request, found: launch.image(request.image, found)),
    "disk_size": ("disk_gb", _size("disk_size", MIN_DISK_GB, DEFAULT_DISK_GB)),
    "volume_size": ("volume_gb", _size("volume_size", 1, DEFAULT_VOLUME_GB)),
    "max_price": ("max_price", lambda request, found: found.number("max_price", request.max_price, 0, HIGHEST_PRICE)),
    "env": ("env", lambda request, found: launch.env("env", request.env, found)),
    "onstart": ("onstart", lambda request, found: launch.script(request.onstart, found)),
    "ports": ("ports", lambda request, found: launch.ports(request.ports, found)),
    "ssh_public_keys": ("ssh_public_keys", lambda request, found: launch.ssh_keys(request.ssh_public_keys, found)),
    "mount_path": ("mount_path", _mount_path),
    "mode": ("mode", _mode),
    "cross_host": ("cross_host", _cross_host),
    "keep_failed_primary": ("keep_failed", _keep_failed),
    "health": ("health", _health),
    "hold_gpu": ("hold_gpu", lambda request, _found: request.hold_gpu),
    "drill_every": ("drill_every", _drill_every),
    "drill_window": ("drill_window", _drill_window),
}
"""By field of the request: the field of PoolSpec, and what checks it."""


def _secrets(request: PoolRequest, found: Violations) -> PoolSecrets:
    return PoolSecrets(
        secret_env=launch.env("secret_env", request.secret_env, found),
        registry_auth=launch.registry_auth(request, found),
    )


def _positive(field: str, value: int, found: Violations) -> int:
    if not 0 < value <= _MAX_INT64:
        found.add(field, f"must be a positive number, not {value}" if value else "is required: a positive number")
    return value


def _provider(name: str, given: PoolDefaults, found: Violations) -> ProviderName:
    """The marketplace; by default the first one that the server has."""
    if name.strip().lower() == "all":
        found.add("provider", "must name one marketplace: a pool is on one host")
    named = provider("provider", name, given.defaults, found)
    return next(iter(named), ProviderName(given.defaults.example[1]))


def _check_supported(request: PoolRequest) -> None:
    if request.mode.strip().lower().replace("-", "_") == "own_disk":
        raise _not_supported(
            "mode own_disk", "the standby would have no data of the primary. Use shared, recreate or leave it out"
        )
    if request.cross_host.strip().lower() == "restore":
        raise _not_supported(
            "cross_host restore",
            "GPU Proxy makes no backups of volumes. Use empty, or leave it out to stay on the host",
        )


def _not_supported(what: str, why: str) -> Refusal:
    return FailedPrecondition(f"{what} is not supported: {why}. Nothing was rented.", reason=Reason.NOT_SUPPORTED)
