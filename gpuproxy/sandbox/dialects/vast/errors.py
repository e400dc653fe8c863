"""vast.ai's error answers, word for word as they were recorded. The body says more than the HTTP status."""

from collections.abc import Mapping

from gpuproxy.ports import HttpResponse
from gpuproxy.sandbox.protocol.faults import Fault
from gpuproxy.sandbox.protocol.wire import answer, text_answer

_CREATE_INTERVAL = 4.5
_EMPTY: Mapping[str, Mapping[str, object]] = {
    "search": {"offers": []},
    "list": {"instances": [], "next_token": None, "total_instances": 0},
    "charges": {"results": [], "next_token": None, "total": 0},
    "volume_search": {"offers": []},
    "volume_list": {"volumes": []},
}
"""The empty lists of the calls that answer one."""


def refused(status: int, error: str, text: str, **more: object) -> HttpResponse:
    """An error in the usual form."""
    return answer({"success": False, "error": error, "msg": text, **more}, status)


def unknown_key() -> HttpResponse:
    """The API key is unknown. The status is 404, although it means 401."""
    return refused(404, "auth_error", "Invalid user key")


def session_expired() -> HttpResponse:
    """The session of the key has expired. The status is 404, although it means 401."""
    return refused(404, "session_expired", "Session expired. Please log in again.")


def no_key() -> HttpResponse:
    """The request has no API key."""
    return refused(403, "auth_error", "This action requires login.")


def not_permitted() -> HttpResponse:
    """The key of a container is for reading, stopping and destroying that instance alone."""
    return refused(403, "auth_error", "This key is not permitted to do this.")


def bad_json() -> HttpResponse:
    """The body is not a JSON object."""
    return answer({"error": "invalid_request", "msg": "Invalid json body"}, 400)


def bad_request(text: str) -> HttpResponse:
    """The query is invalid."""
    return refused(400, "invalid_request", text)


def bad_args(text: str, **more: object) -> HttpResponse:
    """The arguments are invalid."""
    return refused(400, "invalid_args", f"error 400/3467: {text}", **more)


def no_such_ask(offer_id: int) -> HttpResponse:
    """The offer is rented, withdrawn or unknown. The live service answers 400; its documentation says 404."""
    text = f"error 404/3603: no_such_ask  Instance type by id {offer_id} is not available."
    return refused(400, "invalid_args", text, ask_id=offer_id)


def ask_unavailable(offer_id: int) -> HttpResponse:
    """The offer is not available, for callers that set cancel_unavail."""
    text = f"error 410/3907: no_such_ask Instance type {offer_id} is no longer available."
    return refused(410, "no_such_ask", text, ask_id=offer_id)


def insufficient_credit() -> HttpResponse:
    """The account has no credit. The answer has no `success`, as recorded."""
    return answer({"error": "insufficient_credit", "msg": "Your account lacks credit; see the billing page."}, 400)


def no_such_instance(instance_id: int) -> HttpResponse:
    """The instance does not exist or belongs to another account."""
    return refused(404, "no_such_instance", f"Instance {instance_id} not found.")


def no_offer_found() -> HttpResponse:
    """The search of a launch found no offer."""
    return refused(400, "no_such_ask", "No offers match the query.")


def no_restart(instance_id: int, error: str) -> HttpResponse:
    """A reboot (invalid_args) or recycle (invalid_id) of an instance that doesn't exist or doesn't run."""
    return refused(400, error, f"error 400/3472: Instance {instance_id} is not running.")


def no_key_added(text: str) -> HttpResponse:
    """The public SSH key of an instance is refused."""
    return refused(400, "invalid_args", text)


def no_bid(text: str) -> HttpResponse:
    """The bid is invalid."""
    return refused(400, "invalid_args", f"error 400/3481: {text}")


def no_such_volume_ask(ask_id: int) -> HttpResponse:
    """There is no volume offer with this id."""
    return bad_args(f"volume offer {ask_id} is not available")


def no_such_volume() -> HttpResponse:
    """The volume is deleted, unknown or belongs to another account."""
    return refused(404, "no_such_volume", "Volume with that ID does not exist.")


def volume_in_use(volume_id: int) -> HttpResponse:
    """The volume can't be deleted because instances use it."""
    return bad_args(f"volume {volume_id} is in use by instances; destroy them first")


def volume_not_shared() -> HttpResponse:
    """The volume of a create is in use by another instance."""
    return bad_args("the volume is attached to another instance")


def bad_volume_name() -> HttpResponse:
    """The volume name is invalid. This is the only answer with 422."""
    return refused(422, "invalid_args", "name: 1 to 64 letters, digits and underscores")


def resources_unavailable() -> HttpResponse:
    """The start was queued. The HTTP status is 200."""
    text = "Required resources are currently unavailable, state change queued."
    return refused(200, "resources_unavailable", text)


def refused_with_200(call: str) -> HttpResponse:
    """An error without a known reason, with status 200. The answer to a list has an empty list."""
    return refused(200, "internal_error", "The request could not be processed.", **_EMPTY.get(call, {}))


def deprecated_list() -> HttpResponse:
    """The old endpoint for the list of instances is removed."""
    text = "This endpoint is deprecated. Use GET /api/v1/instances/ instead."
    return refused(410, "deprecated_endpoint", text)


def not_found(path: str) -> HttpResponse:
    """The endpoint is unknown or not simulated."""
    return refused(404, "not_found", f"{path} is not available.")


def too_frequent(threshold: float | None, form: str) -> HttpResponse:
    """The rate limit is exceeded. The recorded forms are text, detail (JSON) and json (the usual error form)."""
    limit = "" if threshold is None else f" endpoint threshold={threshold}"
    if form == "text":
        colon = ":" if limit else ""
        return text_answer(f"API requests too frequent{colon}{limit}", 429)
    if form == "detail":
        return answer({"detail": f"API requests too frequent{limit}"}, 429)
    return refused(429, "rate_limit_exceeded", f"API requests too frequent{limit}")


def limited_by(fault: Fault, now: float) -> HttpResponse:
    """The answer of the fault rate_limited, in one of the recorded forms. args.retry_after becomes a header.

    args.form is one of: text; threshold (a text with the interval); detail and json (with args.threshold if it is
    set); quota (the daily limit of searches).
    """
    form = str(fault.args.get("form", "text"))
    if form == "quota":
        midnight = int(now // 86400 + 1) * 86400
        response = answer({"error": "search_quota_exceeded", "msg": "Daily search quota exceeded"}, 429)
        headers = {**response.headers, "x-ratelimit-reset": str(midnight)}
    else:
        text = form == "threshold"
        threshold = fault.number("threshold", _CREATE_INTERVAL) if text or "threshold" in fault.args else None
        response = too_frequent(threshold, "text" if text else form)
        headers = dict(response.headers)
    if (retry_after := fault.args.get("retry_after")) is not None:
        headers["retry-after"] = str(retry_after)
    return HttpResponse(status=429, headers=headers, body=response.body)
