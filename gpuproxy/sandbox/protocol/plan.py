"""The plan of an answer, which both servers execute: one on sockets, one in process.

When the plan exists, the market has already executed the request, or not, as the fault says. The plan only describes
the delivery of the answer. Faults that corrupt an answer apply to an executed request. Only for html_502 the request
isn't executed, because the gateway did not reach the service. `args.executed` overrides this.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from gpuproxy.ports import HttpResponse
from gpuproxy.sandbox.protocol.faults import Fault
from gpuproxy.sandbox.protocol.wire import page_answer

_HANG_SECONDS = 120.0
_TRICKLE_SECONDS = 1.0
_PAGE_SECONDS = 10.0
LATE_SECONDS = 30.0
Run = Callable[[], HttpResponse]
Failure = Callable[[int, Fault], HttpResponse]
_NOTHING: dict[str, Any] = {
    "instances_found": 0,
    "total_instances": 0,
    "label_counts": {},
    "next_token": None,
}
Delivery = Literal["answer", "reset", "hang", "refuse", "trickle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The delivery of an answer.

    reset and refuse: there is no answer. hang: there is none, and the connection breaks after `real_seconds`.
    trickle: one byte every `real_seconds`.
    """

    delivery: Delivery = "answer"
    response: HttpResponse | None = None
    delay: float = 0.0
    """Seconds of the market's clock before the answer."""
    real_seconds: float = 0.0


def plan_for(fault: Fault, run: Run, run_later: Callable[[float], None], failure: Failure) -> Plan:
    """The plan of a request that a fault hits. `run` executes it; `run_later` executes it after some seconds.

    `failure` is the service's own error with a status and the words of a fault.
    """
    if fault.name in _WITHOUT_ANSWER:
        executed, delivery = _WITHOUT_ANSWER[fault.name]
        if executed:
            run()
        seconds = fault.number("seconds", _HANG_SECONDS) if delivery == "hang" else 0.0
        return Plan(delivery=delivery, real_seconds=seconds)
    if fault.name == "late_effect":
        run_later(fault.number("seconds", LATE_SECONDS))
        return Plan(delivery="reset")
    if fault.name in ("status_before", "status_after"):
        if fault.name == "status_after":
            run()
        status = int(fault.number("status", 500))
        return Plan(response=failure(status, fault) if "msg" in fault.args else page_answer(status))
    if fault.name == "slow_pages":
        return Plan(response=run(), delay=fault.number("seconds", _PAGE_SECONDS))
    return _corrupted(fault, run)


def concerns_answer(fault: Fault) -> bool:
    """True if the fault concerns the answer; False if the dialect itself implements it."""
    return fault.name in _WITHOUT_ANSWER or fault.name in _CORRUPTIONS or fault.name in _OTHERS


_WITHOUT_ANSWER: dict[str, tuple[bool, Delivery]] = {
    "refuse_connection": (False, "refuse"),
    "reset_before": (False, "reset"),
    "reset_after": (True, "reset"),
    "hang_before": (False, "hang"),
    "hang_after": (True, "hang"),
}
_OTHERS = frozenset({"late_effect", "status_before", "status_after", "slow_trickle", "slow_pages", "html_502"})


def _corrupted(fault: Fault, run: Run) -> Plan:
    executed = bool(fault.args.get("executed", fault.name != "html_502"))
    response = run() if executed else page_answer(502)
    if fault.name == "html_502":
        return Plan(response=page_answer(502))
    if fault.name == "slow_trickle":
        return Plan(delivery="trickle", response=response, real_seconds=fault.number("seconds", _TRICKLE_SECONDS))
    return Plan(response=_CORRUPTIONS[fault.name](response) if response.status == 200 else response)


def _malformed(response: HttpResponse) -> HttpResponse:
    return replace(response, body=response.body[:-1] + b",,}")


def _truncated(response: HttpResponse) -> HttpResponse:
    return replace(response, body=response.body[: len(response.body) // 2])


def _empty(response: HttpResponse) -> HttpResponse:
    return replace(response, body=b"")


def _empty_list(response: HttpResponse) -> HttpResponse:
    """A successful answer with an empty list."""
    return _edited(response, _NOTHING, 0)


def _missing_page(response: HttpResponse) -> HttpResponse:
    """A list without its next page. If there is no next page, the second half of this one is missing."""
    body = json.loads(response.body)
    keep = None if isinstance(body, dict) and body.get("next_token") else 2
    return _edited(response, {"next_token": None}, keep)


def _edited(response: HttpResponse, values: dict[str, Any], keep: int | None) -> HttpResponse:
    """The answer with changed values. `keep` 0 drops all rows, 2 drops the second half, None drops none."""
    body = json.loads(response.body)
    if not isinstance(body, dict):
        return response
    inner = body
    if isinstance(body.get("data"), dict):  # some services wrap what they say, and count it there
        inner = body["data"]
        values = {**values, "total": 0} if keep == 0 else values
    for name, value in inner.items():
        if name in values:
            inner[name] = values[name]
        elif isinstance(value, list) and name != "statuses" and keep is not None:
            inner[name] = value[: len(value) // keep] if keep else []
    return replace(response, body=json.dumps(body).encode())


_CORRUPTIONS: dict[str, Callable[[HttpResponse], HttpResponse]] = {
    "malformed_json": _malformed,
    "truncated": _truncated,
    "empty_body": _empty,
    "empty_list": _empty_list,
    "missing_page": _missing_page,
}
