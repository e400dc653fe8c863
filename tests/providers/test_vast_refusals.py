"""Answers that mean a missing instance or an invalid key, and answers that only look like it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gpuproxy.model.errors import (
    AuthFailed,
    InvalidRequest,
    OfferGone,
    OutcomeUnknown,
    ProviderError,
    ProviderUnavailable,
)
from gpuproxy.model.leases import InstanceId
from gpuproxy.ports import HttpResponse
from gpuproxy.providers.vast.adapter import VastAi
from tests.providers.wires import LABEL, OFFER, SPEC, VOLUME, VOLUME_OFFER, found, on_script, page, says, wire

ID = InstanceId("27182818")


def refusal(status: int, error: str | None = None, msg: str | None = None) -> HttpResponse:
    words = {"success": False, "error": error, "msg": msg}
    return says({name: value for name, value in words.items() if value is not None}, status)


def got(answer: HttpResponse) -> Any:
    return on_script(lambda adapter: adapter.get(ID), answer)[0]


def destroyed(answer: HttpResponse) -> Any:
    return on_script(lambda adapter: adapter.destroy(ID), answer)[0]


# -- gone

PROVEN = [
    says({"instances": None}),
    says({"instances": []}),
    says({"instances": {}}),
    says({"success": True, "instances": {}}),
    refusal(404, "no_such_instance"),
    refusal(404, "no_such_instance", "Instance 27182818 not found."),
    refusal(400, "invalid_args", "error 404/3603: no_such_instance  Instance 27182818 not found."),
    refusal(410, "no_such_instance"),
    refusal(410, "gone"),
    refusal(410, "gone", "Instance 27182818 is gone."),
    refusal(410, None, "No such instance."),
    refusal(410, None, "This instance has been destroyed."),
    says({"detail": "Instance 27182818 no longer exists"}, 410),
    refusal(404, None, "Instance 27182818 not found"),
]


@pytest.mark.parametrize("answer", PROVEN)
def test_many_answers_mean_that_an_instance_is_gone(answer: HttpResponse) -> None:
    assert got(answer) is None


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (says("", 404), ProviderUnavailable),
        (says({}, 404), ProviderUnavailable),
        (says({"detail": "Not Found"}, 404), InvalidRequest),
        (says("<html><body>Instance 27182818 not found</body></html>", 404), ProviderUnavailable),
        (says("<html>410 Gone</html>", 410), ProviderUnavailable),
        (says("Gone", 410), ProviderUnavailable),
        (says({"message": "Gone"}, 410), InvalidRequest),
        (refusal(404, "not_found", "no"), InvalidRequest),
        (refusal(404, None, "Instance not found"), InvalidRequest),
        (refusal(404, None, "Instance 5 not found"), InvalidRequest),
        (refusal(404, "no_such_instance", "Instance 5 not found"), InvalidRequest),
        (refusal(410, "deprecated_endpoint", "GET /api/v0/instances/ is gone. Use v1."), InvalidRequest),
        (refusal(410, "gone", "This endpoint has been removed; instance reads moved to v2."), InvalidRequest),
        (refusal(404, "no_such_instance", "Invalid user key"), AuthFailed),
        (refusal(500, "no_such_instance"), ProviderUnavailable),
        (says({"success": False, "instances": None}), ProviderUnavailable),
        (says({"success": False, "error": "session_expired", "instances": None}), AuthFailed),
        (says(b'{"instances": NaN}'), ProviderUnavailable),
        (says({"instances": 0}), ProviderUnavailable),
        (says({"instances": ""}), ProviderUnavailable),
        (says({"instances": False}), ProviderUnavailable),
        (says({"instances": [None]}), ProviderUnavailable),
        (says({"instances": [{}]}), ProviderUnavailable),
        (says({"instances": [None, None]}), ProviderUnavailable),
        (says({"instances": {"label": "no id"}}), ProviderUnavailable),
        (says({"instance": None}), ProviderUnavailable),
    ],
)
def test_an_ambiguous_answer_does_not_prove_that_an_instance_is_gone(
    answer: HttpResponse, kind: type[ProviderError]
) -> None:
    with pytest.raises(ProviderError) as raised:
        got(answer)
    assert type(raised.value) is kind


def test_a_list_with_only_the_instance_is_that_instance() -> None:
    assert got(says({"instances": [wire()]})).id == ID


@pytest.mark.parametrize(
    "answer",
    [
        *(answer for answer in PROVEN if answer.status != 200),
        refusal(404, "not_found", "no"),
        refusal(404, "not_found"),
        refusal(404, None, "Instance not found"),
        refusal(404, None, "Instance 27182818 not found"),
    ],
)
def test_a_destroy_of_a_missing_instance_returns_true(answer: HttpResponse) -> None:
    assert destroyed(answer) is True


def test_an_accepted_destroy_returns_false() -> None:
    assert destroyed(says({"success": True, "msg": "Instance 27182818 not found in cache."})) is False


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (says("", 404), OutcomeUnknown),
        (says("<html>Instance 27182818 not found</html>", 404), OutcomeUnknown),
        (says("Gone", 410), OutcomeUnknown),
        (says({"detail": "Not Found"}, 404), InvalidRequest),
        (refusal(404, "not_found", "/api/v0/instances is not available."), InvalidRequest),
        (refusal(404, None, "Instance 5 not found"), InvalidRequest),
        (refusal(410, "deprecated_endpoint", "Use v1."), InvalidRequest),
        (refusal(404, "not_found", "Invalid user key"), AuthFailed),
    ],
)
def test_a_destroy_that_fails_for_another_reason_is_an_error(answer: HttpResponse, kind: type[ProviderError]) -> None:
    with pytest.raises(kind):
        destroyed(answer)


# -- an offer that is taken


@pytest.mark.parametrize(
    "answer",
    [
        refusal(400, None, "Offer 123 is no longer rentable"),
        refusal(400, "invalid_args", "error 400/3467: offer already rented"),
        refusal(404, None, "Offer unavailable."),
        refusal(410, "gone", "The ask 123 is not available any more"),
        refusal(200, "invalid_args", "This offer (123) was already rented"),
        says({"detail": "ask no longer available"}, 422),
    ],
)
def test_other_words_for_a_taken_offer_are_known(answer: HttpResponse) -> None:
    for call in ("create", "create_volume"):
        with pytest.raises(OfferGone) as raised:
            on_script(CALLS[call], answer)
        assert raised.value.status == answer.status


@pytest.mark.parametrize(
    "answer",
    [
        refusal(400, "invalid_args", "image me/app:1 is not available"),
        refusal(400, None, "The offer needs a template"),
        refusal(400, None, "This feature is no longer available. No offer was rented"),
        refusal(400, None, "offering not available"),
    ],
)
def test_words_about_something_else_are_no_taken_offer(answer: HttpResponse) -> None:
    with pytest.raises(InvalidRequest):
        on_script(CALLS["create"], answer)


def test_an_unclear_answer_about_a_taken_offer_is_an_unknown_outcome() -> None:
    for answer in (refusal(500, None, "Offer 123 is no longer rentable"), says("Offer unavailable", 400)):
        with pytest.raises(OutcomeUnknown):
            on_script(CALLS["create"], answer)


# -- dead credentials

DEAD = [
    refusal(404, "session_expired", "Session expired. Please log in again."),
    refusal(200, "session_expired"),
    refusal(404, None, "Session expired. Please log in again."),
    says("Session expired. Please log in again.", 403),
    refusal(403, "two_factor_required"),
    refusal(403, None, "Your two-factor session has expired"),
    refusal(403, None, "2FA is required for this account"),
    refusal(404, "auth_error", "Invalid user key"),
    refusal(403, "auth_error", "This action requires login."),
    refusal(403, None, "This action requires login."),
    refusal(400, "invalid_api_key"),
    refusal(400, "invalid_request", "Invalid API key"),
    refusal(404, None, "Invalid user key"),
    refusal(403, None, "Your API key has expired."),
    refusal(403, None, "This key has been revoked"),
    refusal(403, None, "API key is disabled"),
    refusal(403, "unauthorized"),
    refusal(403, None, "Please log in."),
    refusal(401, "whatever"),
    says("", 401),
    says("<html>401</html>", 401),
]
CALLS: dict[str, Callable[[VastAi], Any]] = {
    "create": lambda adapter: adapter.create(OFFER, SPEC, LABEL),
    "list": lambda adapter: adapter.list(),
    "get": lambda adapter: adapter.get(ID),
    "destroy": lambda adapter: adapter.destroy(ID),
    "start": lambda adapter: adapter.start(ID),
    "stop": lambda adapter: adapter.stop(ID),
    "search": found,
    "volume_offers": lambda adapter: adapter.volume_offers(["29575"], 50),
    "create_volume": lambda adapter: adapter.create_volume(VOLUME_OFFER, 50, LABEL),
    "list_volumes": lambda adapter: adapter.list_volumes(),
    "delete_volume": lambda adapter: adapter.delete_volume(VOLUME),
    "spend": lambda adapter: adapter.spend(),
    "logs": lambda adapter: adapter.logs(ID, 5),
    "charges": lambda adapter: adapter.charges(
        datetime(2026, 6, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC) + timedelta(days=1)
    ),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("answer", DEAD)
def test_every_call_reports_a_dead_key(call: str, answer: HttpResponse) -> None:
    with pytest.raises(AuthFailed):
        on_script(CALLS[call], answer)


ALIVE: list[tuple[HttpResponse, type[ProviderError]]] = [
    (
        refusal(400, "invalid_args", "error 404/3603: no_such_ask  The offer has expired; please log in to see."),
        OfferGone,
    ),
    (refusal(400, None, "offer expired"), InvalidRequest),
    (refusal(410, None, "The ask expired a minute ago"), InvalidRequest),
    (refusal(400, "no_ssh_key_for_vm", "No SSH key: your ssh key has expired"), InvalidRequest),
    (refusal(400, None, "Your SSH public key has expired"), InvalidRequest),
    (refusal(400, "invalid_request", "dph_total is not a valid search key"), InvalidRequest),
    (refusal(400, "invalid_args", "unauthorized: please log in to the registry"), InvalidRequest),
    (refusal(400, "invalid_args", "image me/two-factor-auth:1 can't be used"), InvalidRequest),
    (refusal(400, "invalid_args", "env WANDB_API_KEY is missing"), InvalidRequest),
    (refusal(403, "forbidden", "error 403/3586: another host's machine"), InvalidRequest),
    (says("<html>Please log in</html>", 403), OutcomeUnknown),
    (says({"status_msg": "unauthorized: please log in"}, 400), OutcomeUnknown),
    (refusal(500, "session_expired"), OutcomeUnknown),
]


@pytest.mark.parametrize(("answer", "kind"), ALIVE)
def test_an_error_about_another_key_is_not_a_dead_key(answer: HttpResponse, kind: type[ProviderError]) -> None:
    with pytest.raises(ProviderError) as raised:
        on_script(CALLS["create"], answer)
    assert type(raised.value) is kind


def test_a_status_message_is_not_a_dead_key() -> None:
    words = "Session expired. Please log in again. Invalid API key"
    listing, _ = on_script(CALLS["list"], page(wire(1, status_msg=words, label=words)))
    assert [each.id for each in listing.instances] == ["1"]
    broken = says({"success": True, "instances": [wire(1, status_msg=words)]}, 200)
    with pytest.raises(ProviderUnavailable):
        on_script(CALLS["list"], broken)
