"""An id of another kind than a call takes is recognised by its beginning; a contract id may begin in any way."""

import pytest

from gpuproxy.identity.key_rings import PREFIX
from gpuproxy.model.ids import API_KEY, hint, is_offer, is_secret

PREFIXES = {"vast": "vast.ai"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("res-1", "This is a reservation id: GetReservation takes it"),
        ("lease-1-01", "This is a lease id: ListGPUInstances"),
        ("key-1", "This is the id of an API key: RevokeAPIKey takes it."),
        ("ssh-1", "This is the id of an SSH key: DeleteSSHKey takes it."),
        ("user-1", "This is the id of a user: no call takes it."),
        ("vast-1", "This is the id of an offer: CreateGPUInstance takes it."),
    ],
)
def test_a_hint_says_what_an_id_is_and_which_call_takes_it(text: str, said: str) -> None:
    assert hint(text, offer_prefixes=PREFIXES).startswith(said)


@pytest.mark.parametrize("text", ["27000000", "reserve-1", "8f14e45f-ceea", "moon-1", ""])
def test_other_ids_get_no_hint(text: str) -> None:
    assert hint(text, offer_prefixes=PREFIXES) == ""
    assert not is_offer(text, PREFIXES)


def test_an_id_of_the_expected_kind_gets_no_hint() -> None:
    assert hint("key-1", expected="key-") == ""
    assert hint("ssh-1", expected="key-")


def test_an_api_key_is_recognised_and_not_quoted() -> None:
    assert API_KEY == PREFIX
    assert is_secret(f"{PREFIX}abc")
    assert "abc" not in hint(f"{PREFIX}abc")
    assert not is_secret("key-abc")
