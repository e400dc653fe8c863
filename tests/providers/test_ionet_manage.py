"""Destroys and extensions at io.net, and what it can't do."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from gpuproxy.model.errors import (
    Advice,
    AuthFailed,
    InsufficientFunds,
    InvalidRequest,
    NoCapacity,
    NotSupported,
    OutcomeUnknown,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
)
from gpuproxy.ports import HttpNotSent, HttpReplyLost, HttpResponse
from gpuproxy.providers.ionet.adapter import IoNet
from tests.providers.ionet_wires import (
    EMPTY,
    ID,
    NOT_FOUND,
    Api,
    adapter,
    detail,
    failed,
    on_api,
)
from tests.providers.wires import says
from tests.virtual_time import VirtualClock, run_virtual

# -- destroys


def destroyed(answer: Any, **more: Any) -> Any:
    api = Api(destroy=answer, **more)
    try:
        return on_api(lambda provider: provider.destroy(ID), api), api.calls()
    except ProviderError as error:
        return error, api.calls()


def test_an_accepted_destroy_returns_false() -> None:
    assert destroyed(says({"status": "requested", "deployment_id": ID})) == (False, ["destroy"])


@pytest.mark.parametrize("answer", [NOT_FOUND, failed(410, "Deployment was already destroyed")])
def test_a_destroy_of_what_is_gone_returns_true(answer: HttpResponse) -> None:
    assert destroyed(answer) == (True, ["destroy"])


@pytest.mark.parametrize(
    "answer",
    [EMPTY, says("", 204), says({"unexpected": True}), says("", 404), says({"detail": "Not Found"}, 404),
     failed(409, "Deployment is not active"), says("Gone", 410)],
)  # fmt: skip
def test_after_an_unclear_answer_the_deployment_tells_what_became_of_a_destroy(answer: HttpResponse) -> None:
    for now, known in (
        (detail(status="termination requested"), False),
        (detail(status="destroyed"), True),
        (NOT_FOUND, True),
    ):
        assert destroyed(answer, get=now) == (known, ["destroy", "get"])
    for now in (detail(), says("", 500), says({"detail": "Not Found"}, 404), HttpReplyLost("reset")):
        error, _ = destroyed(answer, get=now)
        assert (type(error), error.advice) == (OutcomeUnknown, Advice.RETRY_LATER)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (says("", 500), OutcomeUnknown), (HttpReplyLost("reset"), OutcomeUnknown),
        (failed(200, "no"), OutcomeUnknown), (says("<html>", 502), OutcomeUnknown),
        (HttpNotSent("refused"), ProviderUnavailable), (says({"detail": "?"}, 401), AuthFailed),
        (says({"detail": "?"}, 429), RateLimited), (says({"detail": "token expired"}, 403), AuthFailed),
    ],
)  # fmt: skip
def test_a_failed_destroy_is_an_error_that_may_be_repeated(answer: Any, kind: type[ProviderError]) -> None:
    error, calls = destroyed(answer)
    assert (type(error), calls) == (kind, ["destroy"])
    assert error.advice is Advice.RETRY_LATER or kind is AuthFailed


# -- how long a deployment ran


@pytest.mark.parametrize(
    ("now", "minutes"),
    [
        (detail(status="destroyed", compute_minutes_served=73), 73),
        (detail(status="failed", compute_minutes_served=0), None),
        (detail(status="destroyed", compute_minutes_served=None), None),
        (detail(status="destroyed", compute_minutes_served=-1), None),
        (detail(status="destroyed", compute_minutes_served=1e300), None),
        (detail(compute_minutes_served=73), None),
        (detail(status="termination requested"), None),
        (NOT_FOUND, None),
    ],
)
def test_only_a_deployment_that_has_ended_tells_how_long_it_ran(now: HttpResponse, minutes: int | None) -> None:
    used = on_api(lambda provider: provider.used(ID), Api(get=now))
    assert used == (None if minutes is None else timedelta(minutes=minutes))


# -- extensions


def extended(answer: Any, hours: int = 2) -> Any:
    api = Api(extend=answer)
    try:
        return on_api(lambda provider: provider.extend(ID, hours), api), api
    except ProviderError as error:
        return error, api


def test_an_extension_is_one_request_for_whole_hours() -> None:
    result, api = extended(detail(compute_minutes_remaining=210, amount_paid=2.4))
    assert (result, api.calls(), api.sent("extend")) == (None, ["extend"], {"duration_hours": 2})


@pytest.mark.parametrize(
    "answer",
    [
        EMPTY, says({"unexpected": True}), says("ok"), failed(200, "no"), says("", 500), failed(500, "no credits"),
        says("<html>", 502), says("", 408), HttpReplyLost("reset"), says('{"data":', 200), says("", 400),
    ],
)  # fmt: skip
def test_an_extension_that_may_have_been_bought_is_an_unknown_outcome(answer: Any) -> None:
    error, api = extended(answer)
    assert (type(error), error.advice, api.calls()) == (OutcomeUnknown, Advice.STOP, ["extend"])


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (failed(402, "credits"), InsufficientFunds), (failed(400, "Insufficient balance"), InsufficientFunds),
        (failed(409, "No capacity"), NoCapacity), (failed(400, "Only an active deployment"), InvalidRequest),
        (NOT_FOUND, InvalidRequest), (says({"detail": "?"}, 401), AuthFailed), (says({}, 429), RateLimited),
        (HttpNotSent("refused"), ProviderUnavailable),
    ],
)  # fmt: skip
def test_a_refused_extension_bought_nothing(answer: Any, kind: type[ProviderError]) -> None:
    error, api = extended(answer)
    assert (type(error), api.calls()) == (kind, ["extend"])


async def _after_a_429(provider: IoNet, clock: VirtualClock) -> tuple[object, float]:
    """What becomes of an extension after one that was answered with 429, and the seconds that it takes."""
    with pytest.raises(RateLimited):
        await provider.extend(ID, 1)
    began = clock.monotonic()
    try:
        return await provider.extend(ID, 1), clock.monotonic() - began
    except ProviderError as error:
        return error, clock.monotonic() - began


@pytest.mark.parametrize(("pause", "sent"), [(60, 1), (16, 1), (14, 2)])
def test_an_extension_that_must_wait_long_is_refused_and_not_sent_late(pause: int, sent: int) -> None:
    """Its caller counts the time of the call from its begin, and reads afterwards whether it was executed."""
    api = Api(extend=[replace(says({}, 429), headers={"retry-after": str(pause)}), says({"id": ID})])

    async def body(clock: VirtualClock) -> tuple[object, float]:
        return await _after_a_429(adapter(api, clock), clock)

    outcome, seconds = run_virtual(body)
    assert len(api.requests) == sent
    if sent == 1:
        assert isinstance(outcome, RateLimited)
        assert (outcome.retry_after, seconds) == (pytest.approx(pause, abs=0.1), 0)
    else:
        assert (outcome, seconds) == (None, pytest.approx(pause, abs=0.1))
        assert api.requests[-1].timeout + seconds <= 30


@pytest.mark.parametrize("hours", [0, -1, 8761])
def test_an_extension_by_impossible_hours_is_not_sent(hours: int) -> None:
    error, api = extended(detail(), hours)
    assert (type(error), api.calls()) == (InvalidRequest, [])


# -- what io.net can't do


@pytest.mark.parametrize(
    ("use", "missing"),
    [
        (lambda provider: provider.start(ID), "stop_start"), (lambda provider: provider.stop(ID), "stop_start"),
        (lambda provider: provider.logs(ID, 5), "logs"), (lambda provider: provider.spend(), "credit"),
        (lambda provider: provider.add_ssh_key(ID, "k"), "ssh_keys"),
        (lambda provider: provider.charges(None, None), "charges"),
    ],
)  # fmt: skip
def test_what_is_missing_is_not_supported_and_says_why(use: Any, missing: str) -> None:
    async def reason(provider: Any) -> Any:
        with pytest.raises(NotSupported) as raised:
            await use(provider)
        return str(raised.value), provider.capabilities.missing[missing]

    said, why = on_api(reason, Api())
    assert why in said
