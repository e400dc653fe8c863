"""vast.ai's ways of saying no, word for word as they were recorded. Bodies matter more than statuses there."""

from gpuproxy.ports import HttpResponse
from gpuproxy.sandbox.protocol.faults import Fault
from gpuproxy.sandbox.protocol.wire import answer, text_answer

_CREATE_INTERVAL = 4.5


def refused(status: int, error: str, text: str, **more: object) -> HttpResponse:
    """The usual form."""
    return answer({"success": False, "error": error, "msg": text, **more}, status)


def unknown_key() -> HttpResponse:
    """404, although it means 401."""
    return refused(404, "auth_error", "Invalid user key")


def session_expired() -> HttpResponse:
    """The key was good until a moment ago. 404, although it means 401."""
    return refused(404, "session_expired", "Session expired. Please log in again.")


def no_key() -> HttpResponse:
    """There is no Authorization header."""
    return refused(403, "auth_error", "This action requires login.")


def bad_json() -> HttpResponse:
    """The body is no JSON object."""
    return answer({"error": "invalid_request", "msg": "Invalid json body"}, 400)


def bad_request(text: str) -> HttpResponse:
    """A query that can't be understood."""
    return refused(400, "invalid_request", text)


def bad_args(text: str, **more: object) -> HttpResponse:
    """A request that names impossible things."""
    return refused(400, "invalid_args", f"error 400/3467: {text}", **more)


def no_such_ask(offer_id: int) -> HttpResponse:
    """Taken, withdrawn or never there. The live service says 400 where its documentation says 404."""
    text = f"error 404/3603: no_such_ask  Instance type by id {offer_id} is not available."
    return refused(400, "invalid_args", text, ask_id=offer_id)


def ask_unavailable(offer_id: int) -> HttpResponse:
    """The same for callers who set cancel_unavail."""
    text = f"error 410/3907: no_such_ask Instance type {offer_id} is no longer available."
    return refused(410, "no_such_ask", text, ask_id=offer_id)


def insufficient_credit() -> HttpResponse:
    """Without `success`, as recorded."""
    return answer({"error": "insufficient_credit", "msg": "Your account lacks credit; see the billing page."}, 400)


def no_such_instance(instance_id: int) -> HttpResponse:
    """Not this account's, or gone."""
    return refused(404, "no_such_instance", f"Instance {instance_id} not found.")


def no_offer_found() -> HttpResponse:
    """A launch whose search found nothing."""
    return refused(400, "no_such_ask", "No offers match the query.")


def no_restart(instance_id: int, error: str) -> HttpResponse:
    """A reboot (invalid_args) or recycle (invalid_id) of what is not there or not running."""
    return refused(400, error, f"error 400/3472: Instance {instance_id} is not running.")


def no_bid(text: str) -> HttpResponse:
    """A bid that can't be."""
    return refused(400, "invalid_args", f"error 400/3481: {text}")


def no_such_volume_ask(ask_id: int) -> HttpResponse:
    """Nobody offers volumes under this id."""
    return bad_args(f"volume offer {ask_id} is not available")


def no_such_volume() -> HttpResponse:
    """Not this account's, or deleted."""
    return refused(404, "no_such_volume", "Volume with that ID does not exist.")


def volume_in_use(volume_id: int) -> HttpResponse:
    """A delete while instances have it."""
    return bad_args(f"volume {volume_id} is in use by instances; destroy them first")


def volume_not_shared() -> HttpResponse:
    """A create with a volume that another instance has."""
    return bad_args("the volume is attached to another instance")


def bad_volume_name() -> HttpResponse:
    """The one answer with 422."""
    return refused(422, "invalid_args", "name: 1 to 64 letters, digits and underscores")


def resources_unavailable() -> HttpResponse:
    """A start that was queued: HTTP says that all is well."""
    text = "Required resources are currently unavailable, state change queued."
    return refused(200, "resources_unavailable", text)


def refused_with_200() -> HttpResponse:
    """No reason that anybody knows, under a status that says success."""
    return refused(200, "internal_error", "The request could not be processed.")


def deprecated_list() -> HttpResponse:
    """The old list of instances."""
    text = "This endpoint is deprecated. Use GET /api/v1/instances/ instead."
    return refused(410, "deprecated_endpoint", text)


def not_found(path: str) -> HttpResponse:
    """No such endpoint, or one that this market does not have."""
    return refused(404, "not_found", f"{path} is not available.")


def too_frequent(threshold: float | None, form: str) -> HttpResponse:
    """One of the recorded forms of 429: text, detail (JSON) or json (the usual form)."""
    limit = "" if threshold is None else f" endpoint threshold={threshold}"
    if form == "text":
        colon = ":" if limit else ""
        return text_answer(f"API requests too frequent{colon}{limit}", 429)
    if form == "detail":
        return answer({"detail": f"API requests too frequent{limit}"}, 429)
    return refused(429, "rate_limit_exceeded", f"API requests too frequent{limit}")


def limited_by(fault: Fault, now: float) -> HttpResponse:
    """The fault rate_limited, in one of the recorded forms; args.retry_after becomes a header.

    args.form: text; threshold, text that names the interval; detail and json, which name args.threshold if it is set;
    quota, the daily one of searches.
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
