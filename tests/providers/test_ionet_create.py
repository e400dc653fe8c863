"""Creates at io.net: the price is confirmed, the deploy is sent once, and the new deployment is found by its name."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from gpuproxy.model.demands import RegistryAuth, VolumeMount
from gpuproxy.model.errors import (
    Advice,
    AuthFailed,
    InsufficientFunds,
    InvalidRequest,
    NoCapacity,
    OfferGone,
    OutcomeUnknown,
    PriceMoved,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    Refused,
    Scope,
)
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import OfferId
from gpuproxy.ports import HttpNotSent, HttpReplyLost, HttpResponse, Receipt
from tests.markets import offer
from tests.providers.ionet_wires import (
    EMPTY,
    EMPTY_PAGE,
    ID,
    LABEL,
    OTHER,
    PUBLIC_KEY,
    SPEC,
    Answer,
    Api,
    error_of,
    failed,
    found,
    hardware,
    listed,
    on_api,
    page,
    quote,
    row,
)
from tests.providers.wires import KEY, says

OFFER = offer(1, provider="io.net", id=OfferId("ionet-i12:2:US"), num_gpus=2, gpu_price=Micro(600_000))
QUOTE = quote(0.6)
NAMED = page(listed())


def create(provider: Any, spec: Any = SPEC, wanted: Any = OFFER, label: str = LABEL) -> Any:
    return provider.create(wanted, spec, label)


def created(answer: Answer | list[Answer], lists: Any = NAMED, price: Any = QUOTE, **more: Any) -> tuple[Any, Api]:
    """The receipt or the error of a create, and the port with its requests."""
    api = Api(price=price, create=answer, list=lists)
    try:
        return on_api(create, api, **more), api
    except ProviderError as error:
        return error, api


# -- the requests


def test_a_create_asks_for_the_price_of_exactly_this_booking_first() -> None:
    _, api = created(EMPTY, price=quote(1.8), prepaid_hours=3)
    assert api.calls()[:2] == ["price", "create"]
    assert parse_qs(urlsplit(api.requests[0].url).query) == {
        "currency": ["usdc"], "duration_hours": ["3"], "gpus_per_vm": ["2"], "replica_count": ["1"],
        "hardware_id": ["12"], "location_ids": ['["US"]'],
    }  # fmt: skip


def test_the_body_of_a_deploy_is_the_documented_one_and_the_key_is_in_its_header_only() -> None:
    api = Api(price=quote(1.2), create=EMPTY, list=NAMED)
    on_api(lambda provider: create(provider, replace(SPEC, ports=(22, 8000))), api, prepaid_hours=2)
    assert api.sent("create") == {
        "resource_private_name": LABEL,
        "duration_hours": 2,
        "gpus_per_vm": 2,
        "hardware_id": 12,
        "location_ids": ["US"],
        "ssh_keys": {"key-1": PUBLIC_KEY},
        "vm_image_type": "general",
        "network_services": {"port-8000": {"port": 8000, "protocol": "tcp", "whitelist": ["0.0.0.0/0"]}},
    }
    request = api.requests[1]
    assert request.url == "https://api.io.solutions/enterprise/v1/io-cloud/vmaas/deploy"
    assert request.headers["x-api-key"] == KEY
    assert KEY not in request.url + str(request.body)


@pytest.mark.parametrize(
    ("native", "sent"), [("i203:1:FI", 203), ("s203:1:FI", "203"), ("sgpu_1x_l40:1:FI", "gpu_1x_l40")]
)
def test_a_hardware_id_goes_back_with_its_json_type(native: str, sent: int | str) -> None:
    wanted = replace(OFFER, id=OfferId(f"ionet-{native}"), num_gpus=1)
    api = Api(price=QUOTE, create=EMPTY, list=NAMED)
    on_api(lambda provider: create(provider, wanted=wanted), api)
    assert json.dumps(api.sent("create")["hardware_id"]) == json.dumps(sent)


def test_without_ports_and_keys_the_fields_are_left_out() -> None:
    api = Api(price=QUOTE, create=EMPTY, list=NAMED)
    on_api(lambda provider: create(provider, replace(SPEC, ssh_public_keys=())), api)
    assert {"ssh_keys", "network_services"}.isdisjoint(api.sent("create"))


# -- the price


@pytest.mark.parametrize(("total", "hours"), [(0.600_002, 1), (0.61, 1), (6.1, 1), (1.800_004, 3)])
def test_a_higher_price_is_refused_before_anything_is_sent(total: float, hours: int) -> None:
    error, api = created(EMPTY, price=quote(total), prepaid_hours=hours)
    assert type(error) is PriceMoved
    assert api.calls() == ["price"]


@pytest.mark.parametrize(("total", "hours"), [(0.6, 1), (0.600_001, 1), (0.5, 1), (1.800_003, 3)])
def test_the_offered_price_and_rounding_by_a_micro_dollar_an_hour_are_accepted(total: float, hours: int) -> None:
    receipt, _ = created(EMPTY, price=quote(total), prepaid_hours=hours)
    assert (receipt.instance_id, receipt.paid) == (ID, round(total * 1_000_000))


def test_after_a_higher_price_the_search_shows_it_for_an_hour() -> None:
    async def use(provider: Any) -> Any:
        with pytest.raises(PriceMoved):
            await create(provider)
        after = await found(provider)
        await provider._clock.sleep(3_601)
        return [each[0].gpu_price for each in (after, await found(provider))]

    api = Api(price=quote(0.66), search=hardware(row()))
    assert on_api(use, api) == [660_000, 600_000]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (quote(0.6, available_replica_count=[0]), NoCapacity),
        (says({"data": {"total_cost_usdc": "?"}}), ProviderUnavailable),
        (says({"data": {"total_cost_usdc": 0}}), ProviderUnavailable),
        (says({"data": {}}), ProviderUnavailable),
        (says("<html>502</html>", 502), ProviderUnavailable),
        (says("", 500), ProviderUnavailable),
        (HttpReplyLost("reset"), ProviderUnavailable),
        (HttpNotSent("refused"), ProviderUnavailable),
        (failed(400, "Hardware 12 not found"), OfferGone),
        (failed(400, "Hardware is sold out"), NoCapacity),
        (says({"detail": "Too many requests"}, 429, retry_after="7"), RateLimited),
    ],
)
def test_without_a_price_nothing_is_sent(answer: Any, kind: type[ProviderError]) -> None:
    error, api = created(EMPTY, price=answer)
    assert type(error) is kind
    assert isinstance(error, Refused)
    assert api.calls() == ["price"]


# -- the answer


@pytest.mark.parametrize(
    "answer",
    [
        says({"status": "success", "deployment_id": ID}),
        says({"status": "requested", "id": ID}),
        says({"resource_id": ID}, 201),
        says({"data": {"deployment_id": ID}}),
        says({"data": {"id": ID, "name": LABEL}}),
        says({"status": "failed", "error": "no network", "deployment_id": ID}),
        says({"status": "failed", "error": "no network", "deployment_id": ID}, 500),
    ],
)
def test_an_answer_with_the_id_needs_no_listing(answer: HttpResponse) -> None:
    receipt, api = created(answer)
    assert receipt.instance_id == ID
    assert "list" not in api.calls()


@pytest.mark.parametrize(
    "answer", [EMPTY, says("", 201), says({}), says("null"), says({"status": "success"}), says("ok")]
)
def test_a_success_without_an_id_is_looked_for_by_its_name_over_all_pages(answer: HttpResponse) -> None:
    full = page(*(listed(f"x-{at}", name=f"other-{at}") for at in range(100)), total=101)
    receipt, api = created(answer, lists=[full, page(listed(), total=101)])
    assert receipt.instance_id == ID
    assert api.calls().count("create") == 1
    assert [parse_qs(urlsplit(each.url).query)["page"] for each in api.requests[2:]] == [["1"], ["2"]]


def test_a_new_deployment_that_is_not_listed_at_once_is_looked_for_again() -> None:
    receipt, api = created(EMPTY, lists=[EMPTY_PAGE, says("", 500), page(listed(OTHER, name="x")), NAMED])
    assert receipt.instance_id == ID
    assert api.calls().count("list") == 4


def test_the_receipt_has_the_end_of_the_booking() -> None:
    async def use(provider: Any) -> tuple[Any, Receipt]:
        return provider._clock.now(), await create(provider)

    began, receipt = on_api(use, Api(price=quote(1.8), create=EMPTY, list=NAMED), prepaid_hours=3)
    assert receipt.booked_until == began + timedelta(hours=3)


@pytest.mark.parametrize(
    "lists", [EMPTY_PAGE, page(listed(OTHER, name="another")), page(listed(), listed(OTHER)), says("<html>", 502)]
)
def test_a_deployment_that_is_not_found_in_time_is_an_unknown_outcome(lists: HttpResponse) -> None:
    async def use(provider: Any) -> Any:
        began = provider._clock.monotonic()
        with pytest.raises(OutcomeUnknown) as raised:
            await create(provider)
        return raised.value, provider._clock.monotonic() - began

    api = Api(price=QUOTE, create=EMPTY, list=lists)
    error, seconds = on_api(use, api)
    assert error.advice is Advice.STOP
    assert seconds < 60
    assert api.calls().count("create") == 1


def test_an_ended_deployment_of_this_name_is_a_receipt_only_if_no_other_has_it() -> None:
    ended = listed(OTHER, status="failed")
    assert created(EMPTY, lists=page(ended, listed()))[0].instance_id == ID
    assert created(EMPTY, lists=page(ended))[0].instance_id == OTHER


UNKNOWN: list[Answer] = [
    HttpReplyLost("reset"),
    says("", 500),
    says("<html>502 Bad Gateway</html>", 502),
    failed(500, "Insufficient credits"),
    failed(503, "No capacity"),
    says("", 408),
    says({"detail": "Request timeout"}, 408),
    failed(200, "The request could not be processed"),
    says("<html>403</html>", 403),
    says("", 400),
    says('{"status":', 400),
    failed(409, "A deployment with this name already exists"),
    failed(409, "resource_private_name must be unique"),
]


@pytest.mark.parametrize("answer", UNKNOWN)
def test_an_answer_that_does_not_exclude_a_booking_is_an_unknown_outcome(answer: Answer) -> None:
    error, api = created(answer)
    assert type(error) is OutcomeUnknown
    assert error.advice is Advice.STOP
    assert api.calls() == ["price", "create"]


VALIDATION = {"detail": [{"loc": ["body", "gpus_per_vm"], "msg": "Input should be 8", "type": "literal_error"}]}
OF_KEYS = {"detail": [{"loc": ["body", "ssh_keys", "key-1"], "msg": "Not a key", "type": "value_error"}]}
REFUSALS: list[tuple[HttpResponse, type[ProviderError], Scope, Advice]] = [
    (says({"detail": "Invalid API key"}, 401), AuthFailed, Scope.ACCOUNT, Advice.STOP),
    (says("", 401), AuthFailed, Scope.ACCOUNT, Advice.STOP),
    (says({"detail": "API key has expired"}, 403), AuthFailed, Scope.ACCOUNT, Advice.STOP),
    (failed(402, "anything"), InsufficientFunds, Scope.ACCOUNT, Advice.STOP),
    (says("", 402), InsufficientFunds, Scope.ACCOUNT, Advice.STOP),
    (failed(400, "Insufficient credits to book this capacity"), InsufficientFunds, Scope.ACCOUNT, Advice.STOP),
    (failed(409, "Your balance is too low"), InsufficientFunds, Scope.ACCOUNT, Advice.STOP),
    (failed(200, "Not enough IO credits"), InsufficientFunds, Scope.ACCOUNT, Advice.STOP),
    (failed(400, "Insufficient capacity, no credits were charged"), NoCapacity, Scope.OFFER, Advice.TRY_NEXT),
    (failed(409, "Sold out"), NoCapacity, Scope.OFFER, Advice.TRY_NEXT),
    (says({"detail": "No GPUs available"}, 400), NoCapacity, Scope.OFFER, Advice.TRY_NEXT),
    (says({"message": "hardware is not available"}, 409), NoCapacity, Scope.OFFER, Advice.TRY_NEXT),
    (says({"error": "no longer available"}, 409), NoCapacity, Scope.OFFER, Advice.TRY_NEXT),
    (failed(200, "Sold out"), NoCapacity, Scope.OFFER, Advice.TRY_NEXT),
    (failed(404, "Hardware 12 does not exist"), OfferGone, Scope.OFFER, Advice.TRY_NEXT),
    (failed(400, "Something went wrong"), InvalidRequest, Scope.OFFER, Advice.TRY_NEXT),
    (failed(409, "Conflict"), InvalidRequest, Scope.OFFER, Advice.TRY_NEXT),
    (says({"detail": "teapot"}, 418), InvalidRequest, Scope.OFFER, Advice.TRY_NEXT),
    (says(VALIDATION, 422), InvalidRequest, Scope.OFFER, Advice.TRY_NEXT),
    (says({"detail": "gpus must be 8"}, 422), InvalidRequest, Scope.OFFER, Advice.TRY_NEXT),
    (says(OF_KEYS, 422), InvalidRequest, Scope.PROVIDER, Advice.STOP),
    (says({"detail": "Not Found"}, 404), InvalidRequest, Scope.PROVIDER, Advice.STOP),
    (says({"detail": "Too many requests"}, 429), RateLimited, Scope.ACCOUNT, Advice.RETRY_LATER),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "kind", "scope", "advice"), REFUSALS)
def test_a_refusal_has_its_own_error_and_scope_and_keeps_the_text(
    answer: HttpResponse, kind: type[ProviderError], scope: Scope, advice: Advice
) -> None:
    error, api = created(answer)
    assert (type(error), error.scope, error.advice) == (kind, scope, advice)
    assert (error.status, error.body) == (answer.status, answer.body.decode())
    assert api.calls() == ["price", "create"]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("7", 7.0), ("0", 0.0), ("99999", 300.0), ("Tue, 01 Jan 2030 00:00:30 GMT", 30.0), ("soon", None)],
)
def test_a_rate_limit_is_read_in_both_forms(header: str | None, seconds: float | None) -> None:
    async def use(provider: Any) -> Any:
        with pytest.raises(RateLimited) as raised:
            await create(provider)
        return provider._clock.now(), raised.value.retry_after

    headers = {} if header is None else {"retry_after": header}
    answer = says({"detail": "Too many requests"}, 429, **headers)
    now, found_seconds = on_api(use, Api(price=QUOTE, create=answer))
    if header is not None and "GMT" in header:
        moment = 1_893_456_030 - now.timestamp()
        seconds = max(0.0, min(moment, 300.0))
    assert found_seconds == seconds


def test_a_create_that_was_not_sent_is_refused() -> None:
    error, _ = created(HttpNotSent("refused"))
    assert type(error) is ProviderUnavailable


# -- launches


def test_what_io_net_can_do_is_accepted() -> None:
    assert on_api(_objections(replace(SPEC, ports=(22, 80), image="any/default")), Api()) == []


@pytest.mark.parametrize(
    ("facts", "field"),
    [
        ({"env": (("A", "1"),)}, "env"),
        ({"secret_env": (("A", "canary"),)}, "secret_env"),
        ({"onstart": "echo"}, "onstart"),
        ({"args": ("x",)}, "args"),
        ({"volume": VolumeMount(volume_id="1", path="/data")}, "volume"),
        ({"stopped": True}, "stopped"),
        ({"ssh_public_keys": (PUBLIC_KEY, "ssh-dss AAAA")}, "ssh_public_keys[1]"),
    ],
)
def test_what_io_net_can_not_do_is_objected_to_and_refused_before_a_call(facts: dict[str, Any], field: str) -> None:
    spec = replace(SPEC, **facts)
    assert on_api(_objections(spec), Api()) == [field]
    error = error_of(lambda provider: create(provider, spec), Api())
    assert (type(error), "canary" in str(error)) == (InvalidRequest, False)


@pytest.mark.parametrize("label", ["", "UPPER", "a b", "-a", "a-", "a_b", "x" * 65])
def test_a_label_that_can_not_be_a_name_is_refused_before_a_call(label: str) -> None:
    assert type(error_of(lambda provider: create(provider, label=label), Api())) is InvalidRequest


@pytest.mark.parametrize("offer_id", ["vast-12", "ionet-12", "ionet-i12:2"])
def test_an_offer_of_no_configuration_is_refused_before_a_call(offer_id: str) -> None:
    wanted = replace(OFFER, id=OfferId(offer_id))
    assert type(error_of(lambda provider: create(provider, wanted=wanted), Api())) is InvalidRequest


# -- secrets


@pytest.mark.parametrize("answer", [failed(400, f"bad x-api-key: {KEY}"), says(f"<p>{KEY}</p>", 500), failed(402, KEY)])
def test_no_error_tells_the_key(answer: HttpResponse) -> None:
    error, _ = created(answer)
    assert KEY not in f"{error} {error!r} {error.body}"


def test_an_echoed_login_is_removed() -> None:
    login = RegistryAuth(server="x", username="me", secret="pull-canary")
    api = Api(price=QUOTE, create=failed(400, "login pull-canary"))
    error = error_of(lambda provider: create(provider, replace(SPEC, registry_auth=login)), api)
    assert "canary" not in f"{error} {error.body}"


def _objections(spec: Any) -> Any:
    async def use(provider: Any) -> list[str]:
        return [each.field for each in provider.check_launch(spec)]

    return use
