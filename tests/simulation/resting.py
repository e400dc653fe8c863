"""The end of a story: without faults, all calls end and everything comes to rest, soon and for good."""

import asyncio
from collections.abc import Sequence
from typing import Any

from tests.simulation.audit import Audit, Violation

_STEP = 15.0
_RESTS = 3


async def come_to_rest(audit: Audit, calls: Sequence["asyncio.Task[Any]"], *, within: float) -> None:
    """Stop the faults, and wait until everything has been at rest for 45 seconds. Raises Violation.

    `within`: the most virtual seconds that this may take.
    """
    world = audit.world
    world.control("DELETE", "faults")
    began, rests = world.clock.monotonic(), 0
    while rests < _RESTS:
        left = unfinished(audit)
        if world.clock.monotonic() - began > within:
            raise Violation("leak", f"after {within:.0f} s of quiet: {left or 'a call hangs'}")
        await world.sleep(_STEP)
        audit.safety()
        rests = rests + 1 if all(call.done() for call in calls) and not unfinished(audit) else 0
    for call in calls:
        if not call.cancelled() and (error := call.exception()) is not None:
            raise Violation("broken", f"a call ended with {error!r}")


def unfinished(audit: Audit) -> str:
    """What is not concluded yet; "" if everything is."""
    if left := audit.rows("SELECT id FROM reservations WHERE settled_at IS NULL"):
        return f"not concluded: {[row['id'] for row in left]}"
    return audit.unfinished()
