"""How the listings of an account's machines and of its volumes make each other believable.

A listing that shows nothing known may be wrong. The other listing of the same account is a second witness:

- A machine of a warm pool mounts a volume. If the volumes are listed and none is in use, there is no such machine.
- A machine that is listed shows that the account answers truthfully about what it has.
"""

from datetime import timedelta

from gpuproxy.model.leases import RENTED
from gpuproxy.ports import Clock, InstanceStatus
from gpuproxy.reconcile.observe import AccountWatch

_FRESH = timedelta(seconds=120)
_IN_USE = "in use"


def pair(machines: AccountWatch, volumes: AccountWatch, clock: Clock) -> None:
    """Let the two watches of an account vouch for each other."""

    def machines_are_vouched() -> bool:
        return _all_would_mount(machines) and _shows_known(volumes, clock) and not _any_in_use(volumes)

    machines.vouched = machines_are_vouched
    volumes.vouched = lambda: _shows_known(machines, clock)
    volumes.mounted = lambda: _mounted(machines)


def _shows_known(watch: AccountWatch, clock: Clock) -> bool:
    """Whether a recent listing shows something that is leased and was seen before."""
    listing = watch.listing
    if listing is None or listing.unreadable or clock.now() - listing.began_at > _FRESH:
        return False
    return any(
        lease.state in RENTED and lease.observed.seen_at is not None and listing.shown(lease) is not None
        for lease in watch.live
    )


def _all_would_mount(machines: AccountWatch) -> bool:
    """Whether each machine that may exist would have a volume in use."""
    return all(lease.creation.volume for lease in machines.live if lease.outcome_unknown)


def _mounted(machines: AccountWatch) -> frozenset[str]:
    """The volumes of the machines that the last listing shows, other than stopped."""
    listing = machines.listing
    if listing is None:
        return frozenset()
    shown = [(lease, listing.shown(lease)) for lease in machines.live if lease.creation.volume]
    return frozenset(
        lease.creation.volume for lease, row in shown if row is not None and row.status is not InstanceStatus.STOPPED
    )


def _any_in_use(volumes: AccountWatch) -> bool:
    return volumes.listing is None or any(each.raw_status == _IN_USE for each in volumes.listing.instances)
