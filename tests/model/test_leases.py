import pytest

from gpuproxy.model.errors import IllegalTransition
from gpuproxy.model.leases import (
    KEEPABLE,
    LIVE,
    LOCKS_KEYS,
    RENTED,
    TERMINAL,
    TRANSITIONS,
    LeaseEvent,
    LeaseState,
    after,
    status_word,
)

TABLE = """
requested | created starting, refused failed, not_attempted failed, reply_lost unknown, deferred requested, \
found starting, release releasing
unknown | created starting, found starting, absent failed, release releasing
starting | ready active, parked parked, release releasing, vanished lost, ended released
active | faltered starting, parked parked, release releasing, vanished lost, ended released
parked | woken starting, release releasing, vanished lost, ended released
releasing | created releasing, found releasing, reply_lost releasing, refused released, not_attempted released, \
absent released, gone released
released | reappeared releasing
failed | reappeared releasing
lost | reappeared releasing
"""


def test_the_state_table_is_the_agreed_one() -> None:
    rows = [line.split(" | ") for line in TABLE.strip().splitlines()]
    agreed = {state: dict(pair.split() for pair in cells.split(", ")) for state, cells in rows}
    built = {state.value: {e.value: s.value for e, s in row.items()} for state, row in TRANSITIONS.items()}
    assert built == agreed


def test_an_event_that_is_not_in_the_table_is_an_error() -> None:
    legal = {(state, event) for state, row in TRANSITIONS.items() for event in row}
    for state in LeaseState:
        for event in LeaseEvent:
            if (state, event) in legal:
                assert after(state, event) is TRANSITIONS[state][event]
            else:
                with pytest.raises(IllegalTransition):
                    after(state, event)


def test_a_missing_answer_is_no_event_and_an_unknown_lease_ends_only_by_evidence() -> None:
    assert set(TRANSITIONS[LeaseState.UNKNOWN]) == {
        LeaseEvent.CREATED,
        LeaseEvent.FOUND,
        LeaseEvent.ABSENT,
        LeaseEvent.RELEASE,
    }


def test_every_live_state_can_be_released_and_every_terminal_one_can_reappear() -> None:
    for state in LIVE - {LeaseState.RELEASING}:
        assert TRANSITIONS[state][LeaseEvent.RELEASE] is LeaseState.RELEASING
    for state in TERMINAL:
        assert TRANSITIONS[state] == {LeaseEvent.REAPPEARED: LeaseState.RELEASING}


def test_the_groups_of_states_are_consistent() -> None:
    assert LOCKS_KEYS < KEEPABLE < LIVE
    assert RENTED < LIVE
    assert LIVE.isdisjoint(TERMINAL)
    assert set(LeaseState) == LIVE | TERMINAL


def test_clients_see_the_words_of_the_contract() -> None:
    words = {state.value: status_word(state) for state in LeaseState}
    assert words == {
        "requested": "unknown",
        "unknown": "unknown",
        "starting": "starting",
        "active": "active",
        "parked": "stopped",
        "releasing": "releasing",
        "released": "released",
        "failed": "failed",
        "lost": "lost",
    }
