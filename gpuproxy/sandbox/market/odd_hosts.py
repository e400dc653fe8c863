"""Machines that not every image, lease or container can use: few ports, an old driver, an old GPU, an early end.

A share of the machines becomes odd, each in one way. The draws are separate from those of the rest of the market, so
all other machines stay as they are.
"""

import random
from collections.abc import Iterable
from dataclasses import replace

from gpuproxy.sandbox.market import hardware
from gpuproxy.sandbox.market.machines import Blueprint

KINDS = ("no_ports", "few_ports", "old_driver", "old_gpu", "ends_within_a_day", "ends_within_days")
_HOUR = 3600.0
_BLACKWELL = 1000


def with_odd_hosts(
    market: Iterable[tuple[Blueprint, int]], share: float, seed: int, now: float
) -> list[tuple[Blueprint, int]]:
    """The market in which about `share` (0 to 1) of the machines are odd."""
    return [(_odd(blueprint, share, seed, now), held) for blueprint, held in market]


def _odd(made: Blueprint, share: float, seed: int, now: float) -> Blueprint:
    rng = random.Random(f"{seed}:odd:{made.id}")
    if rng.random() >= share:
        return made
    match rng.choice(KINDS):
        case "no_ports":
            return replace(made, direct_ports=0)
        case "few_ports":
            return replace(made, direct_ports=rng.randint(1, 3))
        case "old_driver" if made.model.compute_cap < _BLACKWELL:
            return replace(made, driver=rng.choice(hardware.OLD_DRIVERS))
        case "old_gpu":
            model = rng.choice(hardware.OLD_MODELS)
            return replace(made, model=model, price_per_gpu=round(model.median * 1_000_000), driver=hardware.DRIVERS[0])
        case "ends_within_a_day":
            return replace(made, end_date=round(now + rng.uniform(0.5, 23) * _HOUR), leaves=True)
        case _:
            return replace(made, end_date=round(now + rng.uniform(26, 144) * _HOUR), leaves=True)
