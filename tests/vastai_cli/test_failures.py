"""The command line's output when the service fails: each failure is armed, the text compared, the requests counted."""

from typing import Any

import pytest

from tests.vastai_cli.expect import Step
from tests.vastai_cli.program import Program
from tests.vastai_cli.stage import Market, play

pytestmark = pytest.mark.timeout(3600)  # a command takes about a second, and many seconds on a busy machine

KEY = "key-faults"


def _armed(call: str, fault: str, times: int = 0, **args: Any) -> list[dict[str, Any]]:
    return [{"call": call, "fault": fault, "times": times, "account": KEY, "args": args}]


_CREATE = "create instance 1 --image x"
_NO_ASK = "error 404/3603: no_such_ask  Instance type by id 1 is not available."
_NO_CREDIT = "Your account lacks credit; see the billing page."
_REFUSED = "The request could not be processed."
_FAILURES = {
    "an offer that is gone": Step(run=_CREATE, err=f"Failed with error 400: {_NO_ASK}", calls={"create": 1}),
    "an offer that a stranger takes": Step(
        run=_CREATE, faults=_armed("create", "offer_gone"), err=f"Failed with error 400: {_NO_ASK}"
    ),
    "no capacity": Step(
        run=f"{_CREATE} --cancel-unavail",
        faults=_armed("create", "no_capacity"),
        err="Failed with error 410: error 410/3907: no_such_ask Instance type 1 is no longer available.",
    ),
    "no credit": Step(
        run=_CREATE, faults=_armed("create", "insufficient_credit"), err=f"Failed with error 400: {_NO_CREDIT}"
    ),
    "no credit, raw": Step(
        run=f"{_CREATE} --raw",
        faults=_armed("create", "insufficient_credit"),
        err=f'{{"error": true, "status_code": 400, "msg": "{_NO_CREDIT}"}}',
    ),
    "a refusal with status 200": Step(
        run=_CREATE,
        faults=_armed("create", "refused_200"),
        out=f"Started. {{'success': False, 'error': 'internal_error', 'msg': '{_REFUSED}'}}",
    ),
    "a stop that is refused with status 200": Step(
        run="stop instance 7", faults=_armed("stop", "refused_200"), out=_REFUSED
    ),
    "a start of what is not there": Step(run="start instance 7", err="Failed with error 404: Instance 7 not found."),
    "a stop of what is not there": Step(run="stop instance 7", err="Failed with error 404: Instance 7 not found."),
    "a label of what is not there": Step(run="label instance 7 x", err="Failed with error 404: Instance 7 not found."),
    "a destroy of what is not there": Step(
        run="destroy instance 7 -y", err="Failed with error 404: Instance 7 not found."
    ),
    "too many requests, as text": Step(
        run="show volumes",
        faults=_armed("volume_list", "rate_limited"),
        err="Failed with error 429: (no detail message supplied)",
        calls={"volume_list": 3},
    ),
    "too many requests, then few enough": Step(
        run="show volumes --raw",
        faults=_armed("volume_list", "rate_limited", 2, retry_after=1),
        out="[]",
        calls={"volume_list": 3},
    ),
    "too many requests, as a detail": Step(
        run="show volumes",
        faults=_armed("volume_list", "rate_limited", form="detail"),
        err="Failed with error 429: None",
        calls={"volume_list": 3},
    ),
    "too many requests, as the usual form": Step(
        run="show volumes",
        faults=_armed("volume_list", "rate_limited", form="json"),
        err="Failed with error 429: API requests too frequent",
        calls={"volume_list": 3},
    ),
    "a search quota that is used up": Step(
        run="search offers",
        faults=_armed("search", "rate_limited", form="quota"),
        err="Failed with error 429: Daily search quota exceeded. Resets at <date> 00:00 UTC.",
        calls={"search": 1},
    ),
    "a service that is down": Step(
        run="show volumes",
        faults=_armed("volume_list", "status_503_before", msg="Down for maintenance."),
        err="Failed with error 503: Down for maintenance.",
        calls={"volume_list": 3},
    ),
    "a gateway's page": Step(
        run="show volumes",
        faults=_armed("volume_list", "html_502"),
        err="Failed with error 502: (no detail message supplied)",
        calls={"volume_list": 3},
    ),
    "a key that nobody knows": Step(run="show volumes", key="nobody", err="Failed with error 404: Invalid user key"),
    "a key that is not known any more": Step(
        run="search offers", faults=_armed("search", "auth_error"), err="Failed with error 404: Invalid user key"
    ),
    "charges that fail": Step(
        run="show invoices-v1 --charges --raw",
        faults=_armed("charges", "status_before", status=500, msg="Broken."),
        err='{"error": true, "status_code": 500, "msg": "Broken."}',
        calls={"charges": 1},
    ),
    "no credit for a volume": Step(
        run="create volume 1",
        faults=_armed("volume_create", "insufficient_credit"),
        err=f"Failed with error 400: {_NO_CREDIT}",
    ),
}


@pytest.mark.parametrize("failure", _FAILURES)
def test_a_failure_is_reported_as_with_the_real_service(program: Program, market: Market, failure: str) -> None:
    play(program, market, KEY, [_FAILURES[failure]])
