"""What a caller asks for in one reservation: which machines, how they are launched, how long they live."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from gpuproxy.model.offers import DEFAULT_DISK_GB, OfferFilter
from gpuproxy.model.users import Role

DEFAULT_IMAGE = "pytorch/pytorch:2.1.0-cuda12.1-cudnn8-runtime"
SHORTEST_LEASE = timedelta(seconds=10)
"""A create alone takes seconds; what ends before it is there would be rented and destroyed for nothing."""
KEYED = "k1:"
"""How a fingerprint begins that was made with the deployment's key."""
MAX_GPUS = 16
DEFAULT_READY_TIMEOUT = timedelta(minutes=15)

Packing = Literal["any", "single", "spread", "pack", "single_host"]
PACKINGS: tuple[Packing, ...] = ("any", "single", "spread", "pack", "single_host")
RunMode = Literal["ssh", "entrypoint", "jupyter"]
RUN_MODES: tuple[RunMode, ...] = ("ssh", "entrypoint", "jupyter")
OnNotReady = Literal["replace", "keep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryAuth:
    """Credentials for a private image registry."""

    server: str
    username: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """What runs on the machine. `demanded` names the fields that the caller set: only those may exclude a provider."""

    image: str = DEFAULT_IMAGE
    disk_gb: float = DEFAULT_DISK_GB
    env: tuple[tuple[str, str], ...] = ()
    secret_env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    ports: tuple[int, ...] = ()
    onstart: str = ""
    run_mode: RunMode = "ssh"
    args: tuple[str, ...] = ()
    ssh_public_keys: tuple[str, ...] = ()
    registry_auth: RegistryAuth | None = None
    demanded: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Which machines are to be rented, how they are launched, and what happens to those that do not get ready."""

    count: int
    """GPUs, 1-16."""
    filter: OfferFilter
    spec: LaunchSpec = field(default_factory=LaunchSpec)
    strategy: str = ""
    """Empty: the project's."""
    packing: Packing = "any"
    min_count: int | None = None
    all_or_nothing: bool = False
    ready_timeout: timedelta = DEFAULT_READY_TIMEOUT
    on_not_ready: OnNotReady = "replace"

    @property
    def least(self) -> int:
        """The fewest GPUs that make renting worth while."""
        if self.all_or_nothing or self.min_count is None:
            return self.count
        return self.min_count


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand(Order):
    """One ReserveGPUs call, checked and complete."""

    request_id: str = ""
    lease_duration: timedelta | None = None
    keep_late: bool = False
    wait_for: Literal["created", "ready"] = "created"
    wait: bool = True
    labels: tuple[tuple[str, str], ...] = ()
    dry_run: bool = False
    fingerprint: str = ""
    """Of everything that the caller asked for: the same request_id with another one is refused."""
    old_fingerprint: str = field(default="", repr=False)
    """The same in the form that databases have from before there were keyed ones."""

    @property
    def is_findable(self) -> bool:
        """True when the caller can find what exists without the answer."""
        return bool(self.request_id) or self.keep_late

    def is_of(self, fingerprint: str) -> bool:
        """Is that stored fingerprint one of the same demand? Only one that is not keyed may have the old form."""
        return fingerprint == self.fingerprint or (
            not fingerprint.startswith(KEYED) and fingerprint == self.old_fingerprint != ""
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks. `deadline` is a reading of Clock.monotonic()."""

    project: str
    role: Role = "user"
    key_id: str = ""
    user_id: str = ""
    """Who logged in, or made the key; "" for a key of nobody in particular."""
    peer: str = ""
    """Where the call comes from, as the transport tells it."""
    deadline: float = 0.0

    @property
    def scope(self) -> str | None:
        """The project whose things exist for this caller; None for an admin, who sees all."""
        return None if self.role == "admin" else self.project

    def sees(self, project: str) -> bool:
        """True when that project's things exist for this caller."""
        return self.scope in (None, project)
