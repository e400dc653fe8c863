"""What goes wrong with a running instance: it dies, loses its GPU, its keys or its network, or a stop is not done."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from gpuproxy.sandbox.market.changes import Changes
from gpuproxy.sandbox.market.instances import FOREVER, Instance, Phase
from gpuproxy.sandbox.market.machines import Machine


class MarketView(Protocol):
    """What is needed of the market."""

    changes: Changes

    @property
    def now(self) -> float:
        """The market's time, in epoch seconds."""

    @property
    def machines(self) -> dict[int, Machine]:
        """All machines by id."""

    def on(self, machine: Machine) -> list[Instance]:
        """The instances of a machine, oldest first."""

    def at(self, when: float, happen: Callable[[], None]) -> None:
        """Run `happen` at the market's time `when`."""

    def accrue(self, instance: Instance) -> None:
        """Bring the bill of an instance up to date, before a change."""

    def stop(self, instance: Instance) -> None:
        """Stop an instance."""

    def container_dies(self, instance: Instance, why: str) -> None:
        """Let the container exit by itself."""

    def update_ports(self, instance: Instance) -> None:
        """Let the right addresses of an instance answer."""


class Troubles:
    """The troubles of the instances of one market."""

    def __init__(self, market: MarketView) -> None:
        self._market = market

    def schedule(self, instance: Instance, ran_since: float) -> None:
        """Let the defects of an instance show after their time of running."""
        if instance.dies_after is not None:
            self._market.at(ran_since + instance.dies_after, partial(self._die, instance, instance.restarts))
        if instance.keys_refreshed_after is not None:
            when = ran_since + instance.keys_refreshed_after
            self._market.at(when, partial(self._refresh_keys, instance, instance.restarts))

    def resume(self, instance: Instance) -> None:
        """Go on with a restored instance."""
        if self._market.now < instance.muted_until < FOREVER:
            self._market.at(instance.muted_until, partial(self._hear, instance))

    def gpu_dies(self, instance: Instance) -> None:
        """Let the GPUs of an instance fail until the machine is repaired. The container keeps running.

        The machine's record shows it, and the instance's own ports answer GETs with 503.
        """
        machine = self._market.machines[instance.machine_id]
        instance.status_msg = "GPU error: NVRM: Xid 79, GPU has fallen off the bus."
        machine.columns.update(verification="deverified", vericode=2)
        machine.dead |= instance.mask
        self._market.changes.instances.add(instance.id)
        self._update(machine)

    def repair_gpus(self, machine: Machine) -> None:
        """Let all GPUs of a machine work again. Its verification stays as it is."""
        machine.dead = 0
        self._update(machine)

    def mute(self, instance: Instance, seconds: float) -> None:
        """Let no address of an instance answer for so many seconds; 0: until `unmute`. It runs on."""
        instance.muted_until = self._market.now + seconds if seconds > 0 else FOREVER
        self._changed(instance)
        self.resume(instance)

    def unmute(self, instance: Instance) -> None:
        """Let the addresses of an instance answer again, if it runs."""
        instance.muted_until = 0.0
        self._changed(instance)

    def pretend_stop(self, instance: Instance, *, seconds: float = 0.0, silent: bool = True) -> None:
        """Let the rows of an instance show that it is stopped, although it runs on, for so many seconds; 0: for good.

        It is stopped then. Its GPUs stay in use and are not billed. If it is `silent`, its addresses do not answer. An
        instance that does not run is stopped.
        """
        if instance.phase not in (Phase.LOADING, Phase.RUNNING):
            self._market.stop(instance)
            return
        self._market.accrue(instance)
        instance.pretends = True
        instance.muted_until = FOREVER if silent else instance.muted_until
        self._changed(instance)
        if seconds > 0:
            self._market.at(self._market.now + seconds, partial(self._stop_at_last, instance, instance.restarts))

    def come_back(self, instance: Instance) -> None:
        """Start an instance that only pretends to be stopped: its row shows the truth again."""
        self._market.accrue(instance)
        instance.pretends = False
        self.unmute(instance)

    def _stop_at_last(self, instance: Instance, restarts: int) -> None:
        if instance.pretends and instance.restarts == restarts:
            self._market.stop(instance)

    def _hear(self, instance: Instance) -> None:
        if self._market.now >= instance.muted_until:
            self._changed(instance)

    def _die(self, instance: Instance, restarts: int) -> None:
        if instance.phase is Phase.RUNNING and instance.restarts == restarts:
            self._market.container_dies(instance, "container exited with code 137")

    def _refresh_keys(self, instance: Instance, restarts: int) -> None:
        if instance.phase is Phase.RUNNING and instance.restarts == restarts:
            instance.appended_keys = []
            self._market.changes.instances.add(instance.id)

    def _update(self, machine: Machine) -> None:
        self._market.changes.machines.add(machine.id)
        for instance in self._market.on(machine):
            self._market.update_ports(instance)

    def _changed(self, instance: Instance) -> None:
        self._market.changes.instances.add(instance.id)
        self._market.update_ports(instance)
