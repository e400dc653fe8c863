"""`gpuproxy probe`: it shows the plan and asks, follows the probe, and a signal releases everything."""

# ruff: noqa: N802 - the methods are named by the contract

import json
import os
import signal
from collections.abc import Callable

import grpc
import pytest
from google.rpc import code_pb2

from gpuproxy.cli import probe
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.cli.world import Run, World, error

PART = pb.ProviderProbePart(what="1x RTX 3090 on host 7", price_per_hour=0.1, max_cost=0.1)


class Probed(World):
    """A server whose probe takes three reads."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[pb.ProbeProviderRequest] = []
        self.released: list[str] = []
        self.states = ["running", "releasing", "finished"]
        self.at_read: dict[int, Callable[[], None]] = {}
        """What happens in the read after which so many states are left, and one more."""

    def ProbeProvider(
        self, request: pb.ProbeProviderRequest, context: grpc.ServicerContext
    ) -> pb.ProbeProviderResponse:
        self._judge(context)
        self.asked.append(request)
        return pb.ProbeProviderResponse(probe=self._probe("planned" if request.dry_run else "running"))

    def GetProviderProbe(
        self, request: pb.GetProviderProbeRequest, context: grpc.ServicerContext
    ) -> pb.GetProviderProbeResponse:
        self.at_read.pop(len(self.states), lambda: None)()
        return pb.GetProviderProbeResponse(probe=self._probe(self.states.pop(0)))

    def ReleaseReservation(
        self, request: pb.ReleaseReservationRequest, context: grpc.ServicerContext
    ) -> pb.ReleaseReservationResponse:
        self.released.append(request.reservation_id)
        return pb.ReleaseReservationResponse()

    def _probe(self, state: str) -> pb.ProviderProbe:
        made = pb.ProviderProbe(
            provider="vast.ai", account="vast-1", state=state, message=f"now {state}", reservation_id="res-1",
            parts=[PART, PART], max_cost=0.2, spent=0.01 if state == "finished" else 0,
            measurements=[pb.ProviderMeasurement(name="listing_lag", outcome="measured", value="3.5", unit="s")],
        )  # fmt: skip
        made.measurements.add(name="stop_latency", outcome="not_applicable", why="it can't stop")
        return made


@pytest.fixture
def world() -> Probed:
    return Probed()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_POLL", 0.01)


def test_it_shows_what_it_can_cost_at_most_asks_and_follows_the_probe(run: Run, world: Probed) -> None:
    result = run("probe", "vast.ai", "--max-spend", "0.5", answer="y\n")
    assert result.exit_code == 0, result.stderr
    assert [(each.dry_run, each.max_spend, each.account) for each in world.asked] == [
        (True, 0.5, ""), (False, 0.5, "vast-1"),
    ]  # fmt: skip
    assert "at most $0.20" in result.stderr
    assert result.stderr.count("1x RTX 3090 on host 7") == 2
    assert "now releasing" in result.stderr
    [lag] = [line for line in result.stdout.splitlines() if line.startswith("listing_lag")]
    assert "3.5 s" in lag
    assert "not applicable" in result.stdout
    assert "$0.01 was spent." in result.stdout
    assert world.released == []


def test_without_a_confirmation_nothing_is_rented(run: Run, world: Probed) -> None:
    assert run("probe", "vast.ai", "--max-spend", "0.5", answer="n\n").exit_code == 1
    assert [each.dry_run for each in world.asked] == [True]


def test_a_refused_plan_is_an_error_before_anything_is_asked(run: Run, world: Probed) -> None:
    world.refuse_with = error(code_pb2.FAILED_PRECONDITION, "The probe could cost $0.20.", "BUDGET_EXCEEDED")
    result = run("probe", "vast.ai", "--max-spend", "0.1", "--yes")
    assert result.exit_code == 1
    assert "could cost $0.20" in result.stderr
    assert world.asked == []


def test_the_budget_is_needed(run: Run) -> None:
    assert run("probe", "vast.ai").exit_code == 2
    assert run("probe", "vast.ai", "--max-spend", "-1").exit_code == 2


def test_a_signal_releases_the_reservation_and_the_command_waits_for_the_end(run: Run, world: Probed) -> None:
    world.at_read = {3: lambda: os.kill(os.getpid(), signal.SIGINT)}
    result = run("probe", "vast.ai", "--max-spend", "0.5", "--yes")
    assert result.exit_code == 130
    assert world.released == ["res-1"]
    assert world.states == []
    assert "everything is released" in result.stderr


def test_json_is_the_probe_itself_and_an_interrupted_one_is_no_success(run: Run, world: Probed) -> None:
    world.states = ["interrupted"]
    result = run("probe", "vast.ai", "--max-spend", "0.5", "--yes", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["state"] == "interrupted"
