"""Warm pools as text for the terminal. Nothing here calls a server or prints."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from gpuproxy.cli import tables
from gpuproxy.cli.wording import in_commands
from gpuproxy.model.pools import PHASES
from gpuproxy.v1 import gpuproxy_pb2 as pb

_FENCES = {
    "api_only": "by the marketplace only (the log did not confirm the lock)",
    "api_and_lock": "by the marketplace, and the lock is confirmed",
}
_DATA = {"same_volume": "the same volume", "restored": "restored", "empty": "empty: nothing was copied"}
_RECENT = 5


def pool_table(pools: Sequence[pb.WarmPoolStatus], now: datetime) -> str:
    """A table with one row for each pool."""
    headers = ("MACHINE", "STATE", "WHY", "MODE", "HOST", "PRIMARY", "STANDBY", "CHECKED", "FAILOVERS", "$/H")
    rows = [
        (
            str(pool.machine_id),
            pool.state,
            pool.degraded_reason,
            pool.mode,
            str(pool.host_machine_id or ""),
            pool.primary_contract_id,
            f"{pool.standby_contract_id} {pool.standby_state}".strip() if pool.standby_state != "none" else "",
            tables.age(pool.standby_checked_at, now),
            str(pool.failover_count),
            tables.price(pool.price_per_hour),
        )
        for pool in pools
    ]
    return tables.table(headers, rows)


def exists(pool: pb.WarmPoolStatus) -> bool:
    """False for the answer about a machine_id without a pool, which is `disabled` and has nothing else."""
    return pool.state != "disabled" or bool(pool.max_price_source or pool.transitions)


def describe(pool: pb.WarmPoolStatus, now: datetime) -> str:
    """A pool in full: its state and why, its parts, its failovers, what it costs, and what happens next."""
    why = f" ({pool.degraded_reason})" if pool.degraded_reason else ""
    facts = {
        "error": in_commands(pool.error_message),
        "doing": pool.progress,
        "incident": _incident(pool),
        "next": in_commands(pool.next_action),
        "mode": _mode(pool),
        "host": f"{pool.provider}/{pool.host_machine_id}" if pool.host_machine_id else "",
        "primary": _primary(pool, now),
        "standby": _standby(pool, now),
        "data": _DATA.get(pool.data_state, pool.data_state) if pool.primary_contract_id else "",
        "fence": _FENCES.get(pool.fence, pool.fence),
        "contract": f"ends at {ends}" if (ends := tables.moment(pool.contract_ends_at)) else "",
        "failovers": _failovers(pool, now),
        "last drill": _last(pool, ("drill", "test"), now),
        "next drill": tables.moment(pool.next_drill_at),
        "limit": f"{tables.price(pool.max_price_per_hour)} per GPU-hour ({pool.max_price_source})"
        if pool.max_price_source
        else "",
    }
    lines = [f"machine {pool.machine_id} {pool.state}{why}"]
    lines += [f"{name:<10} {text}" for name, text in facts.items() if text]
    lines += [f"{'hint':<10} {in_commands(text)}" for text in pool.troubleshooting]
    for part in (cost_lines(pool), retained_lines(pool), history_lines(pool)):
        if part:
            lines += ["", *part]
    return "\n".join(lines)


def cost_lines(pool: pb.WarmPoolStatus) -> list[str]:
    """What each part costs, and their sum; empty if there is no part."""
    if not pool.costs:
        return []
    rows = [
        (
            cost.part,
            cost.contract_id,
            cost.state,
            tables.price(cost.price_per_hour),
            tables.amount(cost.price_per_month),
        )
        for cost in pool.costs
    ]
    total = sum(cost.price_per_hour for cost in pool.costs)
    table = tables.table(("PART", "ID", "STATE", "$/H", "$/MONTH (30 D)"), rows)
    return [*table.splitlines(), tables.costs(total)]


def retained_lines(pool: pb.WarmPoolStatus) -> list[str]:
    """Volumes that remain, and how to delete them."""
    return [
        f"volume {each.volume_id} of {each.size_gb} GB remains on host {each.host_machine_id} at "
        f"{tables.price(each.price_per_hour)}/h. To delete it: "
        f"gpuproxy warmpool delete-volume {pool.machine_id} {each.volume_id}"
        for each in pool.retained_volumes
    ]


def history_lines(pool: pb.WarmPoolStatus) -> list[str]:
    """The latest changes of its state, oldest first."""
    return [transition_line(each) for each in pool.transitions[-_RECENT:]]


def transition_line(each: pb.WarmPoolTransition) -> str:
    """`2026-06-12 12:00:00Z active -> failover (primary_lost): the primary is gone`."""
    reason = f": {each.reason}" if each.reason else ""
    return f"{tables.moment(each.at)} {each.from_state} -> {each.to_state} ({each.event}){reason}"


def host_table(hosts: Sequence[pb.WarmPoolHost]) -> str:
    """A table with one row for each host."""
    headers = ("HOST", "POOL", "MODEL", "GPUS", "FREE", "$/GPU-H", "RELIABILITY", "VERIFIED", "PLACE")
    rows = [
        (
            str(host.machine_id),
            "yes" if host.can_create_warm_pool else "no",
            host.gpu_name,
            str(host.total_gpus),
            str(host.available_gpus),
            tables.limit(host.avg_price_per_hour),
            f"{host.reliability:.1%}",
            "yes" if host.verified else "no",
            host.geolocation,
        )
        for host in hosts
    ]
    return tables.table(headers, rows)


def phases_text(phases: pb.WarmPoolPhases) -> str:
    """`detect 6.0 s, fence 10.5 s`, of the phases that have ended."""
    return ", ".join(f"{name} {getattr(phases, name):.1f} s" for name in PHASES if phases.HasField(name))


class Steps:
    """What is new in each status of a watch, line by line."""

    def __init__(self) -> None:
        self._before: pb.WarmPoolStatus | None = None
        self._shown: set[str] = set()
        """The phases of the open incident that were printed."""

    def lines(self, pool: pb.WarmPoolStatus) -> Iterator[str]:
        """The lines for this status; the first status is summarised in one line."""
        before = self._before
        if before is None:
            why = f" ({pool.degraded_reason})" if pool.degraded_reason else ""
            yield f"machine {pool.machine_id} is {pool.state}{why}"
        else:
            yield from self._changes(before, pool)
        yield from self._incident_lines(pool)
        self._before = pool

    def _changes(self, before: pb.WarmPoolStatus, pool: pb.WarmPoolStatus) -> Iterator[str]:
        known = {each.SerializeToString(deterministic=True) for each in before.transitions}
        for each in pool.transitions:
            if each.SerializeToString(deterministic=True) not in known:
                yield transition_line(each)
        if len(pool.failovers) != len(before.failovers) or (
            pool.failovers and before.failovers and pool.failovers[-1] != before.failovers[-1]
        ):
            ended = pool.failovers[-1]
            phases = phases_text(ended.phases)
            yield f"{ended.kind} ended after {ended.seconds:.1f} s{f': {phases}' if phases else ''}"
        if pool.degraded_reason != before.degraded_reason and pool.degraded_reason:
            text = f": {pool.error_message}" if pool.error_message else ""
            yield f"degraded, {pool.degraded_reason}{text}"
        if pool.progress and pool.progress != before.progress:
            yield f"  {pool.progress}"

    def _incident_lines(self, pool: pb.WarmPoolStatus) -> Iterator[str]:
        if not pool.HasField("incident"):
            self._shown.clear()
            return
        for name in PHASES:
            if pool.incident.phases.HasField(name) and name not in self._shown:
                self._shown.add(name)
                yield f"  {name:<10} {getattr(pool.incident.phases, name):>6.1f} s"
        doing = f"{pool.incident.phase} ..."
        if doing not in self._shown:
            self._shown.add(doing)
            yield f"  {doing:<10} {pool.incident.seconds:>6.1f} s since it began"


def _incident(pool: pb.WarmPoolStatus) -> str:
    if not pool.HasField("incident"):
        return ""
    ended = phases_text(pool.incident.phases)
    return f"{pool.incident.kind}, at {pool.incident.phase} for {pool.incident.seconds:.0f} s{ended and f' ({ended})'}"


def _mode(pool: pb.WarmPoolStatus) -> str:
    return f"{pool.mode}{f': {pool.mode_reason}' if pool.mode_reason else ''}" if pool.mode else ""


def _primary(pool: pb.WarmPoolStatus, now: datetime) -> str:
    if not pool.primary_contract_id:
        return ""
    checked = tables.age(pool.last_health_check, now)
    at = f", {pool.primary_ssh_host}:{pool.primary_ssh_port}" if pool.primary_ssh_host else ""
    return f"{pool.primary_contract_id}{at}{f', checked {checked} ago' if checked else ''}"


def _standby(pool: pb.WarmPoolStatus, now: datetime) -> str:
    checked = tables.age(pool.standby_checked_at, now)
    seen = f"GPUs seen free {checked} ago" if checked else ""
    if pool.standby_state in ("", "none"):
        return f"none; {seen}" if seen and pool.state != "disabled" else ""
    return f"{pool.standby_contract_id} {pool.standby_state}{f', {seen}' if seen else ''}".strip()


def _failovers(pool: pb.WarmPoolStatus, now: datetime) -> str:
    if not pool.failover_count:
        return ""
    ago = tables.age(pool.last_failover_at, now)
    text = f"{pool.failover_count}{f', the last {ago} ago' if ago else ''}"
    if pool.HasField("outage_seconds"):
        text += f", outage {pool.outage_seconds:.1f} s"
    if pool.HasField("failover_p50_seconds"):
        text += f" · p50 {pool.failover_p50_seconds:.1f} s, p95 {pool.failover_p95_seconds:.1f} s"
    return text


def _last(pool: pb.WarmPoolStatus, kinds: Sequence[str], now: datetime) -> str:
    found = [each for each in pool.failovers if each.kind in kinds]
    if not found:
        return ""
    last = found[-1]
    phases = phases_text(last.phases)
    ago = tables.span((now - last.at.ToDatetime(UTC)).total_seconds())
    return f"{ago} ago: {last.seconds:.1f} s{f' ({phases})' if phases else ''}"
