"""Every installed marketplace that the sandbox speaks is judged by the conformance suite, over the sandbox."""

import pytest

from gpuproxy.app.marketplaces import in_sandbox, installed
from gpuproxy.conformance import RULES, Result, check
from tests.providers.conformance_subject import SUBJECTS
from tests.virtual_time import VirtualClock, run_virtual

pytestmark = pytest.mark.long

SPOKEN = {each.name: each for each in in_sandbox(installed())}


def test_every_marketplace_that_the_sandbox_speaks_has_a_subject() -> None:
    """A new entry point with a dialect needs one line in SUBJECTS, and no other change here."""
    assert set(SUBJECTS) == set(SPOKEN)


@pytest.mark.parametrize("name", sorted(SPOKEN))
@pytest.mark.parametrize("rule", RULES)
def test_an_entry_point_keeps_the_contract(name: str, rule: str) -> None:
    async def story(clock: VirtualClock) -> Result:
        def make():  # type: ignore[no-untyped-def]
            made = SUBJECTS[name](clock)
            assert made.descriptor is SPOKEN[name]
            return made

        return await check(rule, make)

    result = run_virtual(story)
    assert result.outcome in ("kept", "not judged"), result.why
    assert result.outcome == "kept" or name not in FULLY_JUDGED, result.why


FULLY_JUDGED = frozenset({"vast.ai"})
"""Marketplaces with every feature that a rule needs, so that no rule may remain unjudged."""
