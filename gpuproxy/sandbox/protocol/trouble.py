"""What a request gets: the plan that both shells carry out, one on sockets, one in process.

The market's part (executed or not, now or later) is settled when the plan exists; what remains is how the answer
travels. Faults that spoil an answer act on a request that was executed, but for html_502, where the gateway did not
reach the service; `args.executed` says otherwise.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from gpuproxy.ports import HttpResponse
from gpuproxy.sandbox.protocol.faults import Fault
from gpuproxy.sandbox.protocol.wire import answer, page_answer

_HANG_SECONDS = 120.0
_TRICKLE_SECONDS = 1.0
_PAGE_SECONDS = 10.0
LATE_SECONDS = 30.0
Run = Callable[[], HttpResponse]
Travel = Literal["answer", "reset", "hang", "refuse", "trickle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How an answer travels.

    reset and refuse: there is none; hang: none either, after `real_seconds`; trickle: a byte each `real_seconds`.
    """

    travel: Travel = "answer"
    response: HttpResponse | None = None
    delay: float = 0.0
    """Seconds of the market's clock before the answer."""
    real_seconds: float = 0.0


def troubled(fault: Fault, run: Run, run_later: Callable[[float], None]) -> Plan:
    """The plan for a request that a fault hits; `run` executes it, `run_later` does so that many seconds later."""
    if fault.name in _UNANSWERED:
        executed, travel = _UNANSWERED[fault.name]
        if executed:
            run()
        seconds = fault.number("seconds", _HANG_SECONDS) if travel == "hang" else 0.0
        return Plan(travel=travel, real_seconds=seconds)
    if fault.name == "late_effect":
        run_later(fault.number("seconds", LATE_SECONDS))
        return Plan(travel="reset")
    if fault.name in ("status_before", "status_after"):
        if fault.name == "status_after":
            run()
        return Plan(response=_failed(fault, int(fault.number("status", 500))))
    if fault.name == "slow_pages":
        return Plan(response=run(), delay=fault.number("seconds", _PAGE_SECONDS))
    return _spoilt(fault, run)


def is_about_the_answer(fault: Fault) -> bool:
    """False: the dialect itself carries the fault out."""
    return fault.name in _UNANSWERED or fault.name in _SPOILERS or fault.name in _OTHERS


_UNANSWERED: dict[str, tuple[bool, Travel]] = {
    "refuse_connection": (False, "refuse"),
    "reset_before": (False, "reset"),
    "reset_after": (True, "reset"),
    "hang_before": (False, "hang"),
    "hang_after": (True, "hang"),
}
_OTHERS = frozenset({"late_effect", "status_before", "status_after", "slow_trickle", "slow_pages", "html_502"})


def _spoilt(fault: Fault, run: Run) -> Plan:
    executed = bool(fault.args.get("executed", fault.name != "html_502"))
    response = run() if executed else page_answer(502)
    if fault.name == "html_502":
        return Plan(response=page_answer(502))
    if fault.name == "slow_trickle":
        return Plan(travel="trickle", response=response, real_seconds=fault.number("seconds", _TRICKLE_SECONDS))
    return Plan(response=_SPOILERS[fault.name](response) if response.status == 200 else response)


def _failed(fault: Fault, status: int) -> HttpResponse:
    """A gateway's page, or with `args.msg` what the service itself says when it fails."""
    if "msg" not in fault.args:
        return page_answer(status)
    body = {"success": False, "error": str(fault.args.get("error", "internal_error")), "msg": str(fault.args["msg"])}
    return answer(body, status)


def _malformed(response: HttpResponse) -> HttpResponse:
    return replace(response, body=response.body[:-1] + b",,}")


def _truncated(response: HttpResponse) -> HttpResponse:
    return replace(response, body=response.body[: len(response.body) // 2])


def _empty(response: HttpResponse) -> HttpResponse:
    return replace(response, body=b"")


def _empty_list(response: HttpResponse) -> HttpResponse:
    """Everything is fine, and there is nothing."""
    return _edited(response, {"instances_found": 0, "total_instances": 0, "label_counts": {}, "next_token": None}, 0)


def _missing_page(response: HttpResponse) -> HttpResponse:
    """What would follow is not mentioned; where nothing would, this page has lost its second half."""
    body = json.loads(response.body)
    keep = None if isinstance(body, dict) and body.get("next_token") else 2
    return _edited(response, {"next_token": None}, keep)


def _edited(response: HttpResponse, values: dict[str, Any], keep: int | None) -> HttpResponse:
    """`keep`: 0 drops all rows, 2 the second half, None nothing."""
    body = json.loads(response.body)
    if not isinstance(body, dict):
        return response
    for name, value in body.items():
        if name in values:
            body[name] = values[name]
        elif isinstance(value, list) and keep is not None:
            body[name] = value[: len(value) // keep] if keep else []
    return replace(response, body=json.dumps(body).encode())


_SPOILERS: dict[str, Callable[[HttpResponse], HttpResponse]] = {
    "malformed_json": _malformed,
    "truncated": _truncated,
    "empty_body": _empty,
    "empty_list": _empty_list,
    "missing_page": _missing_page,
}
