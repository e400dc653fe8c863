import re
from datetime import UTC, datetime, timedelta

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


def test_a_label_with_an_end_is_ours_and_gives_the_plain_label() -> None:
    plain = OURS.label("slotslot", 1)
    for verb in ("d", "s"):
        label = OURS.with_end(plain, datetime(2026, 6, 12, 12, tzinfo=UTC), verb)  # type: ignore[arg-type]
        assert re.fullmatch(r"gpx-abc234-slotslot-01-[a-z2-7]{6}\.e[0-9a-z]{6}\.[ds]\.[a-z2-7]{8}", label)
        assert (OURS.is_ours(label), OURS.without_end(label), OURS.without_end(plain)) == (True, plain, plain)


def test_the_second_signature_covers_the_whole_label() -> None:
    label = OURS.with_end(OURS.label("slotslot", 1), datetime(2026, 6, 12, 12, tzinfo=UTC), "d")
    other = OURS.with_end(OURS.label("slotslot", 2), datetime(2026, 6, 12, 12, tzinfo=UTC), "d")
    assert not OURS.is_ours(label.replace(".d.", ".s."))
    assert not OURS.is_ours(OURS.label("slotslot", 1) + other[other.index(".") :])
    for at in range(len(label)):
        for new in "ax.":
            assert label[at] == new or not OURS.is_ours(label[:at] + new + label[at + 1 :])
    for text in (f"{label}x", f"{label}.d", label.upper(), f"{label}\n", f"{label[:-1]}\n"):
        assert OURS.without_end(text) is None


def test_a_label_whose_end_is_cut_is_ours_as_long_as_its_own_signature_is_complete() -> None:
    plain = OURS.label("slotslot", 1)
    label = OURS.with_end(plain, datetime(2026, 6, 12, 12, tzinfo=UTC), "d")
    for size in range(len(label)):
        assert OURS.without_end(label[:size]) == (plain if size >= len(plain) else None)
    for text in (f"{plain}x", f"{plain}-copy", f"{plain}. ", f"{plain}.x", f"{plain}.e.x"):
        assert OURS.without_end(text) is None


def test_an_end_is_rounded_up_to_a_second_and_never_before_1970() -> None:
    at, label = datetime(2026, 6, 12, 12, tzinfo=UTC), OURS.label("slotslot", 1)
    half = timedelta(seconds=0.5)
    assert OURS.with_end(label, at - half, "d") == OURS.with_end(label, at, "d") != OURS.with_end(label, at + half, "d")
    with pytest.raises(ValueError, match="1970"):
        OURS.with_end(label, datetime(1969, 12, 31, tzinfo=UTC), "d")
