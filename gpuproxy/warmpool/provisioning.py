"""Turning a call that provisions or enables a pool into what is stored: spec, plan, and the pool itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime

from gpuproxy.model.errors import FailedPrecondition, Refusal
from gpuproxy.model.gpus import gpu_matches, gpu_name
from gpuproxy.model.lease_facts import NewCeiling
from gpuproxy.model.leases import TERMINAL, Lease, LeaseState, ReservationId
from gpuproxy.model.money import Micro, dollars
from gpuproxy.model.offers import HostKey, Offer, ProviderName
from gpuproxy.model.pool_calls import CALL_NAMES, PoolPlan
from gpuproxy.model.pools import NO_HOST, Degraded, Pool, PoolEvent, PoolId, PoolSpec, PoolState, PoolView
from gpuproxy.model.reasons import Reason
from gpuproxy.model.reservations import Reservation
from gpuproxy.ports import Capabilities, Random, Tx, VolumeOffer
from gpuproxy.store import leases, pools, reservations
from gpuproxy.warmpool.hosts import pool_size
from gpuproxy.warmpool.renting import machine_filter

BUSY = frozenset({PoolState.SEARCHING, PoolState.PROVISIONING, PoolState.ACTIVE, PoolState.FAILOVER})
"""In these states a pool takes no other parameters."""
_PASSING = frozenset({PoolState.SEARCHING, PoolState.FAILOVER})
_OF_PARTS = frozenset({
    "gpu_model", "image", "disk_gb", "volume_gb", "mount_path", "env", "onstart", "ports", "ssh_public_keys",
})  # fmt: skip
"""The fields of a specification that machines and volumes are created with."""
_SECRETS = "secret_env or registry_auth"
LABEL = "warm_pool"
"""The label of a pool's ledger; its value is the machine_id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What a host offers for a pool now."""

    host: HostKey
    offers: tuple[Offer, ...]
    """That pass the spec."""
    rejected: tuple[Offer, ...]
    """That are free but do not pass it."""
    volume: VolumeOffer | None


def check_capabilities(capabilities: Capabilities, provider: str, spec: PoolSpec) -> None:
    """Refuse what the marketplace can't do, before it is asked. Raises NOT_SUPPORTED."""
    needed = ["stop_start", "volumes", *(["hold_gpu"] if spec.hold_gpu else [])]
    if spec.mode == "shared":
        needed.append("volume_sharing")
    for what in needed:
        if (why := capabilities.missing.get(what)) is not None:
            raise FailedPrecondition(
                f"{provider} can't carry this warm pool: {what}: {why}.", reason=Reason.NOT_SUPPORTED
            )


def sized(spec: PoolSpec, ground: Ground) -> PoolSpec:
    """The spec with the size of the machines that the host can give twice. Raises NOT_ENOUGH_GPUS."""
    size = pool_size(ground.offers)
    if size is None:
        raise FailedPrecondition(_too_few(spec, ground), reason=Reason.NOT_ENOUGH_GPUS)
    if ground.volume is None:
        raise FailedPrecondition(
            f"Host {ground.host} has no space for a volume of {spec.volume_gb} GB. Nothing was rented. "
            "`warmpool hosts` lists hosts that can carry a pool.",
            reason=Reason.NOT_ENOUGH_GPUS,
        )
    return replace(spec, num_gpus=size)


def _too_few(spec: PoolSpec, ground: Ground) -> str:
    other = sorted({each.gpu_model for each in ground.rejected if not gpu_matches(spec.gpu_model, each.gpu_model)})
    if spec.gpu_model and other and not ground.offers:
        return f"Host {ground.host} has {', '.join(other)}, not {spec.gpu_model}. Nothing was rented."
    dear = sum(1 for each in ground.rejected)
    limit = f" at most ${spec.max_price:g} per GPU-hour ({spec.price_from or 'max_price'})"
    left_out = f" {dear} free offers do not fit the request." if dear else ""
    return (
        f"Host {ground.host} does not have two chunks of GPUs that can be rented at once for{limit}.{left_out} "
        "Nothing was rented. `warmpool hosts` lists hosts that can carry a pool."
    )


def planned(spec: PoolSpec, mode: str, ground: Ground | None, host: HostKey) -> PoolPlan:
    """What a pool is made of. Without `ground` no price is known."""
    chosen = spec.mode or ("recreate" if mode == "recreate" else "shared")
    if ground is None or not ground.offers:
        return PoolPlan(spec=spec, mode=chosen, host=host, gpu_model=spec.gpu_model)
    usable = [each for each in ground.offers if each.num_gpus == spec.num_gpus] or list(ground.offers)
    first = min(usable, key=lambda each: each.price(spec.disk_gb))
    disk = Micro(first.price(spec.disk_gb) - first.gpu_price)
    return PoolPlan(
        spec=spec,
        mode=chosen,
        host=host,
        gpu_model=first.gpu_model,
        primary_price=first.price(spec.disk_gb),
        standby_price=Micro(0) if chosen == "recreate" else disk,
        volume_price=None if ground.volume is None else ground.volume.price(spec.volume_gb),
    )


def kept_plan(plan: PoolPlan, before: PoolView, spec: PoolSpec, *, same_secrets: bool) -> PoolPlan:
    """The plan of a pool whose primary and volume stay: what they are and cost. `spec` is what was asked for."""
    names = [name for name in differing(before.pool, spec) if name in _OF_PARTS]
    later = [CALL_NAMES.get(name, name) for name in names] + ([] if same_secrets else [_SECRETS])
    plan = replace(plan, later=tuple(later))
    primary, volume = before.primary, before.volume
    if primary is not None and primary.state not in TERMINAL and plan.primary_price is not None:
        plan = replace(plan, primary_price=primary.observed.price)
    if volume is not None and volume.state not in TERMINAL:
        volume_gb = round(volume.offered.disk_gb)
        plan = replace(plan, spec=replace(plan.spec, volume_gb=volume_gb), volume_price=volume.observed.price)
    return plan


def merged(spec: PoolSpec, given: Sequence[tuple[str, object]]) -> PoolSpec:
    """The spec with the fields that a call has set."""
    known = {each.name for each in fields(PoolSpec)}
    changes: Mapping[str, object] = {name: value for name, value in given if name in known}
    return replace(spec, **changes)  # type: ignore[arg-type]


def require_same(pool: Pool, spec: PoolSpec, host: HostKey, *, same_secrets: bool) -> None:
    """Refuse other parameters while the pool is busy. Raises POOL_EXISTS, or POOL_STATE in a search or a failover."""
    different = [CALL_NAMES.get(name, name) for name in differing(pool, spec)]
    different += ["host_machine_id"] if host != pool.host else []
    different += [] if same_secrets else [_SECRETS]
    if not different:
        return
    others = f"with other parameters: {', '.join(different)}"
    if pool.state in _PASSING:
        raise FailedPrecondition(
            f"Warm pool {pool.machine_id} is {pool.state}, {others}. Wait until that ends, or clean it up.",
            reason=Reason.POOL_STATE,
            metadata={"state": pool.state.value},
        )
    raise Refusal(
        f"Machine {pool.machine_id} has a warm pool in the state {pool.state} {others}. Disable it first, or repeat "
        "the call with the same parameters.",
        reason=Reason.POOL_EXISTS,
        metadata={"state": pool.state.value},
    )


def differing(pool: Pool, spec: PoolSpec) -> list[str]:
    """The fields in which a specification that was asked for differs from the pool's. Spellings of a GPU do not."""
    asked = replace(spec, num_gpus=pool.spec.num_gpus, price_from=pool.spec.price_from)
    if gpu_name(asked.gpu_model) == gpu_name(pool.spec.gpu_model):
        asked = replace(asked, gpu_model=pool.spec.gpu_model)
    return [each.name for each in fields(PoolSpec) if getattr(asked, each.name) != getattr(pool.spec, each.name)]


@dataclass(frozen=True, slots=True)
class Drawn:
    """The random parts of a new pool. They are drawn before the unit of work, which may run several times."""

    pool: str
    ledger: str
    nonce: str

    @classmethod
    def by(cls, random: Random) -> "Drawn":
        """New ones."""
        return cls(pool=random.token(8), ledger=random.token(8), nonce=random.token(16))


def found_or_made(
    tx: Tx, project: str, machine_id: int, *, provider: ProviderName, spec: PoolSpec, drawn: Drawn
) -> tuple[Pool, bool]:
    """The project's pool for a machine_id, and whether it was made now. Raises POOL_STATE while it is cleaned up."""
    pool = pools.of_machine(tx, project, machine_id)
    if pool is None:
        pool_id = PoolId(f"pool-{drawn.pool}")
        return pools.insert(
            tx, draft(pool_id, project, machine_id, provider, spec, nonce=drawn.nonce, at=tx.now())
        ), True
    if pool.wanted == "gone":
        raise wrong_state(pool, "is being cleaned up")
    return pool, False


def taken_up(
    tx: Tx, pool: Pool, event: PoolEvent, *, spec: PoolSpec, host: HostKey, account: str, drawn: Drawn
) -> Pool:
    """Begin to provision a pool on a host, or on one that is searched (""). A lost volume takes all else with it."""
    if pool.volume is not None and ((volume := leases.find(tx, pool.volume)) is None or volume.state in TERMINAL):
        pool = replace(pool, host=NO_HOST)
    facts = replace(begun(tx.now(), pool, spec, host, account), seeks=not host)
    for lease, fact in new_ceilings(tx, facts):
        leases.note(tx, lease, fact)
    return pools.advance(tx, pool, event, "it was asked for", _with_ledger(tx, facts, drawn.ledger))


def new_ceilings(tx: Tx, pool: Pool) -> list[tuple[Lease, NewCeiling]]:
    """The highest prices of the machines that stay, by the pool's new limit. Raises if one costs more than a lower one.

    A price that has risen above a limit that was not lowered is no reason to refuse the call.
    """
    spec, found = pool.spec, list[tuple[Lease, NewCeiling]]()
    for role, lease_id in (("primary", pool.primary), ("standby", pool.standby)):
        lease = None if lease_id is None else leases.find(tx, lease_id)
        if lease is None or lease.state in TERMINAL or lease.state is LeaseState.RELEASING:
            continue
        ceiling = machine_filter(pool).ceiling(lease.offered.num_gpus)
        if lease.observed.price > ceiling and ceiling < lease.creation.ceiling:
            price = f"{dollars(lease.observed.price)} per hour ({lease.offered.num_gpus} x GPU)"
            raise FailedPrecondition(
                f"The {role} of warm pool {pool.machine_id} stays on its host and costs {price}, more than the limit "
                f"of ${spec.max_price:g} per GPU-hour ({spec.price_from or 'max_price'}) allows. Nothing was changed. "
                "Set a higher max_price, or provision the pool on another host."
            )
        found.append((lease, NewCeiling(ceiling)))
    return found


def wrong_state(pool: Pool, what: str) -> FailedPrecondition:
    """The refusal of a call that the pool's state does not allow. `what` follows the pool's name."""
    return FailedPrecondition(
        f"Warm pool {pool.machine_id} {what}.", reason=Reason.POOL_STATE, metadata={"state": pool.state.value}
    )


def no_spec(machine_id: int) -> FailedPrecondition:
    """The refusal of an enable that does not know what to provision."""
    return FailedPrecondition(
        f"Nothing is stored for machine {machine_id}, and this server has no default pool. Provision one: "
        "POST /api/v1/warmpool/provision with machine_id and host_machine_id (`gpuproxy warmpool provision`). "
        "Hosts are listed by GET /api/v1/warmpool/hosts.",
        reason=Reason.NO_SPEC,
    )


def _with_ledger(tx: Tx, pool: Pool, token: str) -> Pool:
    """The pool with a reservation that has its leases."""
    if pool.ledger and reservations.find(tx, pool.ledger) is not None:
        return pool
    ledger = ReservationId(f"pool-{token}")
    reservations.insert(
        tx,
        Reservation(
            id=ledger, project=pool.project, request_id="", fingerprint="", count=2 * pool.spec.num_gpus, least=0,
            keep=True, strategy="", labels=((LABEL, str(pool.machine_id)),), created_at=tx.now(), expires_at=None,
            version=1, replace_unready=False, ready_timeout_s=0.0, settled_at=tx.now(), answered_at=tx.now(),
            key_id=pool.key_id, message=f"The machines and volumes of warm pool {pool.machine_id}.", kind="pool",
        ),
    )  # fmt: skip
    return replace(pool, ledger=ledger)


def begun(now: datetime, pool: Pool, spec: PoolSpec, host: HostKey, account: str) -> Pool:
    """The facts of a pool that is provisioned on a host. The supervisor gives back what stands on another one."""
    mode = (spec.mode if pool.mode != "recreate" or spec.mode else pool.mode) or "shared"
    new = replace(
        pool, spec=spec, wanted="supervised", mode=mode, mode_why=pool.mode_why if mode == pool.mode else "",
        tries=0, next_try_at=None, degraded=Degraded.NONE, error="", progress="beginning", step_began_at=now, asked="",
        unfenced=False, misses=0, looked_at=None, checked_at=None, keep_volume=False,
    )  # fmt: skip
    if host and pool.host == host and pool.account == account:
        return new
    return replace(
        new, host=host, account=account, primary=None, standby=None, volume=None, failed=None, failed_until=None,
        data_state="empty" if pool.founded else new.data_state, founded=False,
    )  # fmt: skip


def end_incident(tx: Tx, pool: Pool, why: str) -> None:
    """End the pool's open incident, because somebody decided what becomes of the pool. Without one, do nothing."""
    incident = pools.open_incident(tx, pool.id)
    if incident is not None:
        pools.save_incident(tx, replace(incident, ended_at=tx.now(), outcome="failed", reason=why))


def draft(
    pool_id: PoolId, project: str, machine_id: int, provider: ProviderName, spec: PoolSpec, *, nonce: str, at: datetime
) -> Pool:
    """A pool that has nothing yet."""
    return Pool(
        id=pool_id, project=project, machine_id=machine_id, ledger=ReservationId(""), created_at=at, spec=spec,
        nonce=nonce, provider=provider,
    )  # fmt: skip


def machines_stay(view: PoolView) -> bool:
    """Whether a pool that is provisioned on its host keeps its primary: not after the loss of the volume."""
    primary, volume = view.primary, view.volume
    if view.pool.volume is not None and (volume is None or volume.state in TERMINAL):
        return False
    return primary is not None and primary.state not in TERMINAL and primary.state is not LeaseState.RELEASING


def stands(tx: Tx, pool: Pool) -> bool:
    """Whether the pool has a primary that is not gone."""
    primary = None if pool.primary is None else leases.find(tx, pool.primary)
    return primary is not None and primary.state not in TERMINAL and primary.state is not LeaseState.RELEASING
