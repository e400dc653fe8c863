"""One machine under the eyes of the reconcile plan: rows of listings in, steps out, nothing else involved."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from gpuproxy.model.lease_events import Release
from gpuproxy.model.leases import InstanceId, Lease, LeaseEvent, LeaseId, LeaseState, ReservationId
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import HostKey, OfferId, ProviderName
from gpuproxy.model.reservations import Reservation
from gpuproxy.ports import Capabilities, InstanceStatus, ListedInstance
from gpuproxy.reconcile.doubts import Doubt, Unanswered, after_listing
from gpuproxy.reconcile.listings import Listing
from gpuproxy.reconcile.plan import plan, ready_is_overdue
from gpuproxy.reconcile.steps import Advance, Note, Scene, Step
from gpuproxy.reconcile.ways_in import can_be_probed
from gpuproxy.runtime.limits import Limits
from tests.flat_leases import flat_lease

NOON = datetime(2026, 6, 12, 12, 0, tzinfo=UTC)
VAST = ProviderName("vast.ai")
CAPABILITIES = Capabilities(listing_lag_seconds=60.0, late_seconds=300.0, verdict_seconds=120.0)


def lease_of(number: int = 1, **facts: Any) -> Lease:
    """A machine that was created at noon and has not been ready."""
    values: dict[str, Any] = {
        "id": LeaseId(f"lease-aaaaaaaa-{number:02d}"), "reservation_id": ReservationId("res-aaaaaaaa"),
        "project": "p1", "attempt": number, "provider": VAST, "account": "vast-1", "label": f"label-{number}",
        "offer_id": OfferId(f"vast-{number}"), "host": HostKey(f"vast.ai/{number}"), "conflict_keys": (f"g{number}",),
        "gpu_model": "RTX 4090", "num_gpus": 1, "vram_gb": 24, "location": "", "price": Micro(300_000),
        "disk_price": Micro(10_000), "ceiling": Micro(500_000), "state": LeaseState.STARTING, "version": 1,
        "created_at": NOON, "call_started_at": NOON, "call_deadline": NOON, "instance_id": InstanceId(str(number)),
        "started_at": NOON,
    }  # fmt: skip
    return flat_lease(**(values | facts))


def reservation_of(**facts: Any) -> Reservation:
    """An answered reservation whose machines have fifteen minutes to get ready."""
    values: dict[str, Any] = {
        "id": ReservationId("res-aaaaaaaa"), "project": "p1", "request_id": "a", "fingerprint": "f", "count": 1,
        "least": 0, "keep": True, "strategy": "lowest_price", "labels": (), "created_at": NOON, "expires_at": None,
        "version": 1, "replace_unready": True, "ready_timeout_s": 900.0,
    }  # fmt: skip
    return Reservation(**(values | facts))


def row(status: InstanceStatus = InstanceStatus.PENDING, **facts: Any) -> ListedInstance:
    """What a listing shows of the first machine."""
    values: dict[str, Any] = {
        "id": InstanceId("1"), "label": "label-1", "status": status, "raw_status": status.value,
        "price": Micro(300_000), "gpu_model": "RTX 4090", "num_gpus": 1, "machine_id": "1",
    }  # fmt: skip
    return ListedInstance(**(values | facts))


class Account:
    """Listing after listing of one account, in which nothing is written down but what listings were said."""

    def __init__(self, lease: Lease, reservation: Reservation | None = None) -> None:
        self.lease = lease
        self.owner = (reservation or reservation_of()).as_owner
        self.doubts: Mapping[LeaseId, Doubt] = {}
        self.unanswered: Mapping[LeaseId, Unanswered] = {}

    def sees(self, seconds: float, *rows: ListedInstance, unreadable: Sequence[str] = (), **facts: Any) -> list[Step]:
        """The steps after a listing of these rows, so many seconds after noon; `facts` of the scene."""
        at = NOON + timedelta(seconds=seconds)
        listing = Listing(at, rows, tuple(unreadable))
        late = ready_is_overdue(self.lease, self.owner, listing)
        self.doubts = after_listing(
            self.doubts,
            [self.lease],
            listing,
            lambda lease, instance: late and not can_be_probed(lease, instance, CAPABILITIES),
        )
        return plan(self._scene(at, listing, facts))

    def hears_nothing(self, seconds: float) -> list[Step]:
        """The steps when the provider does not answer."""
        return plan(self._scene(NOON + timedelta(seconds=seconds), None, {}))

    def applies(self, steps: Sequence[Step]) -> None:
        """Let the lease learn the facts of steps that change no state."""
        for step in steps:
            if isinstance(step, Note):
                self.lease = step.fact.change(self.lease)

    def _scene(self, at: datetime, listing: Listing | None, facts: dict[str, Any]) -> Scene:
        values: dict[str, Any] = {
            "leases": [self.lease], "owners": {self.owner.id: self.owner}, "listing": listing,
            "now": at, "capabilities": CAPABILITIES, "limits": Limits(), "since": NOON, "doubts": self.doubts,
            "unanswered": self.unanswered,
        }  # fmt: skip
        return Scene(**(values | facts))


def reasons(steps: Sequence[Step]) -> list[str]:
    """Why machines are released."""
    released = [step.event for step in steps if isinstance(step, Advance)]
    return [event.reason for event in released if isinstance(event, Release)]


def events(steps: Sequence[Step]) -> list[LeaseEvent]:
    """What happens to leases."""
    return [step.event.kind for step in steps if isinstance(step, Advance)]
