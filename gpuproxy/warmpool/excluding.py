"""The proof that other machines of a pool do not write to its volume: its next step, and what it lacks. Pure."""

from gpuproxy.model.leases import RENTED, Lease, LeaseState
from gpuproxy.model.pools import Degraded
from gpuproxy.warmpool.scene import Act, ConfirmGone, Fence, Rest

_SOON = 0.5


def exclusion(writers: tuple[Lease, ...]) -> Act:
    """The next step of the proof. `writers`: the machines that are not yet proven at rest or gone."""
    lost = next((each for each in writers if each.state is LeaseState.LOST), None)
    if lost is not None:
        return ConfirmGone(lost)
    rented = tuple(each for each in writers if each.state in RENTED)
    return Fence(rented) if rented else Rest(_SOON)


def why_unproven(writers: tuple[Lease, ...]) -> Degraded:
    """Why they are not proven at rest or gone."""
    if any(is_offline(each) for each in writers):
        return Degraded.HOST_OFFLINE
    return Degraded.UNKNOWN_OUTCOME if any(each.instance_id is None for each in writers) else Degraded.NOT_FENCED


def is_offline(lease: Lease) -> bool:
    """Whether the marketplace does not reach the machine's host. It can't be proven stopped then."""
    return lease.state in RENTED and lease.observed.billed == "nothing"
