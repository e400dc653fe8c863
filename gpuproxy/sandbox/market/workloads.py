"""Which instances run the user's command, and who has the lock of a volume.

Without real scripts, this is a model of GPU Proxy's boot script: it checks the nonce of the volume, waits for the lock
for a bounded time, and runs the command only with the lock. Any other start script runs without a lock, and so does the
image's own entry point. An instance that has the lock counts as one with a workload, also without a user's script.

With real scripts, their reports say what happened; see server/boot_scripts.py.
"""

import re
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from gpuproxy.sandbox.market.addresses import run_kind
from gpuproxy.sandbox.market.changes import Changes
from gpuproxy.sandbox.market.instances import Instance, Launch, Lock, Phase
from gpuproxy.sandbox.market.volumes import Volume, Volumes

_MOST_LINES = 1_000  # of a log
_REPORT = re.compile(r"gpuproxy-boot: version=\d+ .*?\block=(\w+)(?:.*\bonstart=(\w+))?")
_WAITING = "gpuproxy-boot: version=1 lock=waiting"
_RUNS = frozenset({"started", "skipped", "none"})
"""What a report says of a user's script that is not kept from running. A skipped one counts as running."""


class MarketView(Protocol):
    """What is needed of the market."""

    changes: Changes
    printed: dict[int, deque[str]]

    @property
    def now(self) -> float:
        """The market's time, in epoch seconds."""

    @property
    def instances(self) -> Mapping[int, Instance]:
        """The existing instances by id."""

    @property
    def volumes(self) -> Volumes:
        """All volumes."""

    def at(self, when: float, happen: Callable[[], None]) -> None:
        """Run `happen` at the market's time `when`."""


class Workloads:
    """The workloads and locks of one market."""

    def __init__(self, market: MarketView) -> None:
        self._market = market
        self._real = False

    def use_real_scripts(self) -> None:
        """From now on the reports of real boot scripts say who has a lock."""
        self._real = True
        for instance in self._market.instances.values():
            if instance.launch.boot is not None and instance.launch.boot.lock is not None:
                instance.lock, instance.workload = "", False

    def follow(self, instance: Instance) -> None:
        """Begin or end what runs in an instance whose phase has changed."""
        if instance.phase is not Phase.RUNNING:
            self._end(instance)
        elif not instance.lock:
            self._begin(instance)
        self._count(instance)

    def resume(self, instance: Instance) -> None:
        """Go on with a restored instance."""
        if instance.lock == "waiting":
            self._say(instance, _WAITING)
            self._wait(instance, _lock(instance))
        elif instance.lock:
            self._print(instance)

    def reported(self, instance: Instance, line: str) -> None:
        """Read a line that the real start script of an instance has printed."""
        found = _REPORT.search(line)
        if found is None or instance.phase is not Phase.RUNNING or instance.launch.boot is None:
            return
        word, onstart = found[1], found[2]
        instance.lock = word
        instance.workload = word in ("held", "unsupported") and onstart in _RUNS
        if instance.workload:
            self._used(instance)
        self._market.changes.instances.add(instance.id)
        self._count(instance)

    def mounted(self, instance: Instance) -> Volume | None:
        """The volume whose lock an instance takes; None if it takes none, or none is mounted there."""
        lock = _lock(instance)
        for number, path in instance.launch.volumes.items():
            if lock is not None and path == lock.path:
                return self._market.volumes.all[number]
        return None

    def _begin(self, instance: Instance) -> None:
        lock, volume = _lock(instance), self.mounted(instance)
        if lock is None:
            instance.workload = _has_command(instance.launch)
            if instance.workload:
                self._used(instance)
        elif not self._real:
            self._try(instance, volume, lock)

    def _try(self, instance: Instance, volume: Volume | None, lock: Lock) -> None:
        """What the boot script does about the lock when it begins."""
        self._say(instance, _WAITING)
        if volume is None or not _fits(volume, lock):
            self._decide(instance, "wrong_volume")
        elif self._with_lock(volume, "held"):
            instance.lock, instance.waits_since = "waiting", self._market.now
            self._wait(instance, lock)
        else:
            self._decide(instance, "held")

    def _end(self, instance: Instance) -> None:
        volume = self.mounted(instance) if instance.lock == "held" else None
        instance.lock, instance.workload = "", False
        waiting = [] if volume is None or self._real else self._with_lock(volume, "waiting")
        if waiting:
            self._decide(min(waiting, key=lambda one: (one.waits_since, one.id)), "held")

    def _wait(self, instance: Instance, lock: Lock | None) -> None:
        until = instance.waits_since + (0 if lock is None else lock.wait_seconds)
        self._market.at(until, partial(self._give_up, instance, instance.restarts))

    def _give_up(self, instance: Instance, restarts: int) -> None:
        if instance.lock == "waiting" and instance.restarts == restarts and not self._real:
            self._decide(instance, "lock_held")

    def _decide(self, instance: Instance, word: str) -> None:
        instance.lock, instance.workload = word, word == "held"
        self._market.changes.instances.add(instance.id)
        if instance.workload:
            self._used(instance)
        self._print(instance)
        self._count(instance)

    def _used(self, instance: Instance) -> None:
        """The volumes of an instance have data from now on, and perhaps a nonce."""
        lock, locked = _lock(instance), self.mounted(instance)
        for number in instance.launch.volumes:
            volume = self._market.volumes.all[number]
            if volume is locked and lock is not None and not volume.nonce:
                volume.nonce = lock.nonce
            volume.has_data = True
            self._market.changes.volumes.add(number)

    def _print(self, instance: Instance) -> None:
        boot = instance.launch.boot
        if boot is None:
            return
        onstart = "none" if not boot.script else "started" if instance.workload else "not_run"
        keys = "" if not boot.keys else " keys=added" if instance.restarts == 1 else " keys=present"
        self._say(instance, f"gpuproxy-boot: version=1{keys} lock={instance.lock} onstart={onstart}")

    def _say(self, instance: Instance, line: str) -> None:
        self._market.printed.setdefault(instance.id, deque(maxlen=_MOST_LINES)).append(line)

    def _with_lock(self, volume: Volume, word: str) -> list[Instance]:
        """The instances with this volume whose lock is in this state."""
        users = (self._market.instances[number] for number in self._market.volumes.users(volume.id))
        return [one for one in users if one.lock == word and self.mounted(one) is volume]

    def _count(self, instance: Instance) -> None:
        """Keep the highest numbers of an instance's volumes."""
        for number in instance.launch.volumes:
            volume = self._market.volumes.all[number]
            running = [one for one in map(self._market.instances.get, self._market.volumes.users(number)) if one]
            running = [one for one in running if one.phase is Phase.RUNNING]
            most = max(volume.most_writers, len(running)), max(volume.most_workloads, sum(o.workload for o in running))
            if most != (volume.most_writers, volume.most_workloads):
                volume.most_writers, volume.most_workloads = most
                self._market.changes.volumes.add(number)


def _lock(instance: Instance) -> Lock | None:
    return None if instance.launch.boot is None else instance.launch.boot.lock


def _fits(volume: Volume, lock: Lock) -> bool:
    """True if the volume has the nonce of the lock or, for a lock that founds, neither a nonce nor data."""
    return volume.nonce == lock.nonce or (lock.founds and not volume.nonce and not volume.has_data)


def _has_command(launch: Launch) -> bool:
    """True if something of the user's runs with a launch without a lock."""
    if run_kind(launch) == "args":
        return True
    return launch.boot.script if launch.boot is not None else bool((launch.onstart or "").strip())
