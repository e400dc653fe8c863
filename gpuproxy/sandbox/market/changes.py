"""The unsaved changes of a market. Code that changes the market adds to them; the journal saves and clears them."""

from dataclasses import dataclass, field

from gpuproxy.sandbox.market.instances import Ended


@dataclass(slots=True)
class Changes:
    """The ids of everything that has changed since the market was last saved."""

    machines: set[int] = field(default_factory=set)
    instances: set[int] = field(default_factory=set)
    ended: list[Ended] = field(default_factory=list)
    volumes: set[int] = field(default_factory=set)
    images: bool = False

    def clear(self) -> None:
        """Forget all changes, after they have been saved."""
        self.machines.clear()
        self.instances.clear()
        self.ended.clear()
        self.volumes.clear()
        self.images = False

    def __bool__(self) -> bool:
        return bool(self.machines or self.instances or self.ended or self.volumes or self.images)
