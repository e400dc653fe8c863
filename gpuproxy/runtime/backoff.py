"""Waits that double after each failure, with jitter, so that callers that failed together do not return together.

The jitter of a wait depends on the seed and on the number of the failure. A seed is drawn once for each process, so two
servers differ, and a simulation repeats exactly.
"""

from zlib import crc32

_MOST_DOUBLINGS = 30


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
        step = min(self._first * 2.0 ** min(self._failures, _MOST_DOUBLINGS), self._most)
        self._failures += 1
        return step * (1 + crc32(f"{self._seed}/{self._failures}".encode()) / 2**32) / 2

    def reset(self) -> None:
        """Begin with the first step again."""
        self._failures = 0
