"""`gpuproxy reservations` and `gpuproxy extend`."""

import json
from datetime import UTC, datetime

import pytest

from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.cli.world import NOW, Run, World


def reserved(world: World, number: int, state: str = "active", **labels: str) -> pb.Reservation:
    reservation = pb.Reservation(
        reservation_id=f"res-{number}", state=state, labels=labels, reserved_count=1, requested_count=2, ready_count=1,
        price_per_hour=0.31, cost_so_far=0.5,
    )  # fmt: skip
    reservation.created_at.FromDatetime(NOW)
    reservation.expires_at.FromDatetime(NOW.replace(hour=5))
    world.reservations.append(reservation)
    return reservation


def test_reservations_are_listed_with_state_costs_end_and_labels(run: Run, world: World) -> None:
    reserved(world, 1, team="ml", run="7")
    reserved(world, 2, "released").reason = "EXPIRED"
    lines = run("reservations").stdout.splitlines()
    assert lines[0].split() == [
        "RESERVATION",
        "STATE",
        "GPUS",
        "READY",
        "$/H",
        "SO",
        "FAR",
        "CREATED",
        "ENDS",
        "LABELS",
    ]
    assert lines[1].startswith("res-1        active              1 of 2      1  $0.31   $0.50  2026-01-02 03:04:05Z")
    assert lines[1].endswith("2026-01-02 05:04:05Z  run=7, team=ml")
    assert "released (EXPIRED)" in lines[2]
    assert lines[2].split()[-2:] == ["-", "-"]  # its planned end means nothing any more
    assert lines[3] == "2 reservations"


def test_only_those_of_a_state_and_with_all_labels_are_listed(run: Run, world: World) -> None:
    reserved(world, 1, team="ml", run="7")
    reserved(world, 2, team="ml")
    reserved(world, 3, "released", team="ml")
    assert run("reservations", "--state", "active").stdout.count("res-") == 2
    both = run("reservations", "--label", "team=ml", "--label", "run=7").stdout
    assert (both.count("res-"), "res-1" in both) == (1, True)
    assert run("reservations", "--label", "team=other").stdout == "No reservation matches.\n"


def test_one_page_says_how_many_there_are_and_all_shows_every_page(run: Run, world: World) -> None:
    for number in range(450):
        reserved(world, number)
    assert run("reservations", "--limit", "3").stdout.splitlines()[-1] == "3 of 450 reservations. To show all: --all"
    assert run("reservations", "--all").stdout.splitlines()[-1] == "450 reservations"
    found = json.loads(run("reservations", "--all", "--json").stdout)
    assert (len(found["reservations"]), found["next_page_token"]) == (450, "")
    assert json.loads(run("reservations", "--json", "--limit", "3").stdout)["next_page_token"] == "3"


def test_without_reservations_the_next_step_is_named(run: Run) -> None:
    assert run("reservations").stdout == "No reservation yet. To rent GPUs: gpuproxy reserve COUNT\n"


@pytest.mark.parametrize("words", [("--label", "team"), ("--limit", "0"), ("--limit", "201"), ("--state", "")])
def test_wrong_filters_are_wrong_usage(run: Run, words: tuple[str, ...]) -> None:
    assert run("reservations", *words).exit_code == 2


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2026-02-01", datetime(2026, 2, 1, tzinfo=UTC)),
        ("2026-02-01T12:00", datetime(2026, 2, 1, 12, tzinfo=UTC)),
        ("2026-02-01T12:00:00Z", datetime(2026, 2, 1, 12, tzinfo=UTC)),
        ("2026-02-01T12:00+02:00", datetime(2026, 2, 1, 10, tzinfo=UTC)),
    ],
)
def test_extend_accepts_each_documented_form_of_a_time(run: Run, world: World, text: str, meant: datetime) -> None:
    world.rent(1)
    assert run("extend", "res-1", "--until", text, "--yes").exit_code == 0
    assert world.extended == [meant]


@pytest.mark.parametrize(
    "words",
    [
        ("res-1",),
        ("res-1", "2h"),
        ("res-1", "--duration", "2h"),
        ("res-1", "--for", "2h", "--until", "2026-02-01"),
    ],
)
def test_extend_without_a_valid_end_names_the_forms(run: Run, world: World, words: tuple[str, ...]) -> None:
    world.rent(1)
    result = run("extend", *words)
    assert (result.exit_code, world.extended) == (2, [])
    assert "either --until TIME (2026-07-01, 2026-07-01T12:00 or 2026-07-01T12:00:00Z; UTC)" in result.stderr
    assert "or --for DURATION from now (90m, 2h or 7d)." in result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--until", "tomorrow"), "'tomorrow' is not a time. Write 2026-07-01, 2026-07-01T12:00 or"),
        (("--until", "2026-13-01"), "'2026-13-01' is not a time."),
        (("--until", "0001-01-01T00:00+10:00"), "is not a time."),
        (("--for", "soon"), "must be a duration, for example 30s, 15m, 2h or 7d"),
        (("--for", "0"), "must be above 0"),
        (("--for", "2"), "2 has no unit: 2s, 2m, 2h or 2d"),
        (("--for", "1.5"), "1.5 has no unit: 1.5s, 1.5m, 1.5h or 1.5d"),
        (("--until", "2026-01-01"), "--until 2026-01-01T00:00:00Z is in the past: now it is 2026-01-02T03:04:05Z."),
    ],
)
def test_a_value_that_is_no_end_is_wrong_usage(run: Run, world: World, words: tuple[str, ...], said: str) -> None:
    world.rent(1)
    result = run("extend", "res-1", *words)
    assert (result.exit_code, said in result.stderr, world.extended) == (2, True, [])


def test_a_reservation_without_an_end_gets_one_only_after_a_question(run: Run, world: World) -> None:
    world.rent(1)
    for answer in ("n\n", ""):
        result = run("extend", "res-1", "--for", "2h", answer=answer)
        assert (result.exit_code, world.extended, "Nothing was changed." in result.stderr) == (1, [], True)
        asked = "It has no end now. Release 1 machine of res-1 at 2026-01-02 05:04:05Z, in 2 h? [y/N]"
        assert asked in result.stderr
    assert run("extend", "res-1", "--for", "2h", answer="y\n").exit_code == 0
    assert run("extend", "res-1", "--for", "3h").exit_code == 0  # it has an end now
    assert len(world.extended) == 2


def test_an_end_in_less_than_ten_minutes_is_set_only_after_a_question(run: Run, world: World) -> None:
    reserved(world, 1)
    result = run("extend", "res-1", "--for", "2m", answer="n\n")
    assert (result.exit_code, world.extended) == (1, [])
    assert "Release 0 machines of res-1 at 2026-01-02 03:06:05Z, in 2 min? [y/N]" in result.stderr
    assert run("extend", "res-1", "--for", "10m").exit_code == 0
    assert run("extend", "res-1", "--for", "9m", "--yes").exit_code == 0
    assert len(world.extended) == 2


def test_an_ended_reservation_is_not_asked_about(run: Run, world: World) -> None:
    reserved(world, 1, "released")
    assert "?" not in run("extend", "res-1", "--for", "2m").stderr
