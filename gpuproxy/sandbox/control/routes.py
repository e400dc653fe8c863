"""The calls of the control API. Numbers name things of the on-demand market, other ids those of the prepaid market."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gpuproxy.ports import HttpResponse
from gpuproxy.sandbox.control.bodies import WrongCall, number_in
from gpuproxy.sandbox.control.on_demand import OnDemandControl
from gpuproxy.sandbox.control.prepaid import PrepaidControl
from gpuproxy.sandbox.market.clock import SandboxClock
from gpuproxy.sandbox.market.exchange import SimulatedMarket
from gpuproxy.sandbox.market.prepaid.exchange import PrepaidMarket
from gpuproxy.sandbox.protocol.faults import BadFault, Faults
from gpuproxy.sandbox.protocol.wire import BadBody, Incoming, answer

PREFIX = "/sandbox/v1/"
_PATH = re.compile(
    r"/sandbox/v1/(?P<what>state|faults|clock|instances|machines|offers|images)(/(?P<id>[\w.-]+)(/(?P<act>\w+))?)?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """The objects that the control API reads and changes."""

    market: SimulatedMarket
    on_demand: OnDemandControl
    prepaid_market: PrepaidMarket
    prepaid: PrepaidControl
    faults: Faults
    clock: SandboxClock
    tick: Callable[[], None]
    """Runs all events that are due."""
    calls: Callable[[], dict[str, dict[str, int]]]
    """Returns the number of received requests by provider and call."""


def respond(controls: Controls, request: Incoming) -> HttpResponse:
    """Execute one call. Errors are {"error": text} with status 400 or 404."""
    path = _PATH.fullmatch(request.path)
    if path is None:
        return answer({"error": f"there is no call {request.method} {request.path}; see docs/sandbox.md"}, 404)
    what = " ".join(part for part in (request.method, path["what"], path["act"]) if part)
    try:
        return answer(_done(controls, what, path["id"] or "0", request))
    except BadBody:
        return answer({"error": "the body must be a JSON object"}, 400)
    except (WrongCall, BadFault) as error:
        return answer({"error": str(error)}, 400)
    except KeyError as error:
        return answer({"error": f"there is no {path['what']} {error.args[0]}"}, 404)


def _done(controls: Controls, what: str, named: str, request: Incoming) -> dict[str, Any]:
    body = request.json()
    match what:
        case "GET state":
            return _state(controls)
        case "POST faults":
            armed = controls.faults.arm(body)
            return {"armed": armed.name, "call": armed.call, "times": armed.times or 0, "after": armed.after}
        case "DELETE faults":
            return {"cleared": controls.faults.clear()}
        case "POST clock":
            controls.clock.advance(number_in(body, "advance_seconds"))
            controls.tick()
            return {"now": controls.market.now}
    return (controls.on_demand if named.isdigit() else controls.prepaid).done(what, named, request)


def _state(controls: Controls) -> dict[str, Any]:
    return {
        "now": controls.market.now,
        "instances": controls.on_demand.instances() + controls.prepaid.instances(),
        "volumes": controls.on_demand.volumes(),
        "broken_machines": {**controls.on_demand.broken(), **controls.prepaid.broken()},
        "broken_images": list(controls.market.defects.images),
        "bill_micro_usd": controls.market.bill() + controls.prepaid_market.bill(),
        "calls": controls.calls(),
    }
