"""Starts of stopped instances. A stopped instance has no GPUs, so its start may be queued until GPUs are free.

A queued start happens by itself later, and then the instance is billed. A stop or a destroy cancels it.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, Protocol

from gpuproxy.sandbox.market.instances import Instance, Phase
from gpuproxy.sandbox.market.machines import Machine

Binding = Literal["chunk", "any"]
"""On which GPUs a stopped instance can start: those of its own chunk, or of any chunk of that size on its machine."""


class MarketView(Protocol):
    """What is needed of the market."""

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

    def boot(self, instance: Instance) -> None:
        """Let an instance take its GPUs and load."""


class Starts:
    """The starts of one market."""

    def __init__(self, market: MarketView, binding: Binding) -> None:
        self._market = market
        self._binding = binding

    def start(self, instance: Instance, *, refuse_for: float = 0.0) -> bool:
        """Start an instance that does not run. False if it is queued: no GPUs, or refused for `refuse_for` seconds."""
        machine = self._market.machines[instance.machine_id]
        if instance.phase is Phase.EXITED or (refuse_for <= 0 and self._takes_gpus(machine, instance)):
            self._market.boot(instance)
            return True
        self._market.accrue(instance)
        instance.phase = Phase.QUEUED
        instance.not_before = self._market.now + refuse_for
        if refuse_for > 0:
            self.resume(instance)
        return False

    def resume(self, instance: Instance) -> None:
        """Try a queued start again when it may happen at the earliest."""
        machine = self._market.machines[instance.machine_id]
        self._market.at(max(self._market.now, instance.not_before), partial(self.start_queued, machine))

    def start_queued(self, machine: Machine) -> None:
        """Start the queued instances of a machine that can start now, oldest first."""
        for instance in self._market.on(machine):
            if instance.phase is Phase.QUEUED and self._takes_gpus(machine, instance):
                self._market.boot(instance)

    def _takes_gpus(self, machine: Machine, instance: Instance) -> bool:
        """True if the instance can start now. With the binding "any", it gets other GPUs if its own are in use."""
        if not machine.online or not instance.not_before <= self._market.now < instance.end_date:
            return False
        masks = [instance.mask]
        if self._binding == "any":
            masks += [chunk.mask for chunk in machine.chunks if chunk.gpus == instance.gpus]
        free = next((mask for mask in masks if not mask & machine.held), None)
        if free is None:
            return False
        instance.mask = free
        return True
