"""The market of the run, and what each server asks of it: the requests with effects, as they pass the forwarders."""

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ACCOUNTS = {"sandbox-key": "one", "sandbox-key-2": "two"}
"""The accounts' names by their keys."""
PRICE = 0.4
"""USD per GPU-hour, of every machine, without its disk."""
_MACHINES = 48
_GPUS = 2
_COLUMNS = (
    "machine_id,gpu_name,num_gpus,rentable,dph_base,dph_base_per_gpu,gpu_ram_mb_approx,cpu_name,cpu_cores,"
    "cpu_cores_effective,cpu_ram_gb_bucket,disk_space_gb_approx,storage_cost,pcie_bw,disk_bw,inet_down,inet_up,"
    "inet_down_cost_per_tb,inet_up_cost_per_tb,mobo_name"
)
_REQUEST = re.compile(rb"^(PUT|DELETE) /api/v0/(asks|instances)/(\d+)/")
_KEY = re.compile(rb"\r\nauthorization: Bearer (\S+)\r\n", re.IGNORECASE)
_LABEL = re.compile(rb'"label":\s*"([^"]*)"')
_LONGEST = 1 << 16


def write_market(path: Path) -> None:
    """A market of equal machines at one price, so that a budget for ten machines is one for exactly ten."""
    lines = [
        f"{machine},RTX 4090,{size},true,{PRICE * size},{PRICE},24564,EPYC,{32 * size},{16 * size},{64 * size},"
        f"{1000 * size},0.1,24,2000,1000,1000,0,0,X"
        for machine in range(101, 101 + _MACHINES)
        for size in range(1, _GPUS + 1)
    ]
    path.write_text("\n".join([_COLUMNS, *lines]) + "\n")


@dataclass
class Effect:
    """A request with effects that a server sent."""

    server: str
    """The server's process."""
    kind: str
    """"create" or "destroy"."""
    account: str
    label: str
    """The label of a create; "" for a destroy."""
    sent: int
    answered: int = 0
    """Nanoseconds since 1970; 0: no answer came."""


@dataclass
class Effects:
    """What all servers have sent."""

    all: list[Effect] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def watch(self, process: Callable[[], str]) -> "Watch":
        """The reader of one server's connections. `process` names the server's present process."""
        return Watch(process, self)

    def add(self, effect: Effect) -> None:
        """Record one."""
        with self._lock:
            self.all.append(effect)


class Watch:
    """Reads the requests of one server. Called by its forwarder."""

    def __init__(self, process: Callable[[], str], effects: Effects) -> None:
        self._process = process
        self._effects = effects
        self._servers: dict[int, str] = {}
        self._sending: dict[int, bytes] = {}
        self._began: dict[int, int] = {}
        self._open: dict[int, Effect] = {}

    def __call__(self, connection: int, out: bool, data: bytes) -> None:
        """Take the data of a connection."""
        now = time.time_ns()
        if not out:
            self._sending.pop(connection, None)
            if (effect := self._open.pop(connection, None)) is not None:
                effect.answered = now
            return
        server = self._servers.setdefault(connection, self._process())
        if connection not in self._sending:
            self._began[connection] = now
        sending = self._sending[connection] = (self._sending.get(connection, b"") + data)[:_LONGEST]
        if connection not in self._open and (effect := _effect(server, sending, self._began[connection])) is not None:
            self._open[connection] = effect
            self._effects.add(effect)


def _effect(server: str, request: bytes, sent: int) -> Effect | None:
    """The effect of a request, once all that matters of it has been seen."""
    found, key = _REQUEST.match(request), _KEY.search(request)
    if found is None or key is None:
        return None
    account = ACCOUNTS.get(key[1].decode(), key[1].decode())
    if (found[1], found[2]) == (b"DELETE", b"instances"):
        return Effect(server, "destroy", account, "", sent)
    label = _LABEL.search(request)
    if (found[1], found[2]) != (b"PUT", b"asks") or label is None:
        return None
    return Effect(server, "create", account, label[1].decode(), sent)
