"""Answers of io.net to a create that are certain refusals, and answers that only look like it."""

import pytest

from gpuproxy.model.errors import (
    Advice,
    AuthFailed,
    InsufficientFunds,
    InvalidRequest,
    NoCapacity,
    OutcomeUnknown,
    ProviderError,
    RateLimited,
)
from gpuproxy.ports import HttpResponse
from tests.providers.ionet_wires import ID, failed
from tests.providers.test_ionet_create import created
from tests.providers.wires import says


def test_the_id_of_a_failure_is_no_deployment() -> None:
    error, api = created(says({"status": "failed", "error": "no capacity", "id": "req_123"}))
    assert type(error) is NoCapacity
    error, _ = created(says({"status": "failed", "error": "something else", "resource_id": "req_123"}))
    assert type(error) is OutcomeUnknown
    assert api.calls() == ["price", "create"]


@pytest.mark.parametrize("name", ["id", "resource_id"])
def test_a_success_that_failed_with_the_id_of_a_deployment_is_an_unknown_outcome(name: str) -> None:
    for answer in ({"status": "failed", "error": "no capacity", name: ID}, {"data": {"status": "failed", name: ID}}):
        error, _ = created(says(answer))
        assert type(error) is OutcomeUnknown
    error, _ = created(says({"status": "failed", "error": "no capacity", name: ID}, 409))  # a refusal's own id
    assert type(error) is NoCapacity


@pytest.mark.parametrize(
    "answer",
    [
        says("Client Closed Request", 499),
        says("Enhance your calm", 420),
        says("Conflict", 409),
        says("request in progress", 409),
        says("no longer available", 409),
        says("insufficient credits", 400),
        says({"message": "Client Closed Request"}, 499),
        says({"detail": "Too early"}, 425),
        says({"detail": "request in progress"}, 409),
        says({"detail": "Another request is already being processed"}, 409),
        says({"message": "The request timed out"}, 400),
        failed(409, "Timeout while waiting for capacity"),
        failed(400, "upstream error: no capacity"),
        failed(200, "upstream timed out: sold out"),
    ],
)
def test_what_a_gateway_may_say_or_what_may_still_happen_is_an_unknown_outcome(answer: HttpResponse) -> None:
    error, api = created(answer)
    assert type(error) is OutcomeUnknown
    assert error.advice is Advice.STOP
    assert api.calls() == ["price", "create"]


@pytest.mark.parametrize(
    "answer",
    [
        failed(409, "Conflict"),
        says({"detail": "A field is wrong"}, 400),
        says({"detail": [{"loc": ["body", "location_ids"], "msg": "timeout in progress", "type": "x"}]}, 422),
    ],
)
def test_a_refusal_in_io_nets_own_words_lets_another_offer_be_tried(answer: HttpResponse) -> None:
    error, _ = created(answer)
    assert (type(error), error.advice) == (InvalidRequest, Advice.TRY_NEXT)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(says("slow down", 429), RateLimited), (says("", 401), AuthFailed), (says("pay", 402), InsufficientFunds)],
)
def test_some_statuses_are_refusals_whatever_the_text_is(answer: HttpResponse, kind: type[ProviderError]) -> None:
    assert type(created(answer)[0]) is kind
