"""The output and the exit code of each command, over a real channel."""

import _thread
import json
import re
import socket
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner
from google.rpc import code_pb2

from gpuproxy.cli import COMMANDS, root
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.cli.world import KEY, NOW, Run, World, error

pytestmark = pytest.mark.long


def test_every_command_in_the_help_exists(run: Run) -> None:
    text = run("--help").stdout
    for name in COMMANDS:
        assert name in text
        assert run(name, "--help").exit_code == 0


def test_an_unreachable_server_is_exit_code_3_with_a_remedy(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"localhost:{taken.getsockname()[1]}"
        said = f"Nothing answers at {address}. Start it with make run, or set GPUPROXY_SERVER.\n"
        for words in ("list", "reserve 1", "warmpool watch 7"):
            result = CliRunner().invoke(root, [*words.split(), "--server", address])
            assert (result.exit_code, result.stdout, result.stderr) == (3, "", said), words


def test_wrong_usage_is_exit_code_2(run: Run) -> None:
    assert run("reserve").exit_code == 2
    assert run("reserve", "many").exit_code == 2
    assert run("reserve", "1", "--lease", "soon").exit_code == 2
    assert "'soon' must be a duration" in run("reserve", "1", "--for", "soon").stderr
    assert run("reserve", "1", "--env", "novalue").exit_code == 2
    assert run("nonsense").exit_code == 2


def test_a_refusal_prints_message_fields_reason_and_trace_and_is_exit_code_1(run: Run, world: World) -> None:
    world.refuse_with = error(
        code_pb2.INVALID_ARGUMENT, "count: must be 1-16", "INVALID_ARGUMENT", {"count": "must be 1-16", "image": "bad"}
    )
    result = run("reserve", "1")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[1:] == [
        "count: must be 1-16",
        "  image: bad",
        "(reason INVALID_ARGUMENT, trace trace-1)",
    ]


def test_a_refusal_as_json_has_the_same_parts(run: Run, world: World) -> None:
    world.refuse_with = error(code_pb2.FAILED_PRECONDITION, "Not enough GPUs.", "NOT_ENOUGH_GPUS")
    result = run("reserve", "4", "--json")
    said, refused = (json.loads(line) for line in result.stderr.splitlines())
    assert said["request_id"].startswith("cli-")
    body = refused["error"]
    assert (body["status"], body["reason"], body["trace_id"]) == ("FAILED_PRECONDITION", "NOT_ENOUGH_GPUS", "trace-1")


def test_a_key_that_is_not_valid_is_named_by_its_origin(run: Run, address: str, tmp_path: Path) -> None:
    (tmp_path / "gpuproxy.db.admin-key").write_text("gpx-old\n")
    for origin, result in (
        ("GPUPROXY_API_KEY", run("list", GPUPROXY_API_KEY="gpx-wrong")),
        ("--api-key", run("list", "--api-key", "gpx-wrong")),
        ("gpuproxy.db.admin-key", run("list", GPUPROXY_API_KEY="")),
    ):
        assert result.exit_code == 1
        assert f"{origin} is not valid at {address}.\n(reason UNAUTHENTICATED" in result.stderr
        assert "Send a valid key" not in result.stderr


def test_the_admin_key_beside_the_database_is_used_on_this_machine(run: Run, tmp_path: Path) -> None:
    without = run("list", GPUPROXY_API_KEY="")
    assert without.exit_code == 1
    assert "No API key was found. Set GPUPROXY_API_KEY" in without.stderr
    assert "Send a valid key" not in without.stderr
    (tmp_path / "gpuproxy.db.admin-key").write_text(KEY + "\n")
    assert run("list", GPUPROXY_API_KEY="").exit_code == 0
    (tmp_path / "other.db.admin-key").write_text("wrong\n")
    assert run("list", GPUPROXY_API_KEY="", GPUPROXY_DATABASE_URL="sqlite:///other.db").exit_code == 1


def test_list_shows_offers_and_names_unreachable_providers(run: Run) -> None:
    lines = run("list", "--min-vram", "16").stdout.splitlines()
    assert lines[0].split() == [
        "OFFER", "GPUS", "MODEL", "VRAM", "$/GPU-H", "$/H", "$/DAY", "$/WEEK", "$/MONTH", "RELIABLE", "LOCATION", "HOST"
    ]  # fmt: skip
    assert lines[1].startswith("vast-1     2  RTX 4090")
    assert "  $0.62  $14.88  $104.16  $446.40  " in lines[1]
    assert lines[-1] == (
        "1 of 12 offers (--limit shows more) · 31 GPUs can be rented at once · oldest offer seen 4 s ago"
        " · no answer from io.net"
    )


@pytest.mark.parametrize(("told", "shown"), [(0.998, "99.8%"), (0.0, "-")])
def test_a_reliability_that_the_marketplace_does_not_tell_is_not_shown_as_zero(
    run: Run, world: World, told: float, shown: str
) -> None:
    world.reliability = told
    assert run("list").stdout.splitlines()[1].split()[-4] == shown


def test_reserve_ends_with_the_costs_and_the_release_command(run: Run) -> None:
    result = run("reserve", "4", "--min-vram", "16", "--max-price", "2")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[-1] == (
        "4 of 4 · $1.24/h = $29.76/day, $208.32/week, $892.80/month (30 d) · cheapest alternative $1.10/h"
        " · gpuproxy release res-1"
    )
    assert lines[:-1] == [
        f"#{n} vast-{n} on vast.ai/{n}, 1 x RTX 4090: reserved as {7000 + n} for $0.31/h" for n in (1, 2, 3, 4)
    ]


def test_reserve_sends_its_options_and_a_new_request_id(run: Run, world: World) -> None:
    run(
        *(
            "reserve",
            "2",
            "--provider",
            "vast.ai",
            "--gpu",
            "rtx4090",
            "--env",
            "A=1",
            "--env",
            "B=x=y",
            "--port",
            "80",
        ),
        *(
            "--lease",
            "2h",
            "--release-idle-after",
            "20m",
            "--label",
            "team=ml",
            "--disk",
            "100",
            "--wait-ready",
            "--unverified",
            "--min-count",
            "1",
        ),
        *("--exclude-host", "42", "--packing", "single", "--strategy", "lowest_price"),
    )
    (request,) = world.requests
    assert (request.count, request.provider, request.gpu_model, request.disk_gb) == (2, "vast.ai", "rtx4090", 100)
    assert dict(request.env) == {"A": "1", "B": "x=y"}
    assert list(request.ports) == [80]
    assert request.lease_duration.ToTimedelta() == timedelta(hours=2)
    assert request.release_idle_after.ToTimedelta() == timedelta(minutes=20)
    assert dict(request.labels) == {"team": "ml"}
    assert (request.wait_for, request.verified_only, request.min_count) == ("ready", False, 1)
    assert (list(request.exclude_hosts), request.packing, request.strategy) == (["42"], "single", "lowest_price")
    assert request.request_id.startswith("cli-")


def test_omitted_options_are_not_sent(run: Run, world: World) -> None:
    run("reserve", "1", "--request-id", "mine")
    (request,) = world.requests
    assert {field.name for field, _ in request.ListFields()} == {"count", "request_id"}
    assert request.request_id == "mine"


def test_ctrl_c_stops_new_rentals_and_lists_existing_machines(run: Run, world: World) -> None:
    ended = threading.Event()

    def interrupted(context: grpc.ServicerContext) -> None:
        context.add_callback(ended.set)
        _thread.interrupt_main()
        assert ended.wait(300)
        context.abort(grpc.StatusCode.CANCELLED, "")

    world.during_reserve = interrupted
    result = run("reserve", "3", "--request-id", "mine")
    assert result.exit_code == 130, result.stderr
    assert "Interrupted. No new rental is started. Request id: mine" in result.stderr
    assert "#1 vast-1 on vast.ai/1, 1 x RTX 4090: reserved as 7001 for $0.31/h" in result.stderr
    assert "To release them: gpuproxy release res-1" in result.stderr
    assert len(world.machines) == 1


def test_after_ctrl_c_no_line_says_that_a_machine_is_being_rented(run: Run, world: World) -> None:
    ended = threading.Event()

    def interrupted(context: grpc.ServicerContext) -> None:
        for number, state in enumerate(("pending", "unknown", "not_attempted", "failed"), start=2):
            world.reservations[0].outcomes.add(attempt=number, offer_id=f"vast-{number}", num_gpus=1, state=state)
        context.add_callback(ended.set)
        _thread.interrupt_main()
        assert ended.wait(300)
        context.abort(grpc.StatusCode.CANCELLED, "")

    world.during_reserve = interrupted
    result = run("reserve", "5", "--request-id", "mine")
    assert result.exit_code == 130, result.stderr
    said = [line.rpartition("GPU: ")[2] for line in result.stderr.splitlines() if line.startswith("#")]
    check = "may still appear; check: gpuproxy show res-1"
    assert said[1:] == [check, check, "not rented", "not rented"]
    assert said[0].endswith("reserved as 7001 for $0.31/h")
    assert "being rented" not in result.stderr


def test_a_dry_run_shows_the_choice_and_rents_nothing(run: Run, world: World) -> None:
    text = run("reserve", "1", "--dry-run").stdout
    assert "free host" in text
    assert "lowest_price: 4 of 9 offers fit (rejected: min_vram 5)" in text
    assert "nothing was rented" in text
    assert world.machines == []


def test_ps_shows_unknowns_first_and_the_total(run: Run, world: World) -> None:
    world.rent(1, status="active")
    world.rent(2, status="unknown")
    lines = run("ps").stdout.splitlines()
    assert [line.split()[1] for line in lines[1:3]] == ["unknown", "active"]
    assert lines[-1].startswith("2 machines, 2 GPUs · $0.62/h = $14.88/day")
    assert lines[-1].endswith("1 with an unknown outcome; the server looks for it")


def test_ps_without_machines_says_that_nothing_is_billed(run: Run) -> None:
    assert run("ps").stdout == "No machine is rented, so nothing is billed.\n"


@pytest.mark.parametrize("name", ["res-1", "mine"])
def test_a_reservation_is_shown_by_its_id_and_by_its_request_id(run: Run, world: World, name: str) -> None:
    world.rent(1, request_id="mine")
    text = run("show", name).stdout
    assert text.startswith("res-1 pending")
    assert "7001" in text


def test_a_machine_is_shown_by_its_contract_id(run: Run, world: World) -> None:
    world.rent(1, status="active")
    assert run("show", "7001").stdout.startswith("7001 active on vast.ai")


def test_showing_what_does_not_exist_is_refused(run: Run) -> None:
    result = run("show", "res-9")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "No such reservation." in result.stderr


def test_extend_sends_an_absolute_time_by_the_servers_clock(run: Run, world: World) -> None:
    world.rent(1)
    assert run("extend", "res-1", "--for", "2h", "--yes").exit_code == 0
    assert run("extend", "res-1", "--until", "2026-02-01T12:00:00Z").exit_code == 0
    assert world.extended == [NOW + timedelta(hours=2), datetime(2026, 2, 1, 12, tzinfo=UTC)]
    assert run("extend", "res-1").exit_code == 2
    assert run("extend", "res-1", "--for", "2h", "--until", "2026-02-01").exit_code == 2


@pytest.mark.parametrize(("machines", "said"), [(1, "Data on it is lost."), (2, "Data on them is lost.")])
def test_the_question_counts_the_machines(run: Run, world: World, machines: int, said: str) -> None:
    for number in range(1, machines + 1):
        world.rent(number)
    assert f"of res-1? {said}" in run("release", "res-1", answer="n\n").stderr
    ids = [f"700{number}" for number in range(1, machines + 1)]
    assert f"? {said}" in run("destroy", *ids, answer="n\n").stderr


def test_release_lists_the_machines_and_asks(run: Run, world: World) -> None:
    world.rent(1)
    refused = run("release", "res-1", answer="n\n")
    assert refused.exit_code == 1
    assert "7001" in refused.stderr
    assert world.reservations[0].state == "pending"
    done = run("release", "res-1", answer="y\n")
    assert done.exit_code == 0
    assert done.stdout.startswith("res-1 releasing")


def test_several_reservations_are_released_after_one_question(run: Run, world: World) -> None:
    world.rent(1)
    other = pb.Reservation(reservation_id="res-2", state="active", price_per_hour=0.5)
    other.instances.add(contract_id="8001", provider="vast.ai", price_per_hour=0.5)
    world.reservations.append(other)
    refused = run("release", "res-1", "res-2", "res-1", answer="n\n")
    assert "Release 2 machines of res-1, res-2? Data on them is lost." in refused.stderr
    assert [each.state for each in world.reservations] == ["pending", "active"]
    done = run("release", "res-1", "res-2", "res-1", answer="y\n")
    assert [line.split(" · ")[0] for line in done.stdout.splitlines()] == ["res-1 releasing", "res-2 releasing"]


def test_nothing_is_released_if_one_of_the_ids_is_unknown(run: Run, world: World) -> None:
    world.rent(1)
    result = run("release", "res-1", "res-9", "--yes")
    assert result.exit_code == 1
    assert world.reservations[0].state == "pending"


@pytest.mark.parametrize("command", [("release", "res-1"), ("destroy", "7001")])
def test_nothing_is_destroyed_without_confirmation(run: Run, world: World, command: tuple[str, ...]) -> None:
    world.rent(1)
    assert run(*command).exit_code == 1
    assert world.destroyed == []
    assert world.reservations[0].state == "pending"
    assert run(*command, "--yes").exit_code == 0


def test_release_counts_machines_with_an_unknown_outcome(run: Run, world: World) -> None:
    world.rent(1)
    world.rent(2, status="unknown")
    result = run("release", "res-1", answer="n\n")
    assert "Release 1 machine and 1 with an unknown outcome of res-1?" in result.stderr


def test_destroy_reports_each_machine_and_fails_if_one_was_refused(run: Run, world: World) -> None:
    world.rent(1)
    world.rent(2)
    result = run("destroy", "7001", "9999", "7002", "--yes")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "7001 releasing · being destroyed",
        "7002 releasing · being destroyed",
        "3 machines: 2 releasing, 1 refused · $0.00 paid so far",
    ]
    assert "9999: No machine 9999." in result.stderr
    assert world.destroyed == [("vast.ai", "7001"), ("vast.ai", "7002")]


@pytest.mark.parametrize(
    "command", [("ps",), ("show", "7001"), ("show", "res-1"), ("release", "res-1"), ("destroy", "7001")]
)
def test_every_price_is_shown_per_hour_day_week_and_month(run: Run, world: World, command: tuple[str, ...]) -> None:
    world.rent(1)
    world.reservations[0].price_per_hour = 0.31
    result = run(*command, answer="n\n")
    assert "$0.31/h = $7.44/day, $52.08/week, $223.20/month (30 d)" in result.stdout + result.stderr


def test_load_shows_hosts_and_providers(run: Run) -> None:
    both = run("load").stdout
    assert "CONTRACT" in both
    assert "strategy least_connections" in both
    assert "CONTRACT" not in run("load", "provider").stdout
    assert run("load", "everything").exit_code == 2


def test_transactions_are_listed_and_completed_ones_are_added_up(run: Run) -> None:
    lines = run("transactions").stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["UNTIL", "now", "2026-06-12"]
    assert lines[-1] == "2 of 9 transactions; $0.400000 in the completed ones listed here"
    assert run("transactions", "--limit", "1").stdout.splitlines()[-1].startswith("1 of 9 transactions; $0.000000")
    assert run("transactions", "--limit", "0").exit_code == 2


def test_the_strategy_is_shown_and_set(run: Run, world: World) -> None:
    expected = "strategy least_connections (project); available: least_connections, lowest_price\n"
    assert run("strategy").stdout == expected
    assert run("strategy", "lowest_price").stdout == "strategy lowest_price (project)\n"
    assert world.strategy == "lowest_price"


def test_a_strategy_for_all_projects_needs_a_name(run: Run) -> None:
    for words in (("--global",), ("--global", "--json")):
        result = run("strategy", *words)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "--global needs NAME" in result.stderr
    assert run("strategy").exit_code == 0


@pytest.mark.parametrize(
    "command", [("list",), ("ps",), ("load",), ("strategy",), ("transactions",), ("show", "res-1"), ("reserve", "1")]
)
def test_json_is_one_document_on_stdout(run: Run, world: World, command: tuple[str, ...]) -> None:
    if command[0] == "show":
        world.rent(1)
    assert isinstance(json.loads(run(*command, "--json").stdout), dict)


def test_serve_explains_a_wrong_setting_and_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(root, ["serve", "--sandbox"], env={"VAST_API_KEY": "x"})
    assert result.exit_code == 2
    assert result.stderr == "VAST_API_KEY is set but GPU Proxy reads VASTAI_API_KEY: not started.\n"
    assert CliRunner().invoke(root, ["serve"]).exit_code == 2


def test_the_help_of_the_sandbox_names_every_control_call_of_the_docs() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text(encoding="utf-8")
    paths = set(re.findall(r"^\| `(?:GET|POST|DELETE) /sandbox/v1/([\w/]+)`", docs, re.MULTILINE))
    text = " ".join(CliRunner().invoke(root, ["sandbox", "--help"]).stdout.split())
    assert "instances/ID/contract" in paths
    assert [path for path in sorted(paths) if path not in text] == []
