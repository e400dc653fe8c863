"""Every installed marketplace that the sandbox speaks is judged by the conformance suite, over the sandbox."""

from collections.abc import Callable, Mapping

import pytest

from gpuproxy.app.marketplaces import in_sandbox, installed
from gpuproxy.conformance import RULES, Result, Subject, check
from gpuproxy.ports import Clock
from tests.providers import conformance_subject, ionet_subject
from tests.virtual_time import VirtualClock, run_virtual

pytestmark = pytest.mark.long

SUBJECTS: Mapping[str, Callable[[Clock], Subject]] = {
    "vast.ai": conformance_subject.subject,
    "io.net": ionet_subject.subject,
}
SPOKEN = {each.name: each for each in in_sandbox(installed())}


def test_every_marketplace_that_the_sandbox_speaks_has_a_subject() -> None:
    """A new entry point with a dialect needs one line in SUBJECTS, and no other change here."""
    assert set(SUBJECTS) == set(SPOKEN)


@pytest.mark.parametrize("name", sorted(SPOKEN))
@pytest.mark.parametrize("rule", RULES)
def test_an_entry_point_keeps_the_contract(name: str, rule: str) -> None:
    async def story(clock: VirtualClock) -> Result:
        def make() -> Subject:
            made = SUBJECTS[name](clock)
            assert made.descriptor is SPOKEN[name]
            return made

        return await check(rule, make)

    result = run_virtual(story)
    assert result.outcome in ("kept", "not judged"), result.why
