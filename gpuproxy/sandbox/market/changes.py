"""What a market has to have kept: filled by whatever changes it, emptied by whoever keeps it."""

from dataclasses import dataclass, field

from gpuproxy.sandbox.market.instances import Ended


@dataclass(slots=True)
class Changes:
    """What differs from when the market was last kept."""

    machines: set[int] = field(default_factory=set)
    instances: set[int] = field(default_factory=set)
    ended: list[Ended] = field(default_factory=list)
    volumes: set[int] = field(default_factory=set)
    images: bool = False

    def clear(self) -> None:
        """Everything is kept by now."""
        self.machines.clear()
        self.instances.clear()
        self.ended.clear()
        self.volumes.clear()
        self.images = False

    def __bool__(self) -> bool:
        return bool(self.machines or self.instances or self.ended or self.volumes or self.images)
