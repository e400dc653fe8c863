"""docs/sandbox.md names all faults, control calls and options."""

from pathlib import Path
from typing import get_args

import click
import pytest

from gpuproxy.cli.sandbox import sandbox
from gpuproxy.sandbox.dialects.ionet.faults import CATALOGUE as IONET
from gpuproxy.sandbox.dialects.vast.faults import CATALOGUE as VAST
from gpuproxy.sandbox.market.defects import WAYS_TO_BREAK
from gpuproxy.sandbox.options import GoneForm

TEXT = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text(encoding="utf-8")
CALLS = VAST.calls | IONET.calls
FAULTS = {**VAST.faults, **IONET.faults}
WORDS = {word for each in (VAST, IONET) for words in each.choices.values() for word in words}


@pytest.mark.parametrize("name", sorted({*FAULTS, *CALLS, *WORDS, *WAYS_TO_BREAK, *get_args(GoneForm)}))
def test_every_fault_call_and_word_is_in_the_document(name: str) -> None:
    assert name in TEXT


def test_an_unknown_fault_is_not_in_the_document() -> None:
    assert "half_a_fault" not in TEXT


_OPTIONS = [
    "--shy-rows", "--shy-seconds", "--search-page", "--gone-as", "--list-lag",
    "--one-address", "--portless", "--refresh-keys", "--ionet-lag",
]  # fmt: skip


@pytest.mark.parametrize("option", _OPTIONS)
def test_every_option_for_an_easier_market_is_documented_with_its_default(option: str) -> None:
    [found] = [one for one in sandbox.params if isinstance(one, click.Option) and option in one.opts]
    [row] = [line for line in TEXT.splitlines() if line.startswith(f"| `{option} ")]
    default = f"{found.default:g}" if isinstance(found.default, float) else str(found.default)
    assert row.split("|")[2].strip(" `") == default
