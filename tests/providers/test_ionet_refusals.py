"""Answers of io.net to a create that are certain refusals, and answers that only look like it."""

import pytest

from gpuproxy.model.errors import NoCapacity, OutcomeUnknown
from tests.providers.ionet_wires import ID
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
