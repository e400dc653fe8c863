"""What is left of a story once it is told: figures, and one hash of everything that happened in it."""

from collections import Counter
from dataclasses import dataclass


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
    faults: Counter[str]
    surplus: tuple[float, ...]
    """For how many seconds each machine lived that came after its lease was over."""
    seconds: float
    """Of virtual time."""
    digest: str
