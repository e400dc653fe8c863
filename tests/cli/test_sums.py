"""What `reserve` says and exits with at its end: machines are held, not yet, not any more, or until when."""

import json

import pytest

from gpuproxy.cli.rental import Progress
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
def test_a_repeat_of_what_is_over_says_so_and_is_not_done(run: Run, world: World, state: str, reason: str) -> None:
    world.answer = answered(state, outcome(1, "released", reason), outcome(2, state, reason))
    result = run("reserve", "2", "--request-id", "mine")
    assert result.exit_code == 1
    assert "Reserved 2 of 2" not in result.output
    assert result.stderr == (
        "request id mine\n"
        f"Nothing is held: request id mine is that of reservation res-1, which is over: {state} ({reason}). "
        "gpuproxy show res-1 says more; a new rental needs another request id.\n"
    )


@pytest.mark.parametrize("words", ["unknown", "pending", "unknown pending", "failed unknown", ""])
def test_machines_that_may_still_come_to_be_are_not_done(run: Run, world: World, words: str) -> None:
    world.answer = answered("pending", *(outcome(at, word) for at, word in enumerate(words.split(), 1)))
    result = run("reserve", "2")
    assert result.exit_code == 1
    assert "gpuproxy release res-1" in result.stdout
    assert "Not done: no machine is rented yet, and the outcome is still pending." in result.stderr
    assert "gpuproxy show res-1 shows the outcome." in result.stderr


def test_one_machine_that_is_held_is_done_and_the_others_are_counted(run: Run, world: World) -> None:
    world.answer = answered(
        "partial", outcome(1, "reserved"), outcome(2, "unknown"), outcome(3, "released", "NOT_READY"), held=1
    )
    result = run("reserve", "3")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].startswith(
        "1 of 3 · 1 of unknown fate, being looked for · 1 given back or lost · "
    )


def test_a_machine_that_was_shown_as_ready_is_not_shown_again_by_the_answer() -> None:
    lines: list[str] = []
    progress = Progress(lines.append)
    for status in ("starting", "active", "reserved"):
        progress.show([outcome(1, "reserved")], [pb.GPUInstance(lease_id="lease-1", status=status)])
    assert [line.endswith(", ready") for line in lines] == [False, True]


STOPPED = "Reserved 1 of 2 GPUs at $0.31/h. No more machines were rented: machines failed alike on several hosts."


def test_a_call_that_stopped_renting_says_why_and_where_the_providers_words_are(run: Run, world: World) -> None:
    world.answer = answered("partial", outcome(1, "reserved"), outcome(2, "failed", "COMMON_CAUSE"), held=1)
    world.answer.message = STOPPED
    lines = run("reserve", "2").stdout.splitlines()
    assert lines[-3:-1] == [STOPPED, "gpuproxy show res-1 shows what the provider says of each machine"]
    assert lines[-1].startswith("1 of 2 · ")


def test_a_call_that_stopped_renting_says_why_also_where_nothing_is_left(run: Run, world: World) -> None:
    world.answer = answered("released", outcome(1, "released", "HOST_BROKEN"))
    world.answer.message = STOPPED
    assert f"which is over: released (HOST_BROKEN). {STOPPED} gpuproxy show res-1" in run("reserve", "2").stderr


def test_an_incomplete_answer_that_did_not_stop_does_not_say_that_it_did(run: Run, world: World) -> None:
    world.answer = answered("partial", outcome(1, "reserved"), outcome(2, "failed", "OFFER_GONE"), held=1)
    assert "shows what the provider says" not in run("reserve", "2").output


def test_json_has_the_same_exit_codes(run: Run, world: World) -> None:
    world.answer = answered("released", outcome(1, "released", "RELEASED"))
    result = run("reserve", "1", "--json")
    assert (result.exit_code, json.loads(result.stdout)["state"]) == (1, "released")
    assert [json.loads(line).keys() for line in result.stderr.splitlines()] == [{"request_id"}]
    world.answer = None
    assert run("reserve", "1", "--json").exit_code == 0


def test_when_machines_end_by_themselves_is_said_where_they_do(run: Run, world: World) -> None:
    world.answer = answered("starting", outcome(1, "reserved"), held=1)
    assert "by itself" not in run("reserve", "1").stdout
    world.answer.expires_at.FromDatetime(NOW)
    lines = run("reserve", "1").stdout.splitlines()
    assert lines[-2] == "given back by itself at 2026-01-02 03:04:05Z; gpuproxy extend res-1 moves that"
    assert lines[-1].startswith("1 of 1 · ")


@pytest.mark.parametrize("command", [("reserve", "1"), ("list",)])
def test_a_highest_price_of_nothing_is_not_the_servers_limit(run: Run, world: World, command: tuple[str, ...]) -> None:
    for price in ("0", "0.00", "-1"):
        result = run(*command, "--max-price", price)
        assert (result.exit_code, result.stdout, world.requests) == (2, "", [])
        said = "'--max-price': must be above 0; left out it is the server's limit, GPUPROXY_MAX_PRICE"
        assert said in result.stderr
    assert run(*command, "--max-price", "0.01").exit_code == 0


def test_the_help_says_whose_end_and_whose_highest_price_it_is(run: Run) -> None:
    text = " ".join(run("reserve", "--help").stdout.split())
    assert "(0 or left out: the server's GPUPROXY_LEASE_DURATION, else never)" in text
    assert "(default: the server's GPUPROXY_MAX_PRICE)" in text
