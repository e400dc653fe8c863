"""What a marketplace or a host wrote can't control the terminal of whoever lists it."""

import json

import pytest

from gpuproxy.cli.printable import printable
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.cli.world import Run, World

EVIL = "\x1b]0;owned\x07US\x1b[2J\u202eEVIL\x9b1m"


def rented(world: World) -> None:
    world.machines.append(
        pb.GPUInstance(
            id="7001", contract_id="7001", provider="vast.ai", status="active", gpu_model=f"RTX {EVIL}", num_gpus=1,
            location=EVIL, host_id=EVIL, status_message=f"pulling\r\nFAKE LINE {EVIL}", warnings=[EVIL],
            metadata={"contract_id": "7001", "supplier": EVIL}, boot_parts={"keys": EVIL},
        )
    )  # fmt: skip


@pytest.mark.parametrize("words", [("ps",), ("show", "7001")])
def test_no_command_prints_control_characters_of_a_marketplace(run: Run, world: World, words: tuple[str, ...]) -> None:
    rented(world)
    shown = run(*words)
    assert shown.exit_code == 0
    assert "7001" in shown.stdout
    assert all(each.isprintable() or each == "\n" for each in shown.output), ascii(shown.output)


def test_json_has_every_text_as_it_is(run: Run, world: World) -> None:
    """The twin: a program gets what the server said."""
    rented(world)
    assert EVIL in [each["location"] for each in json.loads(run("ps", "--json").stdout)["instances"]]


def test_a_log_is_printed_as_it_is(run: Run, world: World) -> None:
    rented(world)
    world.log = ["100 %\x07"]
    assert "100 %\x07" in run("logs", "7001").stdout


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Łódź, PL 東京", "Łódź, PL 東京"),
        ("a\u00a0b", "a b"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x00", "�"),
    ],
)
def test_what_is_printable_stays(text: str, shown: str) -> None:
    assert printable(text) == shown
