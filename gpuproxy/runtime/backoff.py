"""Waits that double after each failure, with jitter, so that callers that failed together do not return together.

The jitter of a wait depends on the seed and on the number of the failure. A seed is drawn once for each process, so two
servers differ, and a simulation repeats exactly.
"""

from zlib import crc32

_MOST_DOUBLINGS = 30


def wait(seed: str, failures: int, *, first: float, most: float) -> float:
    """The seconds to wait after so many failures, at least 1. For failures that are counted elsewhere."""
    step = min(first * 2.0 ** min(failures - 1, _MOST_DOUBLINGS), most)
    return step * (1 + crc32(f"{seed}/{failures}".encode()) / 2**32) / 2


class Backoff:
    """The next wait is between half of the present step and the whole step. The step doubles up to a maximum."""

    def __init__(self, seed: str, *, first: float, most: float) -> None:
        """`first` and `most`: the first and the longest step, in seconds."""
        self._seed = seed
        self._first = first
        self._most = most
        self._failures = 0

    def failed(self) -> float:
        """Count a failure. Returns the seconds to wait."""
        self._failures += 1
        return wait(self._seed, self._failures, first=self._first, most=self._most)

    def reset(self) -> None:
        """Begin with the first step again."""
        self._failures = 0
