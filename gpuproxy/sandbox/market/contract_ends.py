"""The ends of contracts and offers. At its end, an instance is stopped for good; its disk stays and is billed.

Most hosts extend their offers in time, and with them the contracts of their instances. Hosts that leave do not.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from gpuproxy.sandbox.market.changes import Changes
from gpuproxy.sandbox.market.instances import HOLDS_GPU, Instance, Phase
from gpuproxy.sandbox.market.machines import Machine


class Market(Protocol):
    """What is needed of the market."""

    now: float
    changes: Changes
    instances: dict[int, Instance]

    @property
    def machines(self) -> Mapping[int, Machine]:
        """All machines by id."""

    def at(self, when: float, happen: Callable[[], None]) -> None:
        """Run `happen` at the market's time `when`."""

    def stop(self, instance: Instance) -> None:
        """Stop an instance."""


class ContractEnds:
    """The ends of all contracts and offers of one market."""

    def __init__(self, market: Market) -> None:
        self._market = market
        for machine in market.machines.values():
            if machine.leaves:
                market.at(float(str(machine.columns["end_date"])), partial(self._leave, machine))

    def follow(self, instance: Instance) -> None:
        """Stop a new or restored instance at the end of its contract."""
        self._market.at(instance.end_date, partial(self._due, instance))

    def move(self, instance: Instance, end_date: float) -> None:
        """Let a contract end at another time."""
        instance.end_date = end_date
        self._market.changes.instances.add(instance.id)
        self.follow(instance)

    def offer_longer(self) -> None:
        """Extend the offers that end within a week by half a year, and the contracts on their machines."""
        for machine in self._market.machines.values():
            if machine.offer_longer(self._market.now):
                self._market.changes.machines.add(machine.id)
                for instance in [one for one in self._market.instances.values() if one.machine_id == machine.id]:
                    self.move(instance, float(str(machine.columns["end_date"])))

    def _due(self, instance: Instance) -> None:
        if instance.phase is Phase.DESTROYED or self._market.now < instance.end_date:
            return  # it ended, or its contract was moved and is followed anew
        if instance.phase in HOLDS_GPU or instance.phase is Phase.QUEUED:
            self._market.stop(instance)
            instance.status_msg = "contract ended"

    def _leave(self, machine: Machine) -> None:
        machine.left = True
        self._market.changes.machines.add(machine.id)
