import re

import pytest

from gpuproxy.model.labels import MAX_ATTEMPTS, Signer

OURS = Signer("abc234", b"k" * 32)


def test_a_label_has_deployment_slot_and_attempt_in_few_plain_characters() -> None:
    label = OURS.label("slotslot", 37)
    assert re.fullmatch(r"gpx-abc234-slotslot-11-[a-z2-7]{6}", label)
    assert len(label) == 29
    assert OURS.is_ours(label)


def test_labels_of_attempts_and_slots_differ() -> None:
    labels = {OURS.label(slot, attempt) for slot in ("slotslot", "slotslou") for attempt in range(1, MAX_ATTEMPTS + 1)}
    assert len(labels) == 2 * MAX_ATTEMPTS == 2 * 1295


@pytest.mark.parametrize("attempt", [0, -1, MAX_ATTEMPTS + 1])
def test_an_attempt_number_over_two_characters_is_refused(attempt: int) -> None:
    with pytest.raises(ValueError, match="attempt"):
        OURS.label("slotslot", attempt)


@pytest.mark.parametrize("slot", ["short", "SLOTSLOT", "slot-lot", "slot0001"])
def test_a_label_that_would_not_be_recognised_is_never_created(slot: str) -> None:
    with pytest.raises(ValueError, match="label"):
        OURS.label(slot, 1)


def test_a_changed_label_is_not_ours() -> None:
    label = OURS.label("slotslot", 1)
    for at, letter in enumerate(label):
        other = "b" if letter != "b" else "c"
        assert not OURS.is_ours(label[:at] + other + label[at + 1 :])


@pytest.mark.parametrize("label", [None, "", "gpx-abc234", "somebody else's", "gpx-abc234-slotslot-01-aaaaaa\n"])
def test_foreign_labels_are_not_ours(label: str | None) -> None:
    assert not OURS.is_ours(label)


def test_labels_of_another_deployment_or_key_are_not_ours() -> None:
    assert not OURS.is_ours(Signer("abc235", b"k" * 32).label("slotslot", 1))
    assert not OURS.is_ours(Signer("abc234", b"x" * 32).label("slotslot", 1))


def test_the_key_is_never_printed() -> None:
    assert "kkk" not in repr(OURS)
