"""What is left of a story once it is told: figures, and one hash of everything that happened in it."""

from collections import Counter
from dataclasses import dataclass

from gpuproxy.sandbox.protocol.faults import Fault
from tests.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one story came to."""

    seed: int
    beyond: bool
    creates: int
    machines: int
    unknowns: int
    crashes: int
    jumps: int
    stalls: int
    faults: Counter[str]
    surplus: tuple[float, ...]
    """For how many seconds each machine lived that came after its lease was over."""
    seconds: float
    """Of virtual time."""
    digest: str


def hits_of(world: World) -> Counter[str]:
    """Counts from now on how many calls are hit by which fault."""
    hits: Counter[str] = Counter()
    take = world.sandbox.faults.take

    def counted(provider: str, account: str | None, call: str) -> Fault | None:
        fault = take(provider, account, call)
        if fault is not None:
            hits[f"{call} {fault.name}"] += 1
        return fault

    world.sandbox.faults.take = counted  # type: ignore[method-assign]
    return hits
