"""Warm pools, and the answers to the calls about them, as messages.

Names and texts are those of the published document. What is not known is absent, so that it is null in JSON. A message
never contains anything of PoolSecrets or of the environment.
"""

from collections.abc import Sequence
from datetime import datetime

from gpuproxy.edge.messages.pool_figures import (
    costs,
    current_rate,
    ended_phases,
    failover_message,
    percentile,
    phase_of,
    phases_message,
)
from gpuproxy.edge.messages.times import timestamp
from gpuproxy.model.gpus import gpu_name
from gpuproxy.model.leases import UNRESOLVED, Lease, LeaseState
from gpuproxy.model.money import HOURS_PER_MONTH, Micro, dollars, usd
from gpuproxy.model.offers import DEFAULT_DISK_GB, Offer, country_of
from gpuproxy.model.pool_calls import CleanupResult, Enabled, FailoverResult, PoolHost, PoolPlan
from gpuproxy.model.pools import Degraded, Incident, PoolSpec, PoolState, PoolView, Transition
from gpuproxy.v1 import gpuproxy_pb2 as pb
from gpuproxy.warmpool.hints import hints

FALLBACK = "cpu_standby"
FALLBACK_DETAIL = "nothing takes over by itself"
FROM_REQUEST = "request"
_STANDBY_WORDS = {LeaseState.STARTING: "starting", LeaseState.PARKED: "stopped", LeaseState.ACTIVE: "running"}


def unknown_status(machine_id: int) -> pb.WarmPoolStatus:
    """The status of a machine_id without a pool: disabled, and nothing else."""
    return pb.WarmPoolStatus(machine_id=machine_id, state=PoolState.DISABLED, standby_state="none")


def status_message(view: PoolView, now: datetime, resume_token: str = "") -> pb.WarmPoolStatus:
    """A pool as it is; `now` is for the seconds of an open incident."""
    pool = view.pool
    totals = [each.total for each in view.failovers]
    return pb.WarmPoolStatus(
        machine_id=pool.machine_id,
        state=pool.state,
        host_machine_id=pool.host_number,
        volume_id=_number(view.volume),
        primary_gpu_id=_number(view.primary),
        standby_gpu_id=_number(view.standby),
        standby_state=_standby_state(view.standby),
        primary_ssh_host=_ssh_host(view.primary),
        primary_ssh_port=view.primary.observed.ssh_port if view.primary and _ssh_host(view.primary) else None,
        last_health_check=timestamp(view.health_checked_at),
        failover_count=pool.failover_count,
        last_failover_at=timestamp(pool.last_failover_at),
        error_message=pool.error or None,
        provider=pool.provider,
        degraded_reason=pool.degraded.value if pool.degraded is not Degraded.NONE else None,
        mode=pool.mode,
        data_state=pool.data_state or None,
        standby_checked_at=timestamp(pool.checked_at),
        detected_after_seconds=pool.detected_after_s,
        last_recovery_seconds=pool.recovery_s,
        outage_seconds=pool.outage_s,
        price_per_hour=usd(view.price),
        cost_so_far=usd(view.cost),
        standby_price_per_hour=usd(current_rate(view.standby)),
        contract_ends_at=timestamp(_contract_ends_at(view)),
        fallback_ready=False,
        retained_volumes=[_retained(lease) for lease in view.retained],
        transitions=[_transition(each) for each in view.transitions],
        next_action=view.next_action,
        primary_contract_id=_contract(view.primary),
        standby_contract_id=_contract(view.standby),
        resume_token=resume_token,
        mode_reason=pool.mode_why,
        fence=pool.fence,
        max_price_per_hour=pool.spec.max_price,
        max_price_source=source_of(pool.spec),
        failovers=[failover_message(each, pb.WarmPoolFailover(at=timestamp(each.at))) for each in view.failovers],
        failover_p50_seconds=percentile(totals, 50),
        failover_p95_seconds=percentile(totals, 95),
        costs=costs(view),
        incident=_incident(view.incident, now),
        progress=pool.progress,
        next_drill_at=timestamp(pool.next_drill_at),
        troubleshooting=hints(view),
    )


def source_of(spec: PoolSpec) -> str:
    """Where the price limit comes from: "request" or the name of a setting."""
    return spec.price_from or FROM_REQUEST


def hosts_answer(hosts: Sequence[PoolHost]) -> pb.ListWarmPoolHostsResponse:
    """The hosts in the engine's order."""
    return pb.ListWarmPoolHostsResponse(hosts=[_host(host) for host in hosts], count=len(hosts))


def provision_answer(view: PoolView, plan: PoolPlan, now: datetime, *, dry_run: bool) -> pb.ProvisionWarmPoolResponse:
    """The answer of ProvisionWarmPool, also for a dry run."""
    done = f"Dry run, nothing was rented. {_plan_text(plan)}" if dry_run else _provision_text(view)
    return pb.ProvisionWarmPoolResponse(
        success=True,
        message=_with_later(done, plan),
        status=status_message(view, now),
        plan=plan_message(plan),
        max_price_per_hour=plan.spec.max_price,
        max_price_source=source_of(plan.spec),
    )


def enable_answer(machine_id: int, enabled: Enabled) -> pb.EnableWarmPoolResponse:
    """The answer of EnableWarmPool."""
    spec = enabled.plan.spec
    return pb.EnableWarmPoolResponse(
        status="enabled",
        message=_with_later(f"Warm pool enabled for machine {machine_id}", enabled.plan),
        plan=plan_message(enabled.plan),
        max_price_per_hour=spec.max_price,
        max_price_source=source_of(spec),
    )


def disable_answer(machine_id: int, view: PoolView) -> pb.DisableWarmPoolResponse:
    """The answer of DisableWarmPool. During a failover, supervision ends with that."""
    later = ""
    if view.pool.state is PoolState.FAILOVER:
        later = ", once the failover that is under way has ended"
    elif view.pool.state is not PoolState.DISABLED:
        later = "; its standby is still being given back"
    return pb.DisableWarmPoolResponse(
        status="disabled",
        message=f"Warm pool disabled for machine {machine_id}{later}",
        fallback=FALLBACK,
        fallback_ready=False,
        fallback_detail=FALLBACK_DETAIL,
    )


def test_answer(result: FailoverResult) -> pb.TestWarmPoolFailoverResponse:
    """The answer of TestWarmPoolFailover."""
    return pb.TestWarmPoolFailoverResponse(
        success=True,
        message="Failover test completed",
        recovery_time_seconds=round(result.recovery_s, 3),
        new_primary_gpu_id=_number(result.new_primary) or 0,
    )


def failover_answer(result: FailoverResult) -> pb.FailoverWarmPoolResponse:
    """The answer of FailoverWarmPool."""
    return pb.FailoverWarmPoolResponse(
        success=True,
        message="Failover completed",
        recovery_time_seconds=round(result.recovery_s, 3),
        new_primary_gpu_id=_number(result.new_primary) or 0,
    )


def cleanup_answer(machine_id: int, result: CleanupResult) -> pb.CleanupWarmPoolResponse:
    """The answer of CleanupWarmPool: it is finished only if nothing is pending."""
    pending = result.pending_ids
    done = f"Warm pool for machine {machine_id} cleaned up"
    going_on = f"Warm pool for machine {machine_id} is being cleaned up; not proven gone yet: {', '.join(pending)}"
    return pb.CleanupWarmPoolResponse(success=True, message=going_on if pending else done, pending_ids=pending)


def delete_volume_answer(machine_id: int, volume_id: str, result: CleanupResult) -> pb.DeleteRetainedVolumeResponse:
    """The answer of DeleteRetainedVolume."""
    done = "is being deleted and not proven gone yet" if result.pending_ids else "deleted"
    return pb.DeleteRetainedVolumeResponse(
        success=True, message=f"Volume {volume_id} of machine {machine_id} {done}", pending_ids=result.pending_ids
    )


def plan_message(plan: PoolPlan) -> pb.WarmPoolPlan:
    """What a pool is or would be made of."""
    spec, host = plan.spec, plan.host.rpartition("/")[2]
    return pb.WarmPoolPlan(
        gpu_name=printed(plan.gpu_model or spec.gpu_model),
        image=spec.image,
        disk_size=spec.disk_gb,
        volume_size=spec.volume_gb,
        mode=plan.mode,
        mount_path=spec.mount_path,
        host_machine_id=int(host) if host.isdecimal() else None,
        price_per_hour=usd(plan.price or 0),
        primary_price_per_hour=usd(plan.primary_price or 0),
        standby_price_per_hour=usd(plan.standby_price or 0),
        volume_price_per_hour=usd(plan.volume_price or 0),
        hold_gpu=spec.hold_gpu,
        num_gpus=spec.num_gpus,
    )


def printed(model: str) -> str:
    """A GPU's name as the published document prints it: "RTX_4090"."""
    return gpu_name(model).replace(" ", "_")


# ---------------------------------------------------------------------------------------------------------------- parts


def _provision_text(view: PoolView) -> str:
    pool = view.pool
    if pool.state is PoolState.ACTIVE:
        return "Warm pool provisioned successfully"
    follow = "GetWarmPoolStatus and WatchWarmPool show the progress"
    what = pool.error or pool.progress
    return f"Warm pool is {pool.state}{f': {what}' if what else ''}. {follow}."


def _with_later(done: str, plan: PoolPlan) -> str:
    """What was done, and which fields of the call leave the parts that stay as they are."""
    if not plan.later:
        return done
    fields = ", ".join(plan.later)
    kept = "The primary and the volume stay as they are. New values that apply only to what is created later"
    return f"{done.rstrip('.')}. {kept}: {fields}."


def _plan_text(plan: PoolPlan) -> str:
    spec = plan.spec
    limit = f"Price limit: ${spec.max_price:g} per GPU-hour ({source_of(spec)})."
    if plan.price is None:
        return f"No host is chosen yet. {limit}"
    standby = "running, because of hold_gpu" if spec.hold_gpu else "stopped"
    model = printed(plan.gpu_model or spec.gpu_model)
    parts = (
        (f"primary with {spec.num_gpus} x {model or 'GPU'}", plan.primary_price),
        (f"standby ({standby})", plan.standby_price),
        (f"volume of {spec.volume_gb} GB", plan.volume_price),
    )
    each = ", ".join(f"{name} {dollars(price)}" for name, price in parts if price is not None)
    month = Micro(plan.price * HOURS_PER_MONTH)
    return f"It would cost {dollars(plan.price)}/h = {dollars(month)}/month (30 d): {each} per hour. {limit}"


def _number(lease: Lease | None) -> int | None:
    """The marketplace's id as a number; None if it is none."""
    native = lease.marketplace_id if lease is not None else ""
    return int(native) if native.isdecimal() else None


def _contract(lease: Lease | None) -> str | None:
    return lease.instance_id if lease is not None else None


def _ssh_host(lease: Lease | None) -> str | None:
    return (lease.observed.ssh_host or None) if lease is not None else None


def _standby_state(lease: Lease | None) -> str:
    if lease is None:
        return "none"
    return "starting" if lease.state in UNRESOLVED else _STANDBY_WORDS.get(lease.state, "none")


def _contract_ends_at(view: PoolView) -> datetime | None:
    """The first end of the contracts that the pool needs."""
    parts = (view.primary, view.standby, view.volume)
    return min(
        (lease.observed.contract_ends_at for lease in parts if lease and lease.observed.contract_ends_at), default=None
    )


def _retained(lease: Lease) -> pb.RetainedVolume:
    host = lease.offered.host.rpartition("/")[2]
    return pb.RetainedVolume(
        volume_id=lease.marketplace_id,
        provider=lease.provider,
        host_machine_id=int(host) if host.isdecimal() else 0,
        size_gb=round(lease.offered.disk_gb),
        price_per_hour=usd(current_rate(lease)),
        reason=lease.observed.status_message or "the pool no longer uses it, and no volume is ever deleted by itself",
    )


def _transition(each: Transition) -> pb.WarmPoolTransition:
    return pb.WarmPoolTransition(
        at=timestamp(each.at), from_state=each.before, to_state=each.after, event=each.event, reason=each.reason
    )


def _incident(incident: Incident | None, now: datetime) -> pb.WarmPoolIncident | None:
    if incident is None:
        return None
    return pb.WarmPoolIncident(
        kind=incident.kind,
        phase=phase_of(incident),
        seconds=max(0.0, (now - incident.began_at).total_seconds()),
        began_at=timestamp(incident.began_at),
        phases=phases_message(ended_phases(incident)),
    )


def _host(host: PoolHost) -> pb.WarmPoolHost:
    return pb.WarmPoolHost(
        machine_id=host.machine_id,
        total_gpus=host.total_gpus,
        available_gpus=host.available_gpus,
        gpu_name=printed(host.gpu_model),
        avg_price_per_hour=usd(host.average_price),
        reliability=host.reliability_ppm / 1_000_000,
        verified=host.verified,
        geolocation=country_of(host.location),
        can_create_warm_pool=host.fits,
        offers=[_offer(offer, host.machine_id) for offer in host.offers],
    )


def _offer(offer: Offer, machine_id: int) -> pb.WarmPoolHostOffer:
    native = offer.id.rpartition("-")[2]
    return pb.WarmPoolHostOffer(
        offer_id=int(native) if native.isdecimal() else 0,
        machine_id=machine_id,
        gpu_name=printed(offer.gpu_model),
        num_gpus=offer.num_gpus,
        price_per_hour=usd(offer.price(DEFAULT_DISK_GB)),
        reliability=offer.reliability_ppm / 1_000_000,
        verified=offer.verified,
        geolocation=country_of(offer.location),
    )
