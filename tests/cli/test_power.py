"""stop, start and logs: the output shows the present state of the machine."""

import json

from tests.cli.world import Run, World


def test_a_machine_that_stops_at_once_is_shown_as_stopped(run: Run, world: World) -> None:
    world.rent(1, status="active")
    assert run("stop", "7001").stdout.startswith("7001 is stopped · $")


def test_a_stop_says_what_the_machine_costs_now(run: Run, world: World) -> None:
    machine = world.rent(1, status="stopped")
    machine.metadata["billed_per_hour"] = "0.004600"
    assert run("stop", "7001").stdout == "7001 is stopped · $0.0046/h now, $0.31/h while it runs\n"
    world.after_stop, machine.metadata["billed_per_hour"] = "active", "0.310000"
    assert run("stop", "7001").stdout == (
        "7001 is stopping · $0.31/h until it is stopped, then only its disk is billed\n"
    )


def test_a_machine_that_starts_is_not_shown_as_active(run: Run, world: World) -> None:
    world.rent(1, status="stopped")
    assert run("start", "7001").stdout.startswith("7001 is starting · $")


def test_a_stopped_machine_counts_with_its_present_cost(run: Run, world: World) -> None:
    world.rent(1, status="active").metadata["billed_per_hour"] = "0.310000"
    world.rent(2, status="stopped").metadata["billed_per_hour"] = "0.010000"
    assert "2 machines, 2 GPUs · $0.32/h" in run("ps").stdout
    assert "$0.01/h = " in run("show", "7002").stdout
    assert "$0.31/h after a start" in run("show", "7002").stdout


def test_a_starting_machine_counts_with_its_full_price(run: Run, world: World) -> None:
    world.rent(1, status="starting").metadata["billed_per_hour"] = "0.010000"
    assert "1 machine, 1 GPU · $0.31/h" in run("ps").stdout


def test_the_last_lines_of_a_log_are_printed_unchanged(run: Run, world: World) -> None:
    world.rent(1)
    assert run("logs", "7001", "--tail", "2").stdout == "two\nthree\n"
    assert json.loads(run("logs", "7001", "--json").stdout)["lines"] == ["one", "two", "three"]


def test_the_logs_of_several_machines_name_the_machine_of_each_line(run: Run, world: World) -> None:
    world.rent(1, status="active")
    world.rent(2, status="active")
    result = run("logs", "7001", "7002", "7001", "--tail", "1")
    assert result.stdout.splitlines() == ["7001: three", "7002: three"]
    assert len(run("logs", "7001", "7002", "--json").stdout.splitlines()) >= 2


def test_zero_or_too_many_log_lines_are_wrong_usage(run: Run) -> None:
    assert run("logs", "7001", "--tail", "0").exit_code == 2
    assert run("logs", "7001", "--tail", "1001").exit_code == 2


def test_a_log_without_lines_says_so_on_stderr(run: Run, world: World) -> None:
    world.rent(1, status="starting")
    assert run("logs", "7001").stderr == ""
    world.log = []
    result = run("logs", "7001")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "7001 has no lines yet.\n")
    assert run("logs", "7001", "--json").stderr == ""


def test_a_reservation_says_how_many_of_its_gpus_are_stopped(run: Run, world: World) -> None:
    world.rent(1, status="stopped")
    world.rent(2, status="active")
    assert "0 ready, 1 stopped · " in run("show", "res-1").stdout
    world.reservations[0].instances[0].status = "active"
    assert "stopped" not in run("show", "res-1").stdout


def test_the_total_is_shown_as_exactly_as_the_rows(run: Run, world: World) -> None:
    for number in (1, 2):
        world.rent(number, status="active").cost_so_far = 0.0024
    assert run("ps").stdout.splitlines()[-1].endswith(" · $0.0048 so far")
