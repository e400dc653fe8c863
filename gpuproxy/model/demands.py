"""The demand of one reservation: which machines, what runs on them, and for how long."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from gpuproxy.model.groups import Alike
from gpuproxy.model.offers import DEFAULT_DISK_GB, OfferFilter
from gpuproxy.model.users import Role

DEFAULT_IMAGE = "pytorch/pytorch:2.1.0-cuda12.1-cudnn8-runtime"
MIN_LEASE_DURATION = timedelta(seconds=10)
"""The shortest lease. A create takes seconds, so a shorter lease could end before its machine exists."""
MAX_LEASE_DURATION = timedelta(days=3650)
MIN_RELEASE_IDLE = timedelta(minutes=10)
"""The shortest time after which an idle machine is released: time for its owner to read the notice."""
KEYED = "k1:"
"""The prefix of fingerprints that were made with the deployment's key."""
_LINE = "\n"
MAX_GPUS = 16
DEFAULT_READY_TIMEOUT = timedelta(minutes=15)

Packing = Literal["any", "single", "spread", "pack", "single_host"]
PACKINGS: tuple[Packing, ...] = ("any", "single", "spread", "pack", "single_host")
RunMode = Literal["ssh", "entrypoint", "jupyter"]
RUN_MODES: tuple[RunMode, ...] = ("ssh", "entrypoint", "jupyter")
OnNotReady = Literal["replace", "release", "keep"]
ON_NOT_READY: tuple[OnNotReady, ...] = ("replace", "release", "keep")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryAuth:
    """Credentials for a private image registry."""

    server: str
    username: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeMount:
    """A volume that a machine mounts from its first start to its end.

    With a `nonce`, the machine's boot script runs the user's script only while it alone has the volume: it checks that
    the volume is the one with this nonce, and then waits for its lock.
    """

    volume_id: str
    """The provider's id."""
    path: str
    nonce: str = ""
    founds: bool = False
    """The machine may write the nonce, if the volume is empty."""
    wait_seconds: int = 60
    """How long a start waits for the lock. After that the user's script is not run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """What runs on the machine. `demanded` names the fields that the caller set; only those can exclude a provider."""

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
    volume: VolumeMount | None = None
    stopped: bool = False
    """The machine is created stopped, without running first. It needs free GPUs all the same."""
    self_ending: bool = False
    """The boot script ends the machine after the end in its label, also if the server is gone."""
    demanded: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Which machines are to be rented, how they are launched, and what happens to those that do not get ready."""

    count: int
    """GPUs, 1-16."""
    filter: OfferFilter
    spec: LaunchSpec = field(default_factory=LaunchSpec)
    strategy: str = ""
    """Empty: the strategy of the project."""
    packing: Packing = "any"
    same_model: bool = False
    """All GPUs of one model, with one size of memory. A replacement is of the model of the machines that are kept."""
    same_country: bool = False
    """All GPUs in one country. A replacement stays in the country of the machines that are kept."""
    min_count: int | None = None
    all_or_nothing: bool = False
    ready_timeout: timedelta = DEFAULT_READY_TIMEOUT
    on_not_ready: OnNotReady = "replace"
    defaulted: frozenset[str] = frozenset()
    """The fields of the filter that the caller left empty and that have a default which can exclude offers."""

    @property
    def alike(self) -> Alike:
        """What all GPUs must have in common."""
        return Alike(model=self.same_model, country=self.same_country)

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
    lease_grace: timedelta = timedelta(0)
    """For so long after its end a machine is kept stopped. 0: its end destroys it, as an end that the caller set."""
    release_idle_after: timedelta = timedelta(0)
    """A machine that has been idle for so long is released. 0: never."""
    keep_late: bool = False
    wait_for: Literal["created", "ready"] = "created"
    wait: bool = True
    labels: tuple[tuple[str, str], ...] = ()
    dry_run: bool = False
    fingerprint: str = ""
    """A digest of the demand. A repeated request_id with another fingerprint is refused."""
    old_fingerprint: str = field(default="", repr=False)
    """The fingerprint in the old format, which was made without a key."""
    field_marks: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """For each field that the caller set: its name and a short digest of its value."""

    @property
    def is_findable(self) -> bool:
        """True when the caller can find what exists without the answer."""
        return bool(self.request_id) or self.keep_late

    @property
    def stored_fingerprint(self) -> str:
        """The fingerprint as it is stored: with the marks of the fields, so that a refusal can name what differs."""
        return _LINE.join([self.fingerprint, *(f"{name}={mark}" for name, mark in self.field_marks)])

    def matches_fingerprint(self, stored: str) -> bool:
        """True if a stored fingerprint is of the same demand. The old format counts only without the key's prefix."""
        fingerprint = stored.partition(_LINE)[0]
        return fingerprint == self.fingerprint or (
            not fingerprint.startswith(KEYED) and fingerprint == self.old_fingerprint != ""
        )

    def different_fields(self, stored: str) -> tuple[str, ...]:
        """The fields in which the demand of a stored fingerprint differs; empty if it was stored without marks."""
        lines = stored.split(_LINE)[1:]
        before, now = dict(line.split("=", 1) for line in lines), dict(self.field_marks)
        names = [*now, *(name for name in before if name not in now)] if lines else []
        return tuple(name for name in names if before.get(name) != now.get(name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The caller of an RPC. `deadline` is a time of Clock.monotonic()."""

    project: str
    role: Role = "user"
    key_id: str = ""
    user_id: str = ""
    """The user who logged in or created the key; "" for a key without a user."""
    peer: str = ""
    """The client's network address, as the transport reports it."""
    deadline: float = 0.0

    @property
    def scope(self) -> str | None:
        """The project whose resources the caller can see; None for an admin, who can see all projects."""
        return None if self.role == "admin" else self.project

    def sees(self, project: str) -> bool:
        """True if the caller can see the resources of this project."""
        return self.scope in (None, project)
