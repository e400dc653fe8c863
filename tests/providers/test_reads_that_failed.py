"""An answer with status 200 may say that it failed. Then its empty list is no proof that there is nothing."""

from collections.abc import Callable
from typing import Any

import pytest

from gpuproxy.model.errors import AuthFailed, InsufficientFunds, ProviderError, ProviderUnavailable, RateLimited
from tests.providers import ionet_wires as ionet
from tests.providers.test_vast_refusals import CALLS
from tests.providers.wires import error_of, on_script, says

EMPTY: dict[str, dict[str, object]] = {
    "search": {"offers": []},
    "list": {"instances": [], "next_token": None, "total_instances": 0},
    "get": {"instances": None},
    "volume_offers": {"offers": []},
    "list_volumes": {"volumes": []},
    "spend": {"id": 1, "credit": 0.0},
    "charges": {"results": [], "next_token": None, "total": 0},
}
"""The answers of vast.ai to its reads for an account that has nothing."""
NEEDED = ("list", "charges")
"""Their answers say `success: true`."""
FAILED: list[tuple[dict[str, object], type[ProviderError]]] = [
    ({"success": False}, ProviderUnavailable),
    ({"success": False, "error": "internal_error", "msg": "The request could not be processed."}, ProviderUnavailable),
    ({"error": "internal_error"}, ProviderUnavailable),
    ({"success": False, "msg": "API requests too frequent: endpoint threshold=4.5"}, RateLimited),
    ({"success": False, "error": "session_expired"}, AuthFailed),
]


@pytest.mark.parametrize("call", EMPTY)
@pytest.mark.parametrize(("words", "kind"), FAILED)
def test_a_read_of_vast_that_failed_has_the_error_of_its_words(
    call: str, words: dict[str, object], kind: type[ProviderError]
) -> None:
    error, _ = error_of(CALLS[call], says(EMPTY[call] | words))
    assert type(error) is kind


@pytest.mark.parametrize("call", NEEDED)
def test_an_answer_of_vast_with_an_error_is_no_success(call: str) -> None:
    error, _ = error_of(CALLS[call], says(EMPTY[call] | {"success": True, "error": "internal_error"}))
    assert type(error) is ProviderUnavailable


@pytest.mark.parametrize("call", EMPTY)
def test_without_an_error_there_is_nothing_at_vast(call: str) -> None:
    on_script(CALLS[call], says(EMPTY[call] | {"success": True, "error": None}))
    if call not in NEEDED:
        on_script(CALLS[call], says(EMPTY[call]))


READS: dict[str, tuple[Callable[[Any], Any], str, object]] = {
    "search": (ionet.found, "search", {"hardware": []}),
    "list": (lambda provider: provider.list(), "list", {"deployments": [], "total": 0}),
    "get": (lambda provider: provider.get(ionet.ID), "get", ionet.listed()),
}


@pytest.mark.parametrize("call", READS)
@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ({"status": "failed"}, ProviderUnavailable),
        ({"status": "failed", "error": "upstream"}, ProviderUnavailable),
        ({"error": "upstream"}, ProviderUnavailable),
        ({"status": "failed", "error": "Not enough IO credits"}, InsufficientFunds),
    ],
)
def test_a_read_of_io_net_that_failed_has_the_error_of_its_words(
    call: str, words: dict[str, object], kind: type[ProviderError]
) -> None:
    use, name, data = READS[call]
    assert type(ionet.error_of(use, ionet.Api(**{name: says({"data": data, **words})}))) is kind


@pytest.mark.parametrize("call", READS)
def test_without_an_error_a_read_of_io_net_is_believed(call: str) -> None:
    use, name, data = READS[call]
    ionet.on_api(use, ionet.Api(**{name: says({"data": data, "status": "success", "error": None}), "vms": ionet.vms()}))


def test_a_deployment_that_failed_is_a_valid_read() -> None:
    answer = ionet.detail(status="failed")
    assert ionet.on_api(lambda provider: provider.get(ionet.ID), ionet.Api(get=answer, vms=ionet.vms())) is None
