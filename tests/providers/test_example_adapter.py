"""The example adapter keeps the contract, on a stand-in without its own clock."""

import asyncio

import pytest

from gpuproxy.conformance import RULES, check, check_all
from tests.moon import subject


@pytest.mark.parametrize("name", RULES)
def test_the_example_keeps_the_contract(name: str) -> None:
    result = asyncio.run(check(name, subject))
    assert result.outcome == "kept", result.why


def test_the_suite_returns_one_result_for_each_rule() -> None:
    results = asyncio.run(check_all(subject))
    assert [result.rule for result in results] == list(RULES)
