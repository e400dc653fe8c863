"""What the command line prints of the server's texts names commands, and no calls."""

import json
from collections.abc import Mapping

import click
import pytest
from google.rpc import code_pb2

from gpuproxy.cli import root
from gpuproxy.cli.wording import COMMANDS, in_commands
from gpuproxy.v1 import gpuproxy_pb2 as pb
from gpuproxy.warmpool import hints
from tests.cli.world import Run, World, error

CALLS = frozenset(pb.DESCRIPTOR.services_by_name["GPUProxyService"].methods_by_name)


@pytest.mark.parametrize("call", COMMANDS)
def test_each_call_of_the_table_exists_and_so_does_its_command(call: str) -> None:
    assert call.partition(" ")[0] in CALLS
    command: click.Command | None = root
    for word in COMMANDS[call].split():
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), word)
    assert command is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Call DisableWarmPool first.", "Run `gpuproxy warmpool disable` first."),
        ("ListGPUInstances with `state: rented` lists yours.", "`gpuproxy ps` lists yours."),
        ("ListWarmPoolHosts with min_gpus 2", "`gpuproxy warmpool hosts` --min-gpus 2"),
        ("DisableWarmPools and MyListProviders stay", "DisableWarmPools and MyListProviders stay"),
        ("There is no pool. Provision one first.", "There is no pool. To create one: gpuproxy warmpool provision"),
    ],
)
def test_a_call_becomes_its_command(text: str, said: str) -> None:
    assert in_commands(text) == said
    assert in_commands(said) == said


def test_a_refusal_names_commands_and_as_json_the_calls(run: Run, world: World) -> None:
    text = "It belongs to a warm pool. Call DisableWarmPool first; CleanupWarmPool releases everything."
    world.refuse_with = error(code_pb2.FAILED_PRECONDITION, text, "IN_WARM_POOL")
    said = run("reserve", "1").stderr
    assert "Run `gpuproxy warmpool disable` first; `gpuproxy warmpool cleanup` releases everything." in said
    refused = json.loads(run("reserve", "1", "--json").stderr.splitlines()[-1])
    assert refused["error"]["message"] == text


def test_no_hint_of_a_pool_names_a_call() -> None:
    texts = [text for value in vars(hints).values() if isinstance(value, Mapping) for text in value.values()]
    assert sum("ProvisionWarmPool" in str(text) for text in texts) > 1
    assert not [text for text in texts if any(call in in_commands(str(text)) for call in CALLS - {"HealthCheck"})]


@pytest.mark.parametrize("command", ["show", "ssh"])
def test_an_id_that_is_neither_a_machine_nor_a_reservation_is_said_to_be_neither(run: Run, command: str) -> None:
    result = run(command, "123")
    assert result.exit_code == 1
    assert result.stderr.startswith("There is no machine and no reservation 123.\n")


def test_an_unknown_key_is_not_said_to_be_a_key(run: Run) -> None:
    run("keys", "create", "ci")
    said = run("keys", "revoke", "key-nope").stderr
    assert "There is no API key key-nope. To list the keys: gpuproxy keys list" in said
    assert "`gpuproxy show` takes it" in run("keys", "revoke", "res-1").stderr
