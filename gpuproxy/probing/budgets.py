"""What a probe will hold, checked against limits and quotas before anything of it is rented."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from gpuproxy.model.bookings import HOUR
from gpuproxy.model.demands import Caller
from gpuproxy.model.limits import Hold
from gpuproxy.model.offers import Offer
from gpuproxy.model.probes import WANTED_SECONDS
from gpuproxy.ports import Capabilities, Tx
from gpuproxy.probing.ground import DISK_GB, VOLUME_GB, Ground
from gpuproxy.store import limits


def check(tx: Tx, caller: Caller, ground: Ground, able: Capabilities, prepaid_hours: int) -> None:
    """Raise BudgetExceeded, or the error of a quota, if a limit would refuse a part of the probe. Nothing is written.

    Each part is held until the end of the probe's reservation, or for the hours that are booked. The machines are two
    at a time, because the first one is stopped before the third one is rented. Each part is admitted again when it is
    rented.
    """
    since, until, whose = tx.now(), tx.now() + timedelta(seconds=WANTED_SECONDS), (caller.project, caller.key_id)

    def machine(name: str, offer: Offer) -> Hold:
        return limits.needed(name, whose, offer.price(DISK_GB), since, until, gpus=offer.num_gpus)

    machines = [machine("first", ground.first)]
    if ground.second is not None:
        machines.append(machine("second", ground.second))
        machines.append(replace(machines[0], lease_id="needed-third"))
    if able.billing == "prepaid":
        machines = [_booked(each, prepaid_hours) for each in machines]
    volumes: list[Hold] = []
    if ground.volume is not None:
        volumes.append(limits.needed("volume", whose, ground.volume.price(VOLUME_GB), since, until))
    limits.check(tx, [*volumes, *machines], at_once=[*volumes, *_dearest_two(machines)])


def _dearest_two(machines: Sequence[Hold]) -> list[Hold]:
    return sorted(machines, key=lambda hold: -hold.rate)[:2]


def _booked(hold: Hold, hours: int) -> Hold:
    booked = max(hours, -(-timedelta(seconds=WANTED_SECONDS) // HOUR))
    return replace(
        hold, until=hold.since + booked * (HOUR // timedelta(microseconds=1)), lead=limits.booked_ahead(hours)
    )
