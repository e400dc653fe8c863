"""Rented instances: their data, phase and costs. There is no clock here; `now` is an argument.

GPUs are billed while the instance runs, disk while the instance exists, and nothing while the host is offline. Bills
are exact: durations are whole microseconds, and the division comes last.
"""

import math
from dataclasses import dataclass, field
from enum import StrEnum

MONTH_HOURS = 720
HOUR_US = 3_600_000_000


class Phase(StrEnum):
    """The phase of an instance; the control API shows these words."""

    LOADING = "loading"
    RUNNING = "running"
    STOPPED = "stopped"
    QUEUED = "queued"  # a start was refused; the instance starts by itself when its GPUs are free
    EXITED = "exited"  # its container died
    DESTROYED = "destroyed"


FOREVER = 1e15
"""A time that never comes. Infinity can't be saved as JSON."""
HOLDS_GPU = frozenset({Phase.LOADING, Phase.RUNNING, Phase.EXITED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """The lock of a volume that a boot script takes before it runs the user's script."""

    path: str
    """Where the volume is mounted."""
    nonce: str
    wait_seconds: int
    founds: bool
    """It may write the nonce to a volume without data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """What a start script does that is GPU Proxy's boot script."""

    keys: bool
    script: bool
    """It runs a script of the user."""
    lock: Lock | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """The arguments of a create."""

    image: str = ""
    disk_gb: float = 10.0
    label: str | None = None
    runtype: str = "ssh"
    onstart: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    boot: Boot | None = None
    """None: onstart is no boot script of GPU Proxy."""
    bid: int | None = None
    """Micro-dollars per hour; makes the instance interruptible."""
    stopped: bool = False
    volumes: dict[int, str] = field(default_factory=dict)
    """The mount paths by volume id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an instance never runs, in its first or any later boot."""

    kind: str
    """The name in the control API: image_fault, host_fault or never_ready."""
    status: str = "created"
    """The final status of the container: created or loading."""
    message: str = ""
    """The status message from the time when the image begins to load."""
    stopped: bool = False
    """True: the contract is stopped at once and has no GPUs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Misreport:
    """Wrong values in the rows of a new instance. The instance itself and its bill aren't affected."""

    seconds: float
    """How long after the create the rows are wrong."""
    status: str = ""
    """exited and stopped: the row shows a stopped contract; null: the container has no status."""
    gpu_name: str = ""
    """Another name of the GPU model; "": the true name."""
    flips: bool = False
    """True: only every second read shows the other name, beginning with the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceDefects:
    """The defects of one new instance."""

    price_factor: float = 1.0
    gpu_name: str | None = None
    gpu_ram: int = 0
    never_ready: bool = False
    dies_after: float | None = None
    """The container exits after so many seconds of running; None: never."""
    failure: Failure | None = None
    unreachable: str = ""
    """Which addresses never answer, although it runs: one of addresses.UNREACHABLE; "": all answer."""
    keys_refreshed_after: float | None = None
    """The keys that onstart appended vanish after so many seconds of running; None: never."""
    misreport: Misreport | None = None


@dataclass(slots=True, kw_only=True)
class Instance:
    """One instance. Prices are in micro-dollars: `gpu_price` per hour, `storage` per GB and month."""

    id: int
    account: str
    machine_id: int
    mask: int
    gpus: int
    gpu_model: str
    gpu_ram: int
    gpu_price: int
    storage: int
    launch: Launch
    label: str | None
    api_key: str
    created_at: float
    end_date: float
    phase: Phase
    loading_at: float
    """When the image begins to load. Before that, the container has no status."""
    boot_at: float | None
    """When the instance begins or began to run in this boot; None: never."""
    dies_after: float | None = None
    not_before: float = 0.0
    """The earliest time of a queued start."""
    status_msg: str = ""
    restarts: int = 0
    ssh_port: int = 0
    """The port at the marketplace's proxy; for Jupyter, the next one is SSH."""
    ports: dict[str, int] = field(default_factory=dict)
    """The host's ports by container port and protocol ("22/tcp"); empty on a host without direct ports."""
    transient: str = ""
    """A temporary status while the instance loads: rebooting or recycling."""
    interrupted: bool = False
    """True: the instance was outbid. It starts again when its bid is sufficient."""
    failure: Failure | None = None
    unreachable: str = ""
    """Which addresses never answer, as in InstanceDefects."""
    no_ssh: bool = False
    """True only in old saved states: `unreachable` is no_ssh."""
    registered_keys: list[str] = field(default_factory=list)
    """The public SSH keys that were registered for this instance."""
    appended_keys: list[str] = field(default_factory=list)
    """The public SSH keys that onstart appended in this boot."""
    keys_refreshed_after: float | None = None
    """The appended keys vanish after so many seconds of running; None: never."""
    works_since: float | None = None
    """Since when it runs and can be reached without a pause; None: it doesn't."""
    misreport: Misreport | None = None
    reads: int = 0
    """The number of rows shown, if the name flips."""
    muted_until: float = 0.0
    """Until then no address answers, although it runs."""
    pretends: bool = False
    """True: its row shows that it is stopped, and no GPU is billed, but it runs."""
    lock: str = ""
    """The lock of its volume in this boot: waiting, held, lock_held, wrong_volume or unsupported; "": none yet."""
    waits_since: float = 0.0
    """If it waits for the lock, since when."""
    workload: bool = False
    """True: the user's command runs."""
    gpu_util: float | None = 97.0
    """What its rows tell of its GPUs' work while it runs, in percent; None: nothing."""
    metered_us: int = 0
    gpu_us: int = 0
    disk_us: int = 0
    earlier: list[tuple[int, int]] = field(default_factory=list)
    """Earlier bids as (price, microseconds)."""

    @property
    def disk_rate(self) -> int:
        """The price of the whole disk, in micro-dollars per month."""
        return round(self.storage * self.launch.disk_gb)

    @property
    def price(self) -> float:
        """The total price while it runs, in micro-dollars per hour."""
        return self.gpu_price + self.disk_rate / MONTH_HOURS

    def billed(self, now: float, *, online: bool) -> int:
        """The cost up to now in micro-dollars, rounded down."""
        gpu = sum(price * gpu_us for price, gpu_us in self.gpu_times(now, online=online))
        _, disk_us = self._metered(now, online=online)
        return (gpu * MONTH_HOURS + self.disk_rate * disk_us) // (MONTH_HOURS * HOUR_US)

    def gpu_times(self, now: float, *, online: bool) -> list[tuple[int, int]]:
        """The billed GPU times as (price in micro-dollars per hour, microseconds), oldest price first."""
        gpu_us, _ = self._metered(now, online=online)
        return [*self.earlier, (self.gpu_price, gpu_us)]

    def reprice(self, price: int) -> None:
        """Set the GPU price in micro-dollars per hour. Call `accrue` before."""
        if self.gpu_us:
            self.earlier.append((self.gpu_price, self.gpu_us))
        self.gpu_price, self.gpu_us = price, 0

    def accrue(self, now: float, *, online: bool) -> None:
        """Add the time since the last call to the bill. Call this before a change that affects the bill."""
        self.gpu_us, self.disk_us = self._metered(now, online=online)
        self.metered_us = max(self.metered_us, microseconds(now))

    def _metered(self, now: float, *, online: bool) -> tuple[int, int]:
        passed = max(0, microseconds(now) - self.metered_us) if online else 0
        uses_gpu = self.phase is Phase.RUNNING and not self.pretends
        return self.gpu_us + (passed if uses_gpu else 0), self.disk_us + passed

    def boots(self, now: float, seconds: float, *, ends: bool = True) -> None:
        """Begin to load, and run in `seconds`; if that is infinite or `ends` is False, never."""
        self.phase = Phase.LOADING
        self.loading_at = now + min(seconds, 600.0) * 0.2
        self.boot_at = now + seconds if ends and math.isfinite(seconds) else None
        self.status_msg = ""
        self.transient = ""
        self.interrupted = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The record of a destroyed instance."""

    id: int
    account: str
    label: str | None
    gpu_model: str
    num_gpus: int
    machine_id: int
    price: float
    created_at: float
    destroyed_at: float
    billed: int
    volume_ids: tuple[int, ...] = ()
    gpu_times: tuple[tuple[int, int], ...] = ()
    """The billed GPU times as (price per hour, microseconds)."""


def microseconds(seconds: float) -> int:
    """Seconds as whole microseconds."""
    return round(seconds * 1_000_000)
