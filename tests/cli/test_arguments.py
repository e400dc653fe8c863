"""Arguments that no call can carry are wrong usage, and nothing is done."""

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from google.rpc import code_pb2

from gpuproxy.cli import root
from tests.cli.world import KEY, Run, World, error


def commands(group: click.Group, words: str = "") -> Iterator[tuple[str, click.Command]]:
    """All commands with their names, and those of groups."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        yield f"{words}{name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{words}{name} ")


def test_every_command_has_options_of_different_names_whose_defaults_it_accepts() -> None:
    found = dict(commands(root))
    assert {"limits set", "reserve"} <= found.keys()
    for name, command in found.items():
        context = click.Context(command, info_name=name)
        parameters = command.get_params(context)
        spellings = [each for one in parameters for each in (*one.opts, *one.secondary_opts)]
        assert len(spellings) == len(set(spellings)), f"{name} has an option twice"
        for each in parameters:
            if not each.required:
                each.process_value(context, each.get_default(context))  # raises BadParameter


@pytest.mark.parametrize("blank", ["", " "])
@pytest.mark.parametrize(
    "words",
    [
        ("release", "--yes"),
        ("show",),
        ("extend", "--for", "2h"),
        ("destroy", "--yes", "7001"),
        ("ssh", "--print"),
        ("logs",),
        ("stop",),
        ("start",),
        ("keys", "revoke"),
        ("users", "disable"),
        ("users", "enable"),
        ("users", "password"),
    ],
)
def test_blank_ids_are_wrong_usage(run: Run, world: World, words: tuple[str, ...], blank: str) -> None:
    world.rent(1)
    result = run(*words, blank)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "must not be empty" in result.stderr
    assert (world.reservations[0].state, world.destroyed, world.extended) == ("pending", [], [])


@pytest.mark.parametrize(
    ("command", "option"),
    [
        *(("reserve 1", f"--{name}") for name in (
            "request-id", "provider", "gpu", "location", "strategy", "packing", "exclude-host", "image", "onstart",
            "run-mode", "on-not-ready", "api-key", "server", "ca", "cert", "key",
        )),
        *(("list", f"--{name}") for name in ("provider", "gpu", "location", "order-by", "api-key")),
        ("destroy 7001 --yes", "--provider"),
        ("strategy", "[NAME]"),
    ],
)  # fmt: skip
def test_a_blank_option_is_wrong_usage_but_an_omitted_one_is_not(
    run: Run, world: World, tmp_path: Path, command: str, option: str
) -> None:
    world.rent(1)
    (tmp_path / "gpuproxy.db.admin-key").write_text(KEY)
    words = [*command.split(), *([option] if option.startswith("-") else [])]
    for blank in ("", " "):
        result = run(*words, blank, GPUPROXY_API_KEY="")
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"{option}': must not be empty. Is a shell variable unset?" in result.stderr
    assert (world.requests, world.destroyed) == ([], [])
    assert run("reserve", "1", GPUPROXY_API_KEY="").exit_code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("list", "--num-gpus", "9" * 20), "not in the range"),
        (("reserve", "9" * 14), "not in the range"),
        (("reserve", "1", "--port", "9" * 14), "not in the range"),
        (("reserve", "1", "--min-count", "9" * 14), "not in the range"),
        (("transactions", "--offset", "9" * 14), "not in the range"),
        (("transactions", "--offset", "-1"), "not in the range"),
        (("reserve", "1", "--lease", "9" * 14 + "d"), "more than a hundred years"),
        (("reserve", "1", "--timeout", "9" * 400 + "s"), "more than a hundred years"),
        (("reserve", "1", "--timeout", "0"), "0 must be above 0, for example 90s or 5m"),
        (("reserve", "1", "--timeout", "0s"), "0s must be above 0"),
        (("reserve", "1", "--timeout", "-5s"), "-5s must be above 0"),
        (("reserve", "1", "--timeout=-5"), "-5 must be above 0"),
        (("reserve", "1", "--lease", "-2h"), "-2h must not be negative"),
        (("reserve", "1", "--ready-timeout", "-1m"), "-1m must not be negative"),
        *(((*words.split(), "90"), "90 has no unit: 90s, 90m, 90h or 90d") for words in (
            "reserve 1 --lease", "reserve 1 --for", "reserve 1 --timeout", "reserve 1 --ready-timeout",
        )),
        (("extend", "res-1", "--for", "1000000d"), "more than a hundred years"),
        (("show", "\udcff"), "is not valid UTF-8"),
        (("reserve", "1", "--label", "a=\udcff"), "is not valid UTF-8"),
        (("backup", "\udcff"), "is not valid UTF-8"),
    ],
)  # fmt: skip
def test_values_that_no_call_can_carry_are_wrong_usage(
    run: Run, world: World, words: tuple[str, ...], said: str
) -> None:
    world.rent(1)
    result = run(*words)
    assert (result.exit_code, result.stdout, world.requests) == (2, "", [])
    assert said in result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("reserve 0", "0 is not in the range 1<=x<=16"),
        ("reserve 17", "17 is not in the range 1<=x<=16"),
        ("reserve 2 --port 0", "0 is not in the range 1<=x<=65535"),
        ("reserve 2 --port 65536", "65536 is not in the range 1<=x<=65535"),
        ("reserve 2 --packing tight", "'tight' is not one of 'any', 'single', 'spread', 'pack', 'single_host'"),
        ("reserve 2 --run-mode docker", "'docker' is not one of 'ssh', 'entrypoint', 'jupyter'"),
        ("reserve 2 --on-not-ready wait", "'wait' is not one of 'replace', 'release', 'keep'"),
        ("reserve 2 --disk 7", "7.0 is not in the range 8<=x<=65536"),
        ("reserve 2 --disk nan", "'nan' is not a finite number"),
        ("reserve 2 --min-count 0", "0 is not in the range 1<=x<=16"),
        ("reserve 2 --min-count 3", "3 is more than COUNT, 2"),
        ("reserve 2 --min-reliability 1.1", "1.1 is not in the range 0<=x<=1"),
        ("reserve 2 --min-reliability -0.1", "-0.1 is not in the range 0<=x<=1"),
        ("reserve 2 --min-ram x", "'x' is not a number"),
        ("list --disk 65537", "65537.0 is not in the range 8<=x<=65536"),
        ("list --min-reliability 95", "95.0 is not in the range 0<=x<=1"),
        ("list --min-inet-up -1", "-1.0 is not in the range x>=0"),
        ("reservations --state running", "'running' is not one of 'pending', 'starting', 'active', 'partial',"),
    ],
)
def test_a_value_outside_of_the_range_in_the_help_is_wrong_usage_before_any_call(
    run: Run, world: World, words: str, said: str
) -> None:
    result = run(*words.split())
    assert (result.exit_code, result.stdout, world.requests, world.listed, world.polls) == (2, "", [], [], [])
    assert said in " ".join(result.stderr.split())
    assert "request id" not in result.stderr


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        ("16", "count", 16),
        ("2 --port 1 --port 65535", "ports", [1, 65535]),
        ("2 --packing SINGLE-host", "packing", "single_host"),
        ("2 --run-mode Entrypoint", "run_mode", "entrypoint"),
        ("2 --on-not-ready KEEP", "on_not_ready", "keep"),
        ("2 --disk 0", "disk_gb", 0),
        ("2 --disk 8", "disk_gb", 8),
        ("2 --min-count 2", "min_count", 2),
        ("2 --min-reliability 1", "min_reliability", 1),
    ],
)
def test_the_limits_of_a_range_and_words_in_any_case_are_sent(
    run: Run, world: World, words: str, field: str, value: object
) -> None:
    assert run("reserve", *words.split()).exit_code == 0
    assert getattr(world.requests[0], field) == value


def test_a_state_in_any_case_is_sent(run: Run, world: World) -> None:
    world.rent(1)
    assert "res-1" in run("reservations", "--state", "PENDING").stdout


def test_zero_needs_no_unit_and_means_the_default(run: Run, world: World) -> None:
    assert run("reserve", "1", "--lease", "0", "--ready-timeout", "0").exit_code == 0
    assert not world.requests[0].HasField("lease_duration")
    assert not world.requests[0].HasField("ready_timeout")


def test_a_key_file_that_is_not_text_is_named_in_the_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"\xff\xfe")
    result = run("reserve", "1", "--ssh-key", "key")
    assert (result.exit_code, "--ssh-key key: not a public key" in result.stderr) == (2, True)


def test_a_broken_env_file_ends_a_command_before_it_calls_a_server(run: Run, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text('GPUPROXY_SERVER="gpus:9090\n')
    for words in (("ps",), ("serve", "--sandbox"), ("doctor",)):
        result = run(*words)
        assert (result.exit_code, ".env: line 1 is not NAME=VALUE" in result.stderr) == (2, True)


def test_a_key_that_no_call_can_carry_is_refused(run: Run) -> None:
    result = run("ps", "--api-key", "kéy")
    assert (result.exit_code, "--api-key: the key must contain only ASCII letters, digits and _" in result.stderr) == (
        2,
        True,
    )


def test_a_refused_rental_does_not_suggest_show(run: Run, world: World) -> None:
    world.refuse_with = error(code_pb2.UNAVAILABLE, "Too many unknowns. Nothing was rented.", "STORM_BREAKER")
    said = run("reserve", "1", "--request-id", "train-7").stderr
    assert "Nothing was rented." in said
    assert "gpuproxy show" not in said


def test_after_an_error_with_existing_machines_show_is_suggested(run: Run, world: World) -> None:
    world.rent(1, request_id="train-7")
    world.refuse_with = error(code_pb2.UNAVAILABLE, "The books can't be written.", "DATABASE")
    result = run("reserve", "1", "--request-id", "train-7")
    assert "Machines may exist. To list them: gpuproxy show train-7" in result.stderr


def test_the_name_of_a_file_is_no_script(run: Run, world: World, tmp_path: Path) -> None:
    script = tmp_path / "on.sh"
    script.write_text("echo hello\n")
    result = run("reserve", "1", "--onstart", str(script))
    assert (result.exit_code, world.reservations) == (2, [])
    assert f'"$(cat {script})"' in result.stderr


def test_an_offer_can_not_be_destroyed_and_nobody_is_asked(run: Run, world: World) -> None:
    result = run("destroy", "vast-123")
    assert (result.exit_code, world.destroyed) == (2, [])
    assert "vast-123 is an offer, not a rented machine" in result.stderr
    assert "Destroy 1 machine?" not in result.stderr + result.stdout
