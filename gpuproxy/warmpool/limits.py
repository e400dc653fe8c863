"""The intervals and limits of warm pools, in seconds of the clock. They are checked together."""

from dataclasses import dataclass

READS_APART = 5.0
"""Two reads must agree, so far apart, before a machine counts as stopped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """Every number of warm pools that an operator may want to change."""

    check_seconds: float = 2.0
    """Between two checks of a primary."""
    probe_timeout: float = 1.5
    """Real seconds of one probe."""
    failures: int = 3
    """Failed checks in a row before a primary counts as lost."""
    unreachable_seconds: float = 180.0
    """After this time, a primary that runs and does not answer makes the pool degraded."""
    fence_seconds: float = 90.0
    """The time limit for the proof that an old primary is stopped."""
    start_seconds: float = 120.0
    """The time limit for a started machine to run and answer. It is also how long its script waits for the lock."""
    ready_seconds: float = 900.0
    """The time limit for a new machine to run and answer."""
    create_seconds: float = 420.0
    """The time limit for a create with an unknown outcome, before the pool is degraded."""
    free_check_seconds: float = 40.0
    """Between two looks whether a standby's GPUs are free."""
    unchecked_seconds: float = 60.0
    """A pool is degraded if nobody could look for so long."""
    retry_seconds: float = 30.0
    """The first wait before a failed step is tried again. It doubles up to `retry_most`."""
    retry_most: float = 600.0

    def wait_after(self, tries: int) -> float:
        """Seconds before the next try after so many failed ones."""
        return min(self.retry_seconds * 2.0 ** min(max(0, tries - 1), 20), self.retry_most)

    def problems(self) -> tuple[tuple[tuple[str, ...], str], ...]:
        """What is wrong with the numbers together: the names of the fields, and a sentence. Empty: nothing."""
        found: list[tuple[tuple[str, ...], str]] = []
        if self.probe_timeout >= self.check_seconds:
            text = "the timeout of a probe must be shorter than the interval between two checks"
            found.append((("probe_timeout", "check_seconds"), text))
        if self.failures < 2:
            text = "at least two failed checks in a row must be needed, because one look is no verdict"
            found.append((("failures",), text))
        if self.fence_seconds < 3 * READS_APART:
            text = f"the time limit of the fence must be at least {3 * READS_APART:.0f} s, for its two reads"
            found.append((("fence_seconds",), text))
        if self.unreachable_seconds <= self.failures * self.check_seconds:
            text = "a primary must be unreachable for longer than its failed checks take"
            found.append((("unreachable_seconds", "failures", "check_seconds"), text))
        if self.unchecked_seconds <= self.free_check_seconds:
            text = "the looks for free GPUs must be more frequent than the time after which one is missed"
            found.append((("unchecked_seconds", "free_check_seconds"), text))
        return tuple(found)
