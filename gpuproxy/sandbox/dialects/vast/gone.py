"""The forms of vast.ai's "no such instance". The documented forms are `null` for reads and 404 for changes."""

from gpuproxy.ports import HttpResponse
from gpuproxy.sandbox.dialects.vast import errors
from gpuproxy.sandbox.options import GoneForm
from gpuproxy.sandbox.protocol.faults import Fault
from gpuproxy.sandbox.protocol.wire import answer, page_answer, text_answer

_LOOKS_LIKE_SUCCESS = frozenset({"null", "empty_list", "empty_object"})


def gone(number: int, standing: GoneForm, fault: Fault | None, *, reads: bool) -> HttpResponse:
    """The answer to a read or destroy of a missing instance. A fault's form overrides the `standing` form.

    A standing form with status 200 applies to reads only; a destroy then gets the documented answer.
    """
    if fault is not None and fault.name == "gone_as":
        return _spelt(str(fault.args.get("form", "null")), number, str(fault.args.get("body", "Not Found")))
    if standing in _LOOKS_LIKE_SUCCESS and not reads:
        return errors.no_such_instance(number)
    return _spelt(standing, number, "Not Found")


def _spelt(form: str, number: int, text: str) -> HttpResponse:
    match form:
        case "empty_list":
            return answer({"instances": []})
        case "empty_object":
            return answer({"instances": {}})
        case "status_410":
            return errors.refused(410, "gone", f"Instance {number} is gone.")
        case "plain_404":
            return text_answer(text, 404)
        case "no_such_instance":
            return errors.no_such_instance(number)
        case "html_404":
            return page_answer(404)
    return answer({"instances": None})
