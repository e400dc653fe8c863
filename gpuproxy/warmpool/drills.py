"""When a pool tests its failover by itself. Pure.

The time of the next drill is stored, so that a restart neither forgets nor repeats one. A drill begins only while the
pool is active, and only within the hours that its owner allows. In the mode `recreate` there is none, because a
failover destroys the primary there.
"""

from dataclasses import replace
from datetime import datetime

from gpuproxy.model.pools import Pool
from gpuproxy.warmpool.scene import Change, Scene


def planned(s: Scene) -> Change | None:
    """Store when the next drill is due, if that is not stored yet, or if the owner wants drills more often now."""
    every, at = s.pool.spec.drill_every, s.pool.next_drill_at
    if every is None or s.pool.mode == "recreate" or (at is not None and at <= s.now + every):
        return None
    return Change(reason="the next drill is planned", pool=after_drill(s.pool, s.now))


def is_due(s: Scene) -> bool:
    """Whether a drill is to begin now."""
    pool, at = s.pool, s.pool.next_drill_at
    if pool.spec.drill_every is None or pool.mode == "recreate" or at is None or at > s.now:
        return False
    return _is_within(s.now, pool.spec.drill_window)


def after_drill(pool: Pool, now: datetime) -> Pool:
    """The pool with the time of its next drill."""
    every = pool.spec.drill_every
    return replace(pool, next_drill_at=None if every is None else now + every)


def _is_within(now: datetime, window: tuple[int, int]) -> bool:
    """Whether the hour of `now` is in the window. A window whose end is not after its begin goes past midnight."""
    begin, end = window
    return begin <= now.hour < end if begin < end else now.hour >= begin or now.hour < end
