"""Tries to make a part of a pool: when one has failed, and when the next one may follow. Pure."""

from dataclasses import replace
from datetime import datetime, timedelta

from gpuproxy.model.leases import TERMINAL, Lease
from gpuproxy.model.pools import Degraded, Pool
from gpuproxy.model.reasons import Reason
from gpuproxy.warmpool.scene import SOON, Change, Rest, Scene

_UNFIT = frozenset({Reason.PRICE_MOVED, Reason.WRONG_GPU, Reason.HOST_BROKEN, Reason.IMAGE_UNUSABLE})
"""Why the reconciler releases a new part at once. The next one may be the same, so it is not rented at once."""


def unfit(s: Scene, last: Lease | None) -> Change | None:
    """Count the rental of a part that turned out to be unfit as a failed try, once; None if it was fit."""
    if last is None or last.state not in TERMINAL or last.reason not in _UNFIT:
        return None
    if last.ended_at is None or s.pool.step_began_at is None or last.ended_at <= s.pool.step_began_at:
        return None
    why = f"{last.kind} {last.marketplace_id} was released: {last.reason}"
    return Change(reason=why, pool=tried(s, why))


def tried(s: Scene, why: str) -> Pool:
    """The pool after a failed try."""
    tries = s.pool.tries + 1
    return replace(s.pool, tries=tries, error=why, next_try_at=later(s, tries), step_began_at=s.now)


def later(s: Scene, tries: int) -> datetime:
    """When the next try may follow after so many failed ones."""
    return s.now + timedelta(seconds=s.limits.wait_after(tries))


def until_try(s: Scene) -> Rest:
    """Wait for the next try, or for a change if none is planned."""
    if s.pool.next_try_at is None:
        return Rest(s.limits.check_seconds)
    return Rest(max(SOON, (s.pool.next_try_at - s.now).total_seconds()))


def calm(pool: Pool) -> Pool:
    """The pool without what was wrong with it, and without failed tries."""
    return replace(
        pool, degraded=Degraded.NONE, error="", progress="", tries=0, next_try_at=None, asked="", unfenced=False
    )
