"""What the end of a lease needs before its machine is destroyed: a notice, a stop, and the right end in its label."""

from collections.abc import Iterator

from gpuproxy.model import lease_ends, self_ending
from gpuproxy.model.lease_facts import EndingSoon, NewEnd, StopDue
from gpuproxy.model.leases import Lease, LeaseState
from gpuproxy.ports import ListedInstance
from gpuproxy.reconcile.steps import Note, Relabel, Scene, Step, Stop


def ending(lease: Lease, instance: ListedInstance | None, scene: Scene) -> Iterator[Step]:
    """The steps for a rented machine that is not to be destroyed yet. `instance`: as it is listed, if it is."""
    yield from _notice(lease, scene)
    yield from _stop(lease, instance, scene)
    if instance is not None and self_ending.is_on(lease):
        yield from _label(lease, instance, scene)


def _notice(lease: Lease, scene: Scene) -> Iterator[Step]:
    soon = lease_ends.notice_at(lease, scene.limits.ending_soon_seconds)
    if soon is None or lease.observed.ending_soon_at is not None or lease.expires_at is None:
        return
    if soon <= scene.now < lease.expires_at:
        yield Note(lease, EndingSoon(scene.now))


def _stop(lease: Lease, instance: ListedInstance | None, scene: Scene) -> Iterator[Step]:
    """Stop a machine that is kept after its end. It does not wait for a listing; with one, `plan` repeats the stop."""
    if not lease_ends.is_to_stop(lease, scene.now):
        return
    stop_at = lease.pending.stop_at
    if stop_at is None:
        yield Note(lease, StopDue(scene.now))
    if lease.state is not LeaseState.PARKED and (stop_at is None or (stop_at <= scene.now and instance is None)):
        yield Stop(lease)


def _label(lease: Lease, instance: ListedInstance, scene: Scene) -> Iterator[Step]:
    """Write the label anew if it does not carry the end of the lease, unless a new end is being written."""
    until = lease.pending.new_end_until
    if scene.label_of is None or (until is not None and scene.now < until):
        return
    if until is not None:  # whoever was writing it is gone: the end of the lease stands
        yield Note(lease, NewEnd(None, None))
    label, written = scene.label_of(lease), instance.written_label or instance.label
    if written != label:
        yield Relabel(lease, label, written, foreign=written is not None and instance.label != lease.label)
