"""io.net's adapter keeps every rule of the conformance suite, and the rules about bookings detect their violations."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gpuproxy.conformance import RULES, Result, check, check_all
from gpuproxy.ports import Provider, ProviderSetup
from gpuproxy.providers.ionet import DESCRIPTOR
from tests.providers.ionet_subject import subject
from tests.providers.prepaid_violations import VIOLATIONS
from tests.virtual_time import VirtualClock, run_virtual

pytestmark = pytest.mark.long


def judged(name: str, connect: Callable[[ProviderSetup], Provider] = DESCRIPTOR.connect, **facts: Any) -> Result:
    async def story(clock: VirtualClock) -> Result:
        descriptor = replace(DESCRIPTOR, connect=connect)
        return await check(name, lambda: replace(subject(clock, **facts), descriptor=descriptor))

    return run_virtual(story)


@pytest.mark.parametrize("name", RULES)
def test_the_adapter_keeps_the_contract(name: str) -> None:
    result = judged(name)
    assert result.outcome == "kept", result.why


@pytest.mark.parametrize(
    "name", [name for name in RULES if "create" in name or "label" in name or "booking" in name or "missing" in name]
)
@pytest.mark.parametrize("facts", [{"deploy_body": "id"}, {"lag": 3.0}])
def test_the_adapter_keeps_the_contract_however_a_deploy_is_answered(name: str, facts: dict[str, Any]) -> None:
    result = judged(name, **facts)
    assert result.outcome == "kept", result.why


@pytest.mark.sampled(2)
@pytest.mark.parametrize("planted", VIOLATIONS, ids=lambda planted: planted.__name__)
def test_a_planted_violation_breaks_exactly_its_rule(planted: Any) -> None:
    async def story(clock: VirtualClock) -> tuple[Result, ...]:
        descriptor = replace(DESCRIPTOR, connect=planted)
        return await check_all(lambda: replace(subject(clock), descriptor=descriptor))

    broken = [result.rule for result in run_virtual(story) if result.outcome != "kept"]
    assert broken == [VIOLATIONS[planted]]
