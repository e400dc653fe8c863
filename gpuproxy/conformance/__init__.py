"""The test suite for adapters of marketplaces: it checks whether an adapter keeps the contract of `ports.Provider`.

The author provides a Subject: the adapter's descriptor, a stand-in of the marketplace behind the Http port, and facts
about the marketplace's answers. The suite sends the adapter's requests to the stand-in, injects faults into requests
and answers, and checks the adapter's results. With pytest:

    @pytest.mark.parametrize("name", RULES)
    def test_the_adapter_keeps_the_contract(name: str) -> None:
        result = asyncio.run(check(name, my_subject))  # my_subject() creates a new Subject
        assert result.outcome == "kept", result.why

Each rule is a function whose docstring describes the rule. The suite does not need pytest. Of the program it imports
only `ports` and `model`.
"""

from collections.abc import Awaitable, Callable, Mapping

from gpuproxy.conformance import adapter_rules, create_rules, prepaid_rules, read_rules, volume_rules
from gpuproxy.conformance.bench import QuickClock
from gpuproxy.conformance.subject import KnownRefusal, Make, PrepaidFacts, Subject, VolumeFacts
from gpuproxy.conformance.verdict import Broken, NotJudged, Result
from gpuproxy.model.errors import ProviderError

__all__ = [
    "RULES",
    "KnownRefusal",
    "Make",
    "PrepaidFacts",
    "QuickClock",
    "Result",
    "Rule",
    "Subject",
    "VolumeFacts",
    "check",
    "check_all",
]

Rule = Callable[[Make], Awaitable[None]]
"""Returns if the rule is kept. Raises Broken or NotJudged."""
_ALL: tuple[Rule, ...] = (
    create_rules.a_create_is_sent_at_most_once,
    create_rules.a_lost_answer_to_a_create_is_an_unknown_outcome,
    create_rules.a_refusal_is_claimed_only_where_nothing_was_executed,
    create_rules.a_known_refusal_of_a_create_has_its_own_error,
    create_rules.an_error_with_an_instance_id_is_a_created_instance,
    create_rules.the_label_is_on_the_machine_from_birth,
    read_rules.a_listing_is_everything_of_the_account,
    read_rules.a_failed_page_of_a_listing_is_an_error,
    read_rules.a_listing_of_another_schema_is_an_error,
    read_rules.a_listing_without_end_is_an_error,
    read_rules.an_unreadable_row_is_named_and_hides_no_other,
    read_rules.a_missing_instance_is_none,
    read_rules.a_failed_read_of_an_instance_is_an_error,
    read_rules.a_destroy_returns_when_accepted_and_says_what_is_gone,
    read_rules.a_failed_destroy_is_an_error,
    read_rules.a_search_shows_the_cheapest_first,
    read_rules.a_failed_page_of_a_search_is_an_error,
    read_rules.a_search_of_another_schema_is_an_error,
    prepaid_rules.a_booking_has_the_hours_that_are_set,
    prepaid_rules.a_create_above_its_price_is_not_sent,
    prepaid_rules.an_extension_moves_the_end_by_its_hours,
    prepaid_rules.an_extension_is_bought_at_most_once_and_in_doubt_unknown,
    prepaid_rules.a_machine_whose_booking_is_over_is_gone,
    volume_rules.a_volume_is_created_at_most_once_and_in_doubt_unknown,
    volume_rules.an_error_with_a_volume_id_is_a_created_volume,
    volume_rules.a_listing_of_volumes_is_everything_with_its_labels,
    volume_rules.a_failed_listing_of_volumes_is_an_error,
    volume_rules.a_failed_search_for_volumes_is_an_error,
    volume_rules.a_deletion_of_a_volume_says_what_is_gone,
    volume_rules.a_volume_that_a_machine_has_is_in_use,
    adapter_rules.a_missing_capability_has_a_reason,
    adapter_rules.a_launch_is_checked_without_a_call_and_always_the_same,
    adapter_rules.an_adapter_and_its_offers_have_the_names_of_the_descriptor,
    adapter_rules.no_error_tells_a_secret,
    adapter_rules.every_call_ends,
    adapter_rules.what_is_set_for_creates_is_declared,
    adapter_rules.reads_and_destroys_keep_their_intervals,
)
RULES: Mapping[str, Rule] = {rule.__name__: rule for rule in _ALL}
"""Every rule by its name. Its docstring describes it."""


async def check(name: str, make: Make) -> Result:
    """Check one rule, on new subjects. Raises the errors of `make`, and KeyError for an unknown rule."""
    try:
        await RULES[name](make)
    except Broken as broken:
        return Result(rule=name, outcome="broken", why=str(broken))
    except ProviderError as error:
        why = f"a call that nothing disturbs raised {type(error).__name__}: {error}"
        return Result(rule=name, outcome="broken", why=why)
    except NotJudged as reason:
        return Result(rule=name, outcome="not judged", why=str(reason))
    return Result(rule=name, outcome="kept")


async def check_all(make: Make) -> tuple[Result, ...]:
    """Check every rule."""
    return tuple([await check(name, make) for name in RULES])
