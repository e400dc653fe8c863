"""io.net's error answers. Their shape says where they come from: business, authentication or validation."""

from collections.abc import Mapping
from email.utils import formatdate
from math import ceil
from typing import Literal

from gpuproxy.ports import HttpResponse
from gpuproxy.sandbox.protocol.faults import Fault
from gpuproxy.sandbox.protocol.wire import answer, page_answer, text_answer

RetryForm = Literal["seconds", "date"]
_EMPTY: Mapping[str, object] = {"search": {"hardware": []}, "list": {"deployments": [], "total": 0}}
"""The empty lists of the calls that answer one."""


def failed(status: int, text: str) -> HttpResponse:
    """A business failure."""
    return answer({"status": "failed", "error": text}, status)


def failed_with_200(call: str) -> HttpResponse:
    """A business failure with status 200. The answer to a list has an empty list."""
    text, data = "The request could not be processed", _EMPTY.get(call)
    return failed(200, text) if data is None else answer({"status": "failed", "error": text, "data": data})


def detail(status: int, text: str) -> HttpResponse:
    """A failure of authentication, or of the framework."""
    return answer({"detail": text}, status)


def unauthorized() -> HttpResponse:
    """The key is missing, unknown, or of another product."""
    return detail(401, "Invalid or missing API key")


def no_such_call() -> HttpResponse:
    """The endpoint is unknown or not simulated."""
    return detail(404, "Not Found")


def no_such_deployment() -> HttpResponse:
    """The deployment does not exist, belongs to another account, or is not visible yet."""
    return failed(404, "Deployment not found")


def no_capacity(status: int = 400) -> HttpResponse:
    """No host has so many free GPUs. The status is not known for certain; 400 and 409 are plausible."""
    return failed(status, "Requested hardware is sold out: no available capacity in this location")


def no_such_hardware(status: int = 400) -> HttpResponse:
    """There is no such configuration in this country, or it is not offered any more."""
    return failed(status, "Hardware is not available for this configuration")


def no_credit() -> HttpResponse:
    """The account has too little credit."""
    return failed(402, "Insufficient credits: please top up your balance")


def too_many(form: RetryForm, seconds: float, now: float) -> HttpResponse:
    """The rate limit is exceeded. `Retry-After` has seconds, or the date in `now`'s time."""
    wait = max(1, ceil(seconds))
    when = str(wait) if form == "seconds" else formatdate(ceil(now + wait), usegmt=True)
    return _limited({"retry-after": when})


def limited_by(fault: Fault, now: float) -> HttpResponse:
    """The answer of the fault rate_limited. Without args.retry_after there is no header; args.form may be date."""
    after = fault.args.get("retry_after")
    if after is None:
        return _limited({})
    if fault.args.get("form") == "date":
        return too_many("date", float(after), now)
    return _limited({"retry-after": str(after)})


def gone(fault: Fault | None) -> HttpResponse:
    """The answer to a read or destroy of a missing deployment; a fault may give it another form."""
    match fault.args.get("form", "detail_404") if fault is not None and fault.name == "gone_as" else "":
        case "null":
            return answer({"data": None})
        case "empty_object":
            return answer({"data": {}})
        case "detail_404":
            return detail(404, "Not Found")
        case "status_410":
            return failed(410, "Deployment is gone")
        case "plain_404":
            return text_answer(str(fault.args.get("body", "Not Found")) if fault else "", 404)
        case "html_404":
            return page_answer(404)
    return no_such_deployment()


def _limited(headers: dict[str, str]) -> HttpResponse:
    response = detail(429, "Too many requests")
    return HttpResponse(status=429, headers={**response.headers, **headers}, body=response.body)
