"""Rented instances: what they are, which state they are in, what they have cost. No clock: `now` is an argument.

GPUs are billed per second while the instance runs, disk per second while it exists; neither while its host is
offline. Bills are exact: durations are whole microseconds, the division comes last.
"""

import math
from dataclasses import dataclass, field
from enum import StrEnum

MONTH_HOURS = 720
HOUR_US = 3_600_000_000


class Phase(StrEnum):
    """Where an instance is in its life; the words of the control API."""

    LOADING = "loading"
    RUNNING = "running"
    STOPPED = "stopped"
    QUEUED = "queued"  # a start was refused; it will run by itself when its GPUs are free
    EXITED = "exited"  # its container died
    DESTROYED = "destroyed"


HOLDS_GPU = frozenset({Phase.LOADING, Phase.RUNNING, Phase.EXITED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What a create asked for."""

    image: str = ""
    disk_gb: float = 10.0
    label: str | None = None
    runtype: str = "ssh"
    onstart: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    bid: int | None = None
    """Micro-dollars per hour; makes the instance interruptible."""
    stopped: bool = False
    volumes: dict[int, str] = field(default_factory=dict)
    """Where each volume is mounted, by its id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an instance never runs, in its first boot or in any later one."""

    kind: str
    """What the control API calls it: image_fault, host_fault, never_ready."""
    status: str = "created"
    """The container's status, for good: created, loading."""
    message: str = ""
    """The status message, from the moment that the image begins to load."""
    stopped: bool = False
    """The contract is stopped at once, and holds no GPUs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shyness:
    """How the rows of a fresh instance misreport it. The instance itself and its bill are not affected."""

    seconds: float
    """For how long after the create."""
    status: str = ""
    """exited and stopped: the row shows a stopped contract; null: the container has no status yet."""
    gpu_name: str = ""
    """Another name of its model."""
    flips: bool = False
    """The other name is shown in every second read only, beginning with the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Twist:
    """What goes wrong with one create, beyond the answer."""

    price_factor: float = 1.0
    gpu_name: str | None = None
    gpu_ram: int = 0
    never_ready: bool = False
    dies_after: float | None = None
    """Seconds after it began to run."""
    failure: Failure | None = None
    no_ssh: bool = False
    """It runs, and its ports never answer."""
    shyness: Shyness | None = None


@dataclass(slots=True, kw_only=True)
class Instance:
    """Prices in micro-dollars: `gpu_price` per hour, `storage` per GB and month."""

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
    """When the image begins to load; until then the container has no status."""
    boot_at: float | None
    """When it runs, or ran first in this boot; None: never."""
    dies_after: float | None = None
    not_before: float = 0.0
    """A queued start is not tried again before."""
    status_msg: str = ""
    restarts: int = 0
    ports: dict[str, int] = field(default_factory=dict)
    """Public port by container port and protocol ("22/tcp")."""
    transient: str = ""
    """What its status says instead while it loads: rebooting, recycling."""
    interrupted: bool = False
    """It was outbid, and goes on when its bid is enough again."""
    failure: Failure | None = None
    no_ssh: bool = False
    """Its ports never answer."""
    shyness: Shyness | None = None
    reads: int = 0
    """How many of its rows were shown with a name that flips."""
    metered_us: int = 0
    gpu_us: int = 0
    disk_us: int = 0
    earlier: list[tuple[int, int]] = field(default_factory=list)
    """Bids of before: (price, microseconds)."""

    @property
    def disk_rate(self) -> int:
        """Micro-dollars for the whole disk and a month."""
        return round(self.storage * self.launch.disk_gb)

    @property
    def price(self) -> float:
        """Micro-dollars per hour, all-in, while it runs."""
        return self.gpu_price + self.disk_rate / MONTH_HOURS

    def billed(self, now: float, *, online: bool) -> int:
        """Micro-dollars up to now, rounded down."""
        gpu = sum(price * gpu_us for price, gpu_us in self.gpu_times(now, online=online))
        _, disk_us = self._metered(now, online=online)
        return (gpu * MONTH_HOURS + self.disk_rate * disk_us) // (MONTH_HOURS * HOUR_US)

    def gpu_times(self, now: float, *, online: bool) -> list[tuple[int, int]]:
        """How many microseconds of GPU were billed at which price (micro-dollars per hour), oldest price first."""
        gpu_us, _ = self._metered(now, online=online)
        return [*self.earlier, (self.gpu_price, gpu_us)]

    def reprice(self, price: int) -> None:
        """Micro-dollars per hour of GPU from now on; it is settled up to now."""
        if self.gpu_us:
            self.earlier.append((self.gpu_price, self.gpu_us))
        self.gpu_price, self.gpu_us = price, 0

    def settle(self, now: float, *, online: bool) -> None:
        """Account for the time so far; called before anything changes that bills depend on."""
        self.gpu_us, self.disk_us = self._metered(now, online=online)
        self.metered_us = max(self.metered_us, microseconds(now))

    def _metered(self, now: float, *, online: bool) -> tuple[int, int]:
        passed = max(0, microseconds(now) - self.metered_us) if online else 0
        return self.gpu_us + (passed if self.phase is Phase.RUNNING else 0), self.disk_us + passed

    def boots(self, now: float, seconds: float, *, ends: bool = True) -> None:
        """It begins to load, and will run `seconds` from now (infinite, or not `ends`: never)."""
        self.phase = Phase.LOADING
        self.loading_at = now + min(seconds, 600.0) * 0.2
        self.boot_at = now + seconds if ends and math.isfinite(seconds) else None
        self.status_msg = ""
        self.transient = ""
        self.interrupted = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What remains of a destroyed instance."""

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
    """Of its bill: (price per hour, microseconds)."""


def container_ports(launch: Launch) -> list[str]:
    """The ports that a launch maps, SSH first: "-p 8000:8000/udp" in env asks for "8000/udp"."""
    names = ["22/tcp"]
    for key in launch.env:
        if key.startswith("-p "):
            inside, _, protocol = key[3:].strip().rpartition(":")[2].partition("/")
            name = f"{inside}/{protocol or 'tcp'}"
            if inside.isdigit() and name not in names:
                names.append(name)
    return names


def microseconds(seconds: float) -> int:
    """Whole microseconds."""
    return round(seconds * 1_000_000)
