from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode

from gpuproxy.adapters.system import ScaledClock
from gpuproxy.billing.costs import CostReport, CostRow
from gpuproxy.edge.messages.transactions import transaction_message
from gpuproxy.edge.rpc.costs import CostCalls
from gpuproxy.instances.requests import LeaseView
from gpuproxy.model.demands import Caller
from gpuproxy.model.leases import InstanceId, LeaseId, LeaseState, ReservationId
from gpuproxy.model.money import Micro
from gpuproxy.model.transactions import Meter, newest
from gpuproxy.store.audit import AuditEvent
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.edge.engine import NOW, VAST, StubEngine, lease, offer, service_over, view
from tests.edge.face import facing


async def test_transactions_are_a_page_of_at_most_a_thousand() -> None:
    engine = StubEngine()
    async with facing(service_over(engine)) as face:
        assert (await face.call("GetTransactions", key="gp_viewer")).total_count == 7
        await face.call("GetTransactions", pb.GetTransactionsRequest(limit=5000, offset=3))
        refused = await face.refused("GetTransactions", pb.GetTransactionsRequest(limit=-1, offset=-1))
    assert engine.asked == [("transactions", "p1", 50, 0), ("transactions", "p1", 1000, 3)]
    assert refused.fields.keys() == {"limit", "offset"}


def test_a_transaction_says_what_when_and_how_much() -> None:
    meter = Meter(
        lease_id=LeaseId("lease-a-01"),
        reservation_id=ReservationId("res-a"),
        provider=VAST,
        instance_id=InstanceId("9001"),
        gpu_model="RTX 4090",
        num_gpus=2,
        storage=False,
        rate=Micro(800_000),
        opened_at=NOW,
        closed_at=None,
    )
    pending, completed = map(transaction_message, newest([meter], [], NOW + timedelta(minutes=90), 0, 5))
    assert (completed.type, completed.status, completed.currency, completed.amount) == (
        "usage",
        "completed",
        "USD",
        0.8,
    )
    assert (completed.timestamp, completed.gpu_hours) == (int(NOW.timestamp()) + 3600, 2.0)
    assert completed.description == "2 x RTX 4090 at $0.8000/h on vast.ai, contract 9001"
    assert (pending.status, pending.amount, pending.HasField("ended_at")) == ("pending", 0.4, False)


@pytest.mark.parametrize(("billed", "rate"), [("all", "0.400000"), ("disk", "0.012500"), ("nothing", "0.000000")])
async def test_an_instance_says_what_is_billed_at_this_moment(billed: str, rate: str) -> None:
    machine = lease(1, LeaseState.ACTIVE, billed=billed, disk_price=Micro(12_500))
    engine = StubEngine(mine=[LeaseView(lease=machine, cost=Micro(0))])
    async with facing(service_over(engine)) as face:
        answer = await face.call("GetGPUInstance", pb.GetGPUInstanceRequest(provider="vast.ai", instance_id="9001"))
    assert answer.instance.metadata["billed_per_hour"] == rate
    assert answer.instance.price_per_hour == 0.4


async def test_a_reservation_costs_what_its_machines_cost_now() -> None:
    stopped = lease(1, LeaseState.PARKED, instance_id="9001", billed="disk", disk_price=Micro(12_500))
    dead = lease(2, billed="nothing", faltered_at=NOW)
    for leases, price in (((stopped,), 0.0125), ((stopped, lease(3)), 0.4125), ((lease(3, billed="disk"),), 0.4)):
        async with facing(service_over(StubEngine(answer=view(*leases)))) as face:
            answer = await face.call("GetReservation", pb.GetReservationRequest(reservation_id="res-1"))
        assert answer.reservation.price_per_hour == price
    async with facing(service_over(StubEngine(answer=view(dead)))) as face:
        answer = await face.call("GetReservation", pb.GetReservationRequest(reservation_id="res-1"))
    assert answer.reservation.price_per_hour == 0


async def test_an_offer_is_found_at_its_shown_price_per_gpu() -> None:
    engine = StubEngine(offers=[offer(gpus, price=507_217, gpus=gpus) for gpus in (1, 3, 6, 7, 8)])
    async with facing(service_over(engine)) as face:
        shown = (await face.call("ListGPUInstances")).instances
        for each in shown:
            same = pb.ListGPUInstancesRequest(max_price=each.price_per_gpu_hour)
            assert each.id in [one.id for one in (await face.call("ListGPUInstances", same)).instances]
    assert len(shown) == 5


class StubCosts:
    """Costs without a database: it remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    async def report(self, caller: Caller, **asked: Any) -> CostReport:
        self.asked.append({"caller": caller.project, **asked})
        row = CostRow(keys={"day": "2026-06-12"}, amount=Micro(1_250_000), gpu_hours=2.5)
        return CostReport(rows=[row], total=Micro(1_250_000), surplus=Micro(1))

    async def audit(self, project: str | None, *, before: int, limit: int) -> list[AuditEvent]:
        self.asked.append({"project": project, "before": before, "limit": limit})
        numbers = [seq for seq in (3, 2, 1) if not before or seq < before][:limit]
        facts: dict[str, Any] = {"at": NOW, "project": "p1", "user_id": "", "key_id": "key-1", "subject": "res-1"}
        return [AuditEvent(seq=seq, action="reservation_rented", detail="1 GPU", **facts) for seq in numbers]


async def test_audit_events_are_read_in_parts_by_admins_alone() -> None:
    costs = StubCosts()
    async with facing(service_over(StubEngine(), others=(CostCalls(costs, ScaledClock(60.0, origin=NOW)),))) as face:
        first = await face.call("ListAuditEvents", pb.ListAuditEventsRequest(limit=2), key="gp_admin")
        last = await face.call("ListAuditEvents", pb.ListAuditEventsRequest(before=2, project="p1"), key="gp_admin")
        refused = await face.refused("ListAuditEvents", pb.ListAuditEventsRequest(limit=-1, before=-1), key="gp_admin")
        denied = await face.refused("ListAuditEvents", key="gp_user")
    assert ([each.seq for each in first.events], first.next_before) == ([3, 2], 2)
    assert (first.events[0].action, first.events[0].key_id) == ("reservation_rented", "key-1")
    assert ([each.seq for each in last.events], last.next_before) == ([1], 0)
    assert costs.asked == [{"project": None, "before": 0, "limit": 3}, {"project": "p1", "before": 2, "limit": 51}]
    assert refused.fields.keys() == {"limit", "before"}
    assert denied.code is StatusCode.PERMISSION_DENIED


async def test_a_cost_report_has_thirty_days_by_day_unless_asked_otherwise() -> None:
    costs = StubCosts()
    async with facing(service_over(StubEngine(), others=(CostCalls(costs, ScaledClock(60.0, origin=NOW)),))) as face:
        answer = await face.call("GetCostReport", key="gp_viewer")
        words = pb.GetCostReportRequest(group_by=["Model", "label:team", "model"], project="p2")
        words.start_time.FromDatetime(NOW - timedelta(days=366))
        words.end_time.FromDatetime(NOW)
        await face.call("GetCostReport", words)
    first, second = costs.asked
    assert (first["by"], first["until"] - first["since"], first["project"]) == (("day",), timedelta(days=30), "")
    assert (second["by"], second["since"], second["until"]) == (("model", "label:team"), NOW - timedelta(days=366), NOW)
    assert (answer.rows[0].keys, answer.rows[0].amount, answer.rows[0].gpu_hours) == ({"day": "2026-06-12"}, 1.25, 2.5)
    assert (answer.total, answer.surplus) == (1.25, 0.000001)


async def test_a_wrong_cost_report_names_every_field() -> None:
    asked = pb.GetCostReportRequest(group_by=["day", "hour", "label:"], project="p\n2")
    asked.start_time.FromDatetime(NOW)
    asked.end_time.FromDatetime(NOW)
    too_long = pb.GetCostReportRequest(group_by=["day"] * 6)
    too_long.start_time.FromDatetime(NOW - timedelta(days=1000))
    too_long.end_time.FromDatetime(NOW)
    async with facing(
        service_over(StubEngine(), others=(CostCalls(StubCosts(), ScaledClock(60.0, origin=NOW)),))
    ) as face:
        refused = await face.refused("GetCostReport", asked)
        longer = await face.refused("GetCostReport", too_long)
    assert refused.fields.keys() == {"start_time", "group_by[1]", "group_by[2]", "project"}
    assert longer.fields.keys() == {"start_time", "group_by"}


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"end_time": Timestamp(seconds=-62_133_960_000)}, "end_time"),
        ({"end_time": Timestamp(seconds=0)}, "end_time"),
        ({"end_time": Timestamp(seconds=1, nanos=-1)}, "end_time"),
        ({"start_time": Timestamp(seconds=-62_133_960_000)}, "start_time"),
        ({"start_time": Timestamp(seconds=253_402_300_799)}, "start_time"),
    ],
)
async def test_a_period_that_is_far_away_is_refused_by_its_field(wanted: dict[str, Timestamp], field: str) -> None:
    calls = CostCalls(StubCosts(), ScaledClock(60.0, origin=NOW))
    async with facing(service_over(StubEngine(), others=(calls,))) as face:
        refused = await face.refused("GetCostReport", pb.GetCostReportRequest(**wanted))
    assert refused.code is StatusCode.INVALID_ARGUMENT
    assert refused.fields.keys() == {field}


async def test_a_period_that_ends_soon_after_1970_begins_there() -> None:
    costs = StubCosts()
    calls = CostCalls(costs, ScaledClock(60.0, origin=NOW))
    async with facing(service_over(StubEngine(), others=(calls,))) as face:
        await face.call("GetCostReport", pb.GetCostReportRequest(end_time=Timestamp(seconds=86_400)))
    assert costs.asked[0]["since"] == datetime(1970, 1, 1, tzinfo=UTC)
