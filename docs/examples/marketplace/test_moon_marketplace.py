"""The adapter keeps the contract: one test for each rule of the conformance suite."""

import asyncio

import pytest
from moon_stand_in import subject

from gpuproxy.conformance import RULES, check


@pytest.mark.parametrize("name", RULES)
def test_the_adapter_keeps_the_contract(name: str) -> None:
    """`result.why` says what the adapter did; the rule's docstring says why it matters."""
    result = asyncio.run(check(name, subject))
    assert result.outcome == "kept", result.why
