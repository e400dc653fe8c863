"""Events that are posted to webhooks: their names, the facts that they tell, the bodies, and the signature. Pure.

A receiver gets an event at least once, and drops repeats by the event's `id`. The signature is made as Stripe makes it:
HMAC with SHA-256 over the time, a full stop and the body.
"""

import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Literal

from gpuproxy.model.lease_ends import verb
from gpuproxy.model.leases import Lease, LeaseEvent, LeaseState
from gpuproxy.model.limits import Usage
from gpuproxy.model.money import usd
from gpuproxy.model.pools import Degraded, Incident, Pool, PoolEvent, PoolState
from gpuproxy.model.reasons import Reason
from gpuproxy.model.reservations import Reservation

Data = dict[str, str | int | float]
"""The fields of an event. An empty one is left out."""
Form = Literal["json", "slack"]
DeliveryState = Literal["pending", "delivered", "gave_up"]
SIGNATURE_HEADER = "GPUProxy-Signature"
EVENT_HEADER = "GPUProxy-Event-Id"
GIVEN_UP_AFTER = timedelta(days=1)
"""An event that is older than this is no longer sent."""
_MOST_TEXT = 300
"""Characters of a text that may come from a marketplace."""


class EventType(StrEnum):
    """What is told. The database stores the values, and receivers read them."""

    PRIMARY_LOST = "pool.primary_lost"
    FAILOVER_STARTED = "pool.failover_started"
    RECOVERED = "pool.recovered"
    DEGRADED = "pool.degraded"
    STANDBY_LOST = "pool.standby_lost"
    EXPIRING = "pool.expiring"
    DRILL_FAILED = "pool.drill_failed"
    UNKNOWN = "reservation.unknown"
    LOST = "reservation.lost"
    DIED = "reservation.died"
    NOT_READY = "reservation.not_ready"
    ENDING_SOON = "reservation.ending_soon"
    ENDED = "reservation.ended"
    LIMIT_NEAR = "money.limit_near"
    LIMIT_REACHED = "money.limit_reached"
    ACCOUNT_PAUSED = "account.paused"
    ACCOUNT_SILENT = "account.silent"
    TEST = "webhook.test"

    @property
    def sentence(self) -> str:
        """What has happened, for people."""
        return SENTENCES[self]


SENTENCES: Mapping[EventType, str] = {
    EventType.PRIMARY_LOST: "The primary of a warm pool is lost.",
    EventType.FAILOVER_STARTED: "A failover of a warm pool has begun: `kind` is failure, manual, test or drill.",
    EventType.RECOVERED: "A failover has ended and a primary runs, or the pool is active again: see `outcome`.",
    EventType.DEGRADED: "A warm pool could not fail over now. Sent again when the reason changes.",
    EventType.STANDBY_LOST: "A warm pool has lost its standby, or the standby's GPUs are rented to somebody else.",
    EventType.EXPIRING: "The marketplace's contract of a warm pool ends within 72 hours.",
    EventType.DRILL_FAILED: "A drill has failed: the standby did not take over.",
    EventType.UNKNOWN: "Nobody knows whether a create was executed. The server finds out.",
    EventType.LOST: "The marketplace has taken a machine away.",
    EventType.DIED: "A machine that was ready no longer runs.",
    EventType.NOT_READY: "A machine was not ready in time, and is released.",
    EventType.ENDING_SOON: "A machine ends soon: see `expires_at` and `then`.",
    EventType.ENDED: "No machine of a reservation is left, and nothing is paid for it any more.",
    EventType.LIMIT_NEAR: "80 % of a spending limit is spent or held.",
    EventType.LIMIT_REACHED: "All of a spending limit is spent or held, or its policy ends a machine: see `then`.",
    EventType.ACCOUNT_PAUSED: "A marketplace account is paused: it lacks credit, or its key is refused.",
    EventType.ACCOUNT_SILENT: "All listings of a marketplace account have failed for a minute.",
    EventType.TEST: "`gpuproxy webhooks test` was called.",
}
TOLD = frozenset(EventType) - {EventType.TEST}
"""The events that a target may choose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where events are posted. An operator sets it; no request does."""

    name: str
    """Unique. It is shown; `url` and `secrets` are not."""
    url: str = field(repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """Each of them signs. A new one is added before the old one is removed, so that the receiver can be changed."""
    events: frozenset[EventType] = TOLD
    project: str = ""
    """Only events of this project; "": all, also those of no project."""
    form: Form = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One event for one target, as it is stored. `seq` grows with the commits."""

    target: str
    seq: int
    event_id: str
    type: EventType
    project: str
    at: datetime
    data: Data
    state: DeliveryState = "pending"
    tries: int = 0
    next_at: datetime | None = None
    """When it is tried next; None: at once, after those before it."""
    tried_at: datetime | None = None
    status: int = 0
    """The HTTP status of the last try; 0: there was no answer."""
    error: str = ""
    """Why the last try failed. It has no URL and no secret."""

    @property
    def about(self) -> str:
        """What the event is about, in words: a machine, a reservation, a pool, a limit or an account."""
        told = self.data
        for name, words in _ABOUT:
            if told.get(name):
                return f"{words}{told[name]}"
        return ""


_ABOUT = (
    ("contract_id", "machine "),
    ("reservation_id", ""),
    ("machine_id", "warm pool "),
    ("window", "limit per "),
    ("account", "account "),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How the deliveries to one target go."""

    target: str
    waiting: int = 0
    """Events that are not delivered yet."""
    oldest_at: datetime | None = None
    """When the oldest of them was written; None: none waits."""
    tries: int = 0
    """How often the oldest one was tried."""
    error: str = ""
    """Why its last try failed; "" if it was not tried or waits for its answer."""

    def failing_for(self, now: datetime) -> timedelta:
        """How long the oldest event has waited, if a try has failed; 0 otherwise."""
        return now - self.oldest_at if self.oldest_at is not None and self.error else timedelta(0)


# -- which facts are told


def of_lease(old: Lease, new: Lease, event: LeaseEvent | None) -> EventType | None:
    """What a change of a lease tells. None: nothing. The machines of warm pools are told of by their pools."""
    if new.kind != "machine":
        return None
    if event is LeaseEvent.REPLY_LOST and new.state is LeaseState.UNKNOWN:
        return EventType.UNKNOWN
    if event is LeaseEvent.RELEASE and new.reason is Reason.NOT_READY:
        return EventType.NOT_READY
    if event is None and old.observed.ending_soon_at is None and new.observed.ending_soon_at is not None:
        return EventType.ENDING_SOON
    return {LeaseEvent.VANISHED: EventType.LOST, LeaseEvent.FALTERED: EventType.DIED}.get(event) if event else None


def had_machine(leases: Sequence[Lease]) -> bool:
    """True if a machine existed, or a create was doubtful until it was proven absent."""
    return any(lease.instance_id is not None or lease.pending.absent_checks > 0 for lease in leases)


def of_pool(old: Pool, new: Pool, event: PoolEvent | None) -> tuple[EventType, ...]:
    """What a change of a pool tells; its incidents tell of failovers."""
    if event is PoolEvent.STANDBY_READY:
        return (EventType.RECOVERED,)
    was, why = old.degraded if old.state is PoolState.DEGRADED else Degraded.NONE, new.degraded
    if new.state is not PoolState.DEGRADED or (old.state is PoolState.DEGRADED and why in (was, *_NO_NEWS)):
        return ()
    told = [EventType.DEGRADED]
    if why is Degraded.CONTRACT_ENDS:
        told.insert(0, EventType.EXPIRING)
    elif why in _NO_STANDBY and was not in _NO_STANDBY and event in (PoolEvent.STANDBY_LOST, None):
        told.insert(0, EventType.STANDBY_LOST)
    return tuple(told)


_NO_NEWS = (Degraded.NONE, Degraded.UNCHECKED)
"""What a degraded pool becomes on its way back to active."""
_NO_STANDBY = (Degraded.NO_STANDBY, Degraded.NO_FREE_GPU)


def of_new_incident(incident: Incident) -> tuple[EventType, ...]:
    """What the beginning of a failover tells."""
    lost = (EventType.PRIMARY_LOST,) if incident.kind == "failure" else ()
    return (*lost, EventType.FAILOVER_STARTED)


def of_incident(old: Incident, new: Incident, *, wanted: bool) -> EventType | None:
    """What a change of a failover tells. `wanted`: the pool is to go on; a drill that its owner ends has not failed."""
    ends = old.ended_at is None and new.ended_at is not None
    if old.kind == "drill" and wanted and ((ends and new.outcome != "promoted") or new.kind != "drill"):
        return EventType.DRILL_FAILED
    return EventType.RECOVERED if ends and new.outcome in ("promoted", "recovered") else None


# -- what is said of them


def _machine_data(lease: Lease) -> Data:
    """Which machine it is."""
    return {
        "reservation_id": lease.reservation_id,
        "lease_id": lease.id,
        "contract_id": lease.instance_id or "",
        "provider": lease.provider,
        "account": lease.account,
    }


def lease_data(lease: Lease) -> Data:
    """The fields of events about one machine."""
    ends = lease.expires_at
    return {
        **_machine_data(lease),
        "gpu_model": lease.offered.gpu_model,
        "num_gpus": lease.offered.num_gpus,
        "state": lease.state.value,
        "reason": lease.reason.value,
        "price_per_hour_usd": usd(lease.observed.price),
        "expires_at": "" if ends is None else ends.isoformat(),
        "then": "" if ends is None else {"s": "stopped", "d": "destroyed"}[verb(lease)],
    }


def reservation_data(reservation: Reservation, leases: Sequence[Lease]) -> Data:
    """The fields of events about a reservation. The reason is its own, or that of its last machine."""
    last = next((lease.reason for lease in reversed(leases) if lease.reason), Reason.NONE)
    return {
        "reservation_id": reservation.id,
        "request_id": reservation.request_id,
        "state": reservation.state.value,
        "reason": (reservation.closing or last).value,
    }


def pool_data(pool: Pool, why: str) -> Data:
    """The fields of events about a pool."""
    return {
        "machine_id": pool.machine_id,
        "pool_id": pool.id,
        "provider": pool.provider,
        "account": pool.account,
        "state": pool.state.value,
        "degraded_reason": pool.degraded.value if pool.state is PoolState.DEGRADED else "",
        "outcome": "active" if pool.state is PoolState.ACTIVE else "",
        "why": why[:_MOST_TEXT],
    }


def incident_data(pool: Pool, incident: Incident) -> Data:
    """The fields of events about a failover."""
    return {
        "machine_id": pool.machine_id,
        "pool_id": pool.id,
        "provider": pool.provider,
        "account": pool.account,
        "incident": incident.number,
        "kind": incident.kind,
        "outcome": incident.outcome,
        "began_at": incident.began_at.isoformat(),
        "ended_at": "" if incident.ended_at is None else incident.ended_at.isoformat(),
        "why": incident.reason[:_MOST_TEXT],
    }


def limit_data(usage: Usage) -> Data:
    """The fields of events about a spending limit."""
    limit = usage.limit
    return {
        "window": limit.window.name,
        "scope": limit.scope,
        "subject": limit.subject,
        "policy": limit.policy,
        "limit_usd": usd(limit.amount),
        "spent_usd": usd(usage.spent),
        "held_usd": usd(usage.held),
    }


def ended_by_limit_data(usage: Usage, lease: Lease, *, stops: bool) -> Data:
    """The fields of the event that the policy of a limit ends a machine."""
    return {
        **limit_data(usage),
        **_machine_data(lease),
        "then": "stopped" if stops else "released",
    }


# -- what is sent


def event_id(seq: int, at: datetime, kind: EventType, project: str, data: Data) -> str:
    """The id of an event: the same for every try and target. A restored backup does not use one again for another."""
    text = json.dumps([seq, at.isoformat(), kind.value, project, data])
    return f"evt_{sha256(text.encode()).hexdigest()[:32]}"


def body(event: Delivery, form: Form) -> bytes:
    """What is posted. Every try has the same body."""
    if form == "slack":
        return json.dumps({"text": _slack(event)}).encode()
    known = {
        "id": event.event_id,
        "type": event.type.value,
        "created_at": event.at.isoformat(),
        "project": event.project,
        "text": event.type.sentence,
        "data": event.data,
    }
    return json.dumps(known).encode()


def signature(secrets: Sequence[str], at: datetime, posted: bytes) -> str:
    """The value of the signature's header: `t=` the Unix time, and one `v1=` for each secret."""
    moment = str(int(at.timestamp()))
    signed = f"{moment}.".encode() + posted
    macs = (hmac.new(secret.encode(), signed, sha256).hexdigest() for secret in secrets)
    return ",".join([f"t={moment}", *(f"v1={mac}" for mac in macs)])


def _slack(event: Delivery) -> str:
    """Text in Slack's markup. A text of a marketplace can be no link and mention nobody."""
    head = f"*{event.type.value}*" + (f" in project {_plain(event.project)}" if event.project else "")
    fields = (f"{name}: {_plain(str(value))}" for name, value in event.data.items())
    return "\n".join([f"{head}: {event.type.sentence}", " · ".join(fields)]).strip()


def _plain(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", " ")
