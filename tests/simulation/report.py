"""The result of a story: figures, and one hash of everything that happened in it."""

from collections import Counter
from dataclasses import dataclass

from gpuproxy.sandbox.protocol.faults import Fault
from tests.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of one story."""

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
    """A counter of the calls that each fault hits from now on."""
    hits: Counter[str] = Counter()
    take = world.sandbox.faults.take

    def counted(provider: str, account: str | None, call: str) -> Fault | None:
        fault = take(provider, account, call)
        if fault is not None:
            hits[f"{call} {fault.name}"] += 1
        return fault

    world.sandbox.faults.take = counted  # type: ignore[method-assign]
    return hits
