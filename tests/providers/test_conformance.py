"""vast.ai's adapter keeps every rule of the conformance suite, and the suite detects each planted violation."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gpuproxy.conformance import RULES, Result, check, check_all
from gpuproxy.ports import Provider, ProviderSetup
from gpuproxy.providers.vast import DESCRIPTOR
from tests.providers import prepaid_violations
from tests.providers.conformance_subject import subject
from tests.providers.violations import VIOLATIONS, Planted
from tests.virtual_time import VirtualClock, run_virtual

pytestmark = pytest.mark.long


def judged(name: str, connect: Callable[[ProviderSetup], Provider] = DESCRIPTOR.connect, **facts: Any) -> Result:
    async def story(clock: VirtualClock) -> Result:
        descriptor = replace(DESCRIPTOR, connect=connect)
        return await check(name, lambda: replace(subject(clock), descriptor=descriptor, **facts))

    return run_virtual(story)


@pytest.mark.parametrize("name", RULES)
def test_the_adapter_keeps_the_contract(name: str) -> None:
    result = judged(name)
    assert result.outcome == "kept", result.why


def test_every_rule_has_a_docstring() -> None:
    assert all((rule.__doc__ or "").strip() for rule in RULES.values())


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("a_known_refusal_of_a_create_has_its_own_error", {"refusals": ()}),
        ("an_error_with_an_instance_id_is_a_created_instance", {"error_with_id": None}),
        ("an_unreadable_row_is_named_and_hides_no_other", {"spoil_row": None}),
        ("a_listing_without_end_is_an_error", {"machines_for_pages": 1}),
    ],
)
def test_a_rule_without_its_requirements_is_not_judged(name: str, facts: dict[str, Any]) -> None:
    assert judged(name, **facts).outcome == "not judged"


def test_an_adapter_that_can_do_nothing_breaks_rules_with_a_reason() -> None:
    async def story(clock: VirtualClock) -> tuple[Result, ...]:
        return await check_all(lambda: replace(subject(clock), key="wrong-key"))

    results = run_virtual(story)
    assert len(results) == len(RULES)
    broken = {result.rule: result.why for result in results if result.outcome == "broken"}
    assert "raised AuthFailed" in broken["a_failed_page_of_a_listing_is_an_error"]


def test_each_rule_has_a_planted_violation() -> None:
    assert sorted([*VIOLATIONS.values(), *prepaid_violations.VIOLATIONS.values()]) == sorted(RULES)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("planted", VIOLATIONS, ids=lambda planted: planted.__name__)
def test_a_planted_violation_breaks_exactly_its_rule(planted: type[Planted]) -> None:
    async def story(clock: VirtualClock) -> tuple[Result, ...]:
        descriptor = replace(DESCRIPTOR, connect=planted)
        return await check_all(lambda: replace(subject(clock), descriptor=descriptor))

    broken = [result.rule for result in run_virtual(story) if result.outcome != "kept"]
    assert broken == [VIOLATIONS[planted]]
