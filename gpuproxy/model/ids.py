"""The kinds of ids, by their beginnings: for a refusal of an id of another kind than the call takes. Pure.

A contract id is the marketplace's own, so it may begin in any way. A hint therefore never replaces a look-up.
"""

from collections.abc import Mapping

_LIST = "ListGPUInstances with `state: rented` shows the instance with this lease_id, and its contract_id"
_KINDS: Mapping[str, tuple[str, str]] = {
    "res-": ("a reservation id", "GetReservation takes it and shows the reservation's instances"),
    "lease-": ("a lease id", _LIST),
    "key-": ("the id of an API key", "RevokeAPIKey takes it"),
    "ssh-": ("the id of an SSH key", "DeleteSSHKey takes it"),
    "user-": ("the id of a user", "no call takes it"),
}
API_KEY = "gpx_"
"""The beginning of a generated API key. Such a text is a secret and is not quoted."""


def hint(text: str, *, expected: str = "", offer_prefixes: Mapping[str, str] | None = None) -> str:
    """A sentence that says what this id is and which call takes it: `This is a reservation id: GetReservation ...`.

    "" if its beginning says nothing, or if it begins as ids of the `expected` kind do. `offer_prefixes`: the
    marketplaces by the prefix of their offers' ids.
    """
    if is_secret(text):
        return "This is an API key and no id; it belongs in the metadata only. ListAPIKeys shows the ids of keys."
    if is_offer(text, offer_prefixes or {}):
        return "This is the id of an offer: CreateGPUInstance takes it."
    for beginning, (kind, use) in _KINDS.items():
        if text.startswith(beginning) and beginning != expected:
            return f"This is {kind}: {use}."
    return ""


def is_secret(text: str) -> bool:
    """Whether the text is an API key instead of an id: no message may quote it."""
    return text.startswith(API_KEY)


def is_offer(text: str, prefixes: Mapping[str, str]) -> bool:
    """Whether the id is an offer's: it begins with a marketplace's prefix and a dash."""
    prefix, dash, _ = text.partition("-")
    return bool(dash) and prefix in prefixes
