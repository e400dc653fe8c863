"""`gpuproxy costs`: a table with bars, and CSV that no spreadsheet executes."""

from gpuproxy.cli import costs
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.cli.world import Run


def test_a_table_has_a_bar_for_each_day_and_the_total(run: Run) -> None:
    lines = run("costs").stdout.splitlines()
    assert lines[0].split() == ["DAY", "COST", "GPU-HOURS"]
    assert [line.split()[:3] for line in lines[1:4]] == [
        ["2026-06-12", "$4.0000", "24.0"], ["2026-06-13", "$1.0000", "24.0"], ["2026-06-14", "$-0.5000", "24.0"],
    ]  # fmt: skip
    assert [line.count("#") for line in lines[1:4]] == [30, 8, 0]
    assert lines[4:] == ["total $4.5000", "surplus $0.2500: machines that appeared after they had been given up"]


def test_an_amount_that_is_shown_as_nothing_has_no_bar() -> None:
    rows = [pb.CostReportRow(keys={"day": "2026-06-12"}, amount=amount) for amount in (0.00004, 0.0001, 0.0)]
    table = costs._table(["day"], pb.GetCostReportResponse(rows=rows, total=0.00014))
    assert [line.count("#") for line in table.splitlines()[1:4]] == [0, 30, 0]


def test_csv_is_quoted_and_a_formula_begins_with_an_apostrophe(run: Run) -> None:
    lines = run("costs", "--csv", "--by", "label:team", "--by", "day").stdout.splitlines()
    assert lines[0] == "label:team,day,cost_usd,gpu_hours"
    assert lines[1] == """"'=HYPERLINK(""x"")",2026-06-12,4.000000,24.0000"""
    assert lines[2] == """"a, ""b""\",2026-06-13,1.000000,24.0000"""


def test_wrong_usage_sends_nothing(run: Run) -> None:
    assert run("costs", "--csv", "--json").exit_code == 2
    assert run("costs", "--since", "2026-06-13", "--until", "2026-06-12").exit_code == 2
    assert run("costs", "--since", "yesterday").exit_code == 2


def test_a_period_of_the_last_day_that_there_is_can_be_asked_for(run: Run) -> None:
    assert run("costs", "--since", "9999-12-31").exit_code == 0


def test_audit_lists_who_did_what_and_how_to_go_on(run: Run) -> None:
    lines = run("audit", "--limit", "2").stdout.splitlines()
    assert lines[0].split() == ["AT", "ACTION", "WHAT", "DETAIL", "PROJECT", "BY"]
    assert lines[1].split()[-6:] == ["reservation_rented", "res-1", "2", "GPUs", "p1", "user-1", "key-1"][-6:]
    assert lines[2].endswith("command line")
    assert lines[3] == "older ones: --before 8"
