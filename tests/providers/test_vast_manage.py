"""Starts, stops, logs and charges: accepted, queued and repeatable calls."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from gpuproxy.model.errors import (
    Advice,
    AuthFailed,
    InvalidRequest,
    NoCapacity,
    OutcomeUnknown,
    ProviderUnavailable,
    RateLimited,
)
from gpuproxy.model.leases import InstanceId
from gpuproxy.ports import HttpNotSent, HttpReplyLost, HttpResponse
from tests.providers.wires import KEY, Script, on_script, says

ID = InstanceId("27182818")
ACCEPTED = says({"success": True})
QUEUED = says({"success": False, "error": "resources_unavailable", "msg": "Required resources are ..., queued."})
ADDRESS = says({"success": True, "result_url": "https://logs.example/4242.log"})


def started(*answers: HttpResponse | Exception) -> Script:
    return on_script(lambda adapter: adapter.start(ID), *answers)[1]


def logged(*answers: Any, lines: int = 10) -> tuple[Any, Script]:
    return on_script(lambda adapter: adapter.logs(ID, lines), *answers)


@pytest.mark.parametrize(("call", "word"), [("start", "running"), ("stop", "stopped")])
def test_a_change_of_state_sends_only_the_state(call: str, word: str) -> None:
    _, script = on_script(lambda adapter: getattr(adapter, call)(ID), ACCEPTED)
    (request,) = script.requests
    assert (request.method, request.url) == ("PUT", f"https://console.vast.ai/api/v0/instances/{ID}/")
    assert script.sent() == {"state": word}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (QUEUED, NoCapacity),
        (says({"success": False, "error": "no_such_instance", "msg": "Instance not found."}, 404), InvalidRequest),
        (says({"success": False, "error": "auth_error", "msg": "Invalid user key"}, 404), AuthFailed),
        (says("API requests too frequent", 429), RateLimited),
        (HttpNotSent("refused"), ProviderUnavailable),
        (HttpReplyLost("reset"), OutcomeUnknown),
        (says("<html>502</html>", 502), OutcomeUnknown),
        (says({"success": True}, 500), OutcomeUnknown),
        (says({"success": False}), OutcomeUnknown),
        (says("", 200), OutcomeUnknown),
    ],
)
def test_anything_but_an_acceptance_is_an_error(answer: HttpResponse | Exception, kind: type[Exception]) -> None:
    with pytest.raises(kind) as refused:
        started(answer)
    if kind is OutcomeUnknown:
        assert refused.value.advice is Advice.RETRY_LATER  # type: ignore[attr-defined]


def test_a_log_is_polled_and_fetched_without_the_key() -> None:
    lines, script = logged(ADDRESS, says("", 404), says("", 404), says("one\ntwo\nthree\n"), lines=2)
    assert lines == ["two", "three"]
    first, *looks = script.requests
    assert first.url.endswith(f"/api/v0/instances/request_logs/{ID}/")
    assert first.method == "PUT"
    assert {look.url for look in looks} == {"https://logs.example/4242.log"}
    assert all(KEY not in str(look.headers) for look in looks)


def test_a_log_that_never_arrives_is_an_error_and_not_an_empty_log() -> None:
    with pytest.raises(ProviderUnavailable, match="did not provide the log"):
        logged(ADDRESS, says("", 404))


@pytest.mark.parametrize(
    "answer",
    [
        says({"success": False}),
        says({"success": True}),
        says({"success": True, "result_url": "file:///etc/passwd"}),
        says({"success": True, "result_url": "http://10.0.0.1/meta"}),
        says({"success": True, "result_url": "https://169.254.169.254/latest"}),
        says({"success": True, "result_url": "https://[::1]/x"}),
        says({"success": True, "result_url": "https://localhost/x"}),
        says("<html>", 502),
    ],
)
def test_an_unsafe_log_address_is_not_fetched(answer: HttpResponse) -> None:
    with pytest.raises(ProviderUnavailable):
        logged(answer, AssertionError("nothing else is asked"))


@pytest.mark.parametrize(
    "address",
    [
        "https://[abc]/x", "https://[::1/x", "https://logs.example:99999999/x", "https://logs.example:port/x", "https://",
        "https:///x", "https://\ufdfa.example/x",  # malformed
        "https://127.1/", "https://2130706433/", "https://0x7f.1/", "https://0x7f.0xa/", "https://017700000001/",
        "https://10.1.2.3./", "https://1.2.3/", "https://8.8.8.8.8/",  # numbers that a resolver takes for an address
        "https://localhost.:443/", "https://logs.localhost/", "https://logs.local/", "https://metadata.google.internal/",
        "https://logs./", "https://.example/", "https://logs..example/", "https://intranet/x",
        "https://[::ffff:10.0.0.1]/", "https://[fe80::1%25eth0]/", "http://logs.example/x",
    ],
)  # fmt: skip
def test_a_malformed_or_private_log_address_is_an_error_and_is_not_fetched(address: str) -> None:
    answer = says({"success": True, "result_url": address})
    with pytest.raises(ProviderUnavailable):
        logged(answer, AssertionError("nothing else is asked"))


@pytest.mark.parametrize(
    "address",
    [
        "https://s3.amazonaws.com/public.vast.ai/instance_logs/1.log", "https://logs.example:8443/x", "https://8.8.8.8/x",
        "https://[2606:4700::1111]/x", "https://LOGS.EXAMPLE./x", "https://a1.xn--p1ai/x", "https://console.vast.ai/x",
    ],
)  # fmt: skip
def test_a_public_log_address_is_fetched(address: str) -> None:
    lines, _ = logged(says({"success": True, "result_url": address}), says("one"))
    assert lines == ["one"]


def test_bytes_that_are_not_text_do_not_lose_a_log() -> None:
    lines, _ = logged(ADDRESS, says(b"caf\xe9\n"))
    assert lines == ["caf\ufffd"]


# -- charges

DAY = datetime(2026, 6, 12, 15, 30, tzinfo=UTC)


def charged(*answers: Any) -> tuple[Any, Script]:
    return on_script(lambda adapter: adapter.charges(DAY, DAY + timedelta(hours=20)), *answers)


def charge_page(*rows: tuple[str, object], token: object = None, **more: object) -> HttpResponse:
    results = [{"source": source, "amount": amount, "items": []} for source, amount in rows]
    return says({"success": True, "results": results, "next_token": token, **more})


def test_charges_are_requested_by_whole_days_and_summed_by_instance() -> None:
    told, script = charged(
        charge_page(("instance-7", 1.25), ("volume-7", 9.0), token="t1"),
        charge_page(("instance-7", 0.000001), ("instance-8", 0.5)),
    )
    assert told == {"7": 1_250_001, "8": 500_000, "V.7": 9_000_000}
    first, second = script.requests
    filters = json.loads(parse_qs(urlsplit(first.url).query)["select_filters"][0])
    midnight = int(datetime(2026, 6, 12, tzinfo=UTC).timestamp())
    assert filters["day"] == {"gte": midnight - 86_400, "lte": midnight + 3 * 86_400}
    assert parse_qs(urlsplit(second.url).query)["after_token"] == ["t1"]


@pytest.mark.parametrize(
    "answers",
    [
        [says({"success": False, "results": [], "next_token": None})],
        [says({"success": True})],
        [charge_page(("instance-7", 1.0), total=2)],
        [charge_page(("instance-7", 1.0), ("instance-8", 1.0), total=1)],
        [charge_page(("instance-7", 1.0), token="t1"), says("<html>", 502)],
        [charge_page(("instance-7", 1.0), token="t1"), charge_page(("instance-8", 1.0), token="t1")],
        [HttpReplyLost("reset")],
    ],
)
def test_incomplete_charges_are_an_error(answers: list[Any]) -> None:
    with pytest.raises(ProviderUnavailable):
        charged(*answers)


def test_a_charge_that_is_listed_twice_counts_once() -> None:
    assert charged(charge_page(("instance-7", 1.0), ("instance-7", 1.0), ("instance-7", 0.5)))[0] == {"7": 1_500_000}


@pytest.mark.parametrize("odd", [-5.0, 1e13, "much", None, float("inf")])
def test_only_an_instance_with_an_invalid_charge_is_omitted(odd: object) -> None:
    raw = json.dumps({"success": True, "results": [
        {"source": "instance-7", "amount": 1.0}, {"source": "instance-7", "amount": odd},
        {"source": "instance-8", "amount": 0.5}, {"source": None, "amount": 1.0}, {"amount": 1.0}, 5,
    ], "next_token": None}).replace("Infinity", "1e999")  # fmt: skip
    assert charged(says(raw))[0] == {"8": 500_000}
