"""The last lines and the exit code of `reserve`: machines are rented, still pending, or already released."""

import json

import pytest

from gpuproxy.cli.rental import Progress
from gpuproxy.model.demands import PACKINGS
from gpuproxy.model.strategies import STRATEGIES
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.cli.world import NOW, Run, World


def outcome(number: int, state: str, reason: str = "") -> pb.Outcome:
    return pb.Outcome(attempt=number, lease_id=f"lease-{number}", num_gpus=1, state=state, reason=reason)


def answered(state: str, *outcomes: pb.Outcome, held: int = 0) -> pb.ReserveGPUsResponse:
    text = f"Reserved {len(outcomes)} of {len(outcomes)} GPUs at $0.1734/h."
    return pb.ReserveGPUsResponse(
        reservation_id="res-1", state=state, message=text, outcomes=outcomes, reserved_count=held
    )


@pytest.mark.parametrize(
    ("state", "reason"), [("released", "RELEASED"), ("releasing", "EXPIRED"), ("released", "INSTANCE_LOST")]
)
def test_a_repeated_request_id_of_an_ended_reservation_is_exit_code_1(
    run: Run, world: World, state: str, reason: str
) -> None:
    world.answer = answered(state, outcome(1, "released", reason), outcome(2, state, reason))
    result = run("reserve", "2", "--request-id", "mine")
    assert result.exit_code == 1
    assert "Reserved 2 of 2" not in result.output
    assert result.stderr == (
        "request id mine\n"
        f"No machine is rented: request id mine belongs to reservation res-1, which is {state} ({reason}). "
        "For details: gpuproxy show res-1. To rent again, use another request id.\n"
    )


@pytest.mark.parametrize("words", ["unknown", "pending", "unknown pending", "failed unknown", ""])
def test_a_pending_outcome_is_exit_code_1(run: Run, world: World, words: str) -> None:
    world.answer = answered("pending", *(outcome(at, word) for at, word in enumerate(words.split(), 1)))
    result = run("reserve", "2")
    assert result.exit_code == 1
    assert "gpuproxy release res-1" in result.stdout
    assert "No machine is rented yet: the outcome is still pending." in result.stderr
    assert "To see the outcome: gpuproxy show res-1" in result.stderr


def test_one_rented_machine_is_exit_code_0_and_the_others_are_counted(run: Run, world: World) -> None:
    world.answer = answered(
        "partial", outcome(1, "reserved"), outcome(2, "unknown"), outcome(3, "released", "NOT_READY"), held=1
    )
    result = run("reserve", "3")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].startswith(
        "1 of 3 · 1 with an unknown outcome; the server looks for it · 1 released or lost · "
    )


def test_a_ready_machine_is_not_printed_again_at_the_end() -> None:
    lines: list[str] = []
    progress = Progress(lines.append)
    for status in ("starting", "active", "reserved"):
        progress.show([outcome(1, "reserved")], [pb.GPUInstance(lease_id="lease-1", status=status)])
    assert [line.endswith(", ready") for line in lines] == [False, True]


STOPPED = "Reserved 1 of 2 GPUs at $0.31/h. No more machines were rented: machines failed alike on several hosts."


def test_a_call_that_stopped_renting_gives_the_reason_and_a_hint(run: Run, world: World) -> None:
    world.answer = answered("partial", outcome(1, "reserved"), outcome(2, "failed", "COMMON_CAUSE"), held=1)
    world.answer.message = STOPPED
    lines = run("reserve", "2").stdout.splitlines()
    assert lines[-3:-1] == [STOPPED, "To see the provider's message for each machine: gpuproxy show res-1"]
    assert lines[-1].startswith("1 of 2 · ")


def test_a_call_that_stopped_renting_gives_the_reason_without_machines_too(run: Run, world: World) -> None:
    world.answer = answered("released", outcome(1, "released", "HOST_BROKEN"))
    world.answer.message = STOPPED
    assert f"which is released (HOST_BROKEN). {STOPPED} For details: gpuproxy show res-1" in run("reserve", "2").stderr


def test_a_partial_result_without_a_stop_has_no_such_hint(run: Run, world: World) -> None:
    world.answer = answered("partial", outcome(1, "reserved"), outcome(2, "failed", "OFFER_GONE"), held=1)
    assert "the provider's message" not in run("reserve", "2").output


def test_json_has_the_same_exit_codes(run: Run, world: World) -> None:
    world.answer = answered("released", outcome(1, "released", "RELEASED"))
    result = run("reserve", "1", "--json")
    assert (result.exit_code, json.loads(result.stdout)["state"]) == (1, "released")
    assert [json.loads(line).keys() for line in result.stderr.splitlines()] == [{"request_id"}]
    world.answer = None
    assert run("reserve", "1", "--json").exit_code == 0


def test_the_automatic_release_is_shown_only_if_there_is_one(run: Run, world: World) -> None:
    world.answer = answered("starting", outcome(1, "reserved"), held=1)
    assert "automatically" not in run("reserve", "1").stdout
    world.answer.expires_at.FromDatetime(NOW)
    lines = run("reserve", "1").stdout.splitlines()
    assert lines[-2] == "released automatically at 2026-01-02 03:04:05Z; to change this: gpuproxy extend res-1"
    assert lines[-1].startswith("1 of 1 · ")


@pytest.mark.parametrize("command", [("reserve", "1"), ("list",)])
def test_a_maximum_price_of_zero_is_wrong_usage(run: Run, world: World, command: tuple[str, ...]) -> None:
    for price in ("0", "0.00", "-1"):
        result = run(*command, "--max-price", price)
        assert (result.exit_code, result.stdout, world.requests) == (2, "", [])
        said = "'--max-price': must be above 0. Without this option the server's GPUPROXY_MAX_PRICE applies"
        assert said in result.stderr
    assert run(*command, "--max-price", "0.01").exit_code == 0


def test_the_help_names_the_settings_of_the_defaults(run: Run) -> None:
    text = " ".join(run("reserve", "--help").stdout.split())
    assert "Default, also for 0: the server's GPUPROXY_LEASE_DURATION." in text
    assert "(default: the server's GPUPROXY_MAX_PRICE)" in text


def test_the_help_explains_each_packing_and_names_each_strategy(run: Run) -> None:
    text = " ".join(run("reserve", "--help").stdout.split())
    assert f"Load balancing strategy for this call: {', '.join(STRATEGIES)} (default: the project's)." in text
    assert all(f"{name}: " in text.replace(" (default)", "") for name in PACKINGS)
