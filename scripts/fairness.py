"""`make fairness`: one project floods an account with reservations and releases; another project must hardly notice.

Twenty callers of one project reserve 16 GPUs each and release them, again and again, at the marketplace's real
intervals. Another project reserves one GPU with a deadline of 30 s, and destroys it. All time is virtual, so the
figures depend only on the seed. Environment: SEEDS (default 20). Exit code 0: the reserve of the small project took at
most two create intervals longer than without the flood, and its destroy reached the market within 3 s and one destroy
interval.
"""

import os
import sys

from scripts.variables import refuse_arguments
from tests.simulation.crowd import CREATE_INTERVAL, DESTROY_LIMIT, run
from tests.simulation.logs import errors_logged

_SEEDS = 20


def main() -> int:
    """The exit code: 0 if every seed was fair."""
    with errors_logged() as errors:
        waits = [run(seed) for seed in range(int(os.environ.get("SEEDS", _SEEDS)))]
    alone = max(each.alone for each in waits)
    later = max((each.reserve - each.alone) / CREATE_INTERVAL for each in waits)
    destroy = max(each.destroy for each in waits)
    print(f"flood     {sum(each.flooded for each in waits)} creates and destroys in {len(waits)} schedules")
    print(f"reserve   {alone:.1f} s alone, at worst {later:.2f} create intervals more in the flood (limit 2)")
    print(f"destroy   on the wire after {destroy:.1f} s at worst (limit {DESTROY_LIMIT:.1f} s)")
    print(f"refused   {sum(each.refused for each in waits)} calls of the small project")
    unfair = [seed for seed, each in enumerate(waits) if not each.fair]
    print(f"unfair    {unfair or 'no schedule'}")
    print(f"errors    {errors[:3] or 'none'}")
    return 1 if unfair or errors else 0


if __name__ == "__main__":
    refuse_arguments(__doc__)
    sys.exit(main())
