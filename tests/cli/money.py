"""What the stand-in server of the command line's tests says about money."""
# ruff: noqa: N802 - methods are named as in the contract

import grpc

from gpuproxy.v1 import gpuproxy_pb2 as pb


class Money:
    """The calls about costs and the audit trail."""

    def GetCostReport(
        self, request: pb.GetCostReportRequest, context: grpc.ServicerContext
    ) -> pb.GetCostReportResponse:
        rows = [
            pb.CostReportRow(keys=dict.fromkeys(request.group_by, f"2026-06-{day}"), amount=amount, gpu_hours=24.0)
            for day, amount in ((12, 4.0), (13, 1.0), (14, -0.5))
        ]
        if "label:team" in request.group_by:
            rows[0].keys["label:team"], rows[1].keys["label:team"] = '=HYPERLINK("x")', 'a, "b"'
        return pb.GetCostReportResponse(rows=rows, total=4.5, surplus=0.25)

    def ListAuditEvents(
        self, request: pb.ListAuditEventsRequest, context: grpc.ServicerContext
    ) -> pb.ListAuditEventsResponse:
        facts = {"action": "reservation_rented", "subject": "res-1", "detail": "2 GPUs", "project": "p1"}
        made = [pb.AuditEvent(seq=9, key_id="key-1", user_id="user-1", **facts), pb.AuditEvent(seq=8, **facts)]
        for each in made:
            each.at.FromJsonString("2026-06-12T13:00:00Z")
        return pb.ListAuditEventsResponse(events=made[: request.limit], next_before=8 if request.limit == 2 else 0)
