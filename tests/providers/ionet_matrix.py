"""The fault matrix of io.net as data: every fault of the sandbox against every call that the adapter makes.

A cell says what the call must come to, as in the matrix of vast.ai (tests/system/matrix.py):

    ok         a whole, true answer                      empty      an answer without rows: the engine judges it
    short      an answer of the right form, rows missing named      an answer that names the row that can't be read
    made       a machine, whatever is wrong with it      done       accepted, and the machine ends
    ignored    accepted, and nothing came of it          silent     ProviderUnavailable
    limited    RateLimited                               auth       AuthFailed
    funds      InsufficientFunds                         full       NoCapacity
    moved      PriceMoved                                others     an answer with other deployments in its place
    unknown    OutcomeUnknown, and the market did nothing
    unknown+   OutcomeUnknown, and the market did it
    unknown>   OutcomeUnknown, and the market does it later
    -          the fault can't hit this call

Refusals (silent, limited, auth, funds, full, moved) always mean that the market did nothing. `price` is the question
before each create, so its outcomes are those of a create that was not sent. `vms` tells how to get into a machine; a
listing without it is whole. A listing of io.net may miss a machine (`listing_may_miss`), so `others`, `named` and
`empty` prove nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

CALLS = ("search", "price", "create", "list", "vms", "get", "destroy", "extend")

TABLE = """
fault                      search   price    create    list     vms  get      destroy   extend
refuse_connection          silent   silent   silent    silent   ok   silent   silent    silent
hang_before                silent   silent   unknown   silent   ok   silent   unknown   unknown
hang_after                 silent   silent   unknown+  silent   ok   silent   unknown+  unknown+
reset_before               silent   silent   unknown   silent   ok   silent   unknown   unknown
reset_after                silent   silent   unknown+  silent   ok   silent   unknown+  unknown+
status_500_before          silent   silent   unknown   silent   ok   silent   unknown   unknown
status_503_before          silent   silent   unknown   silent   ok   silent   unknown   unknown
status_500_after           silent   silent   unknown+  silent   ok   silent   unknown+  unknown+
status_504_after           silent   silent   unknown+  silent   ok   silent   unknown+  unknown+
rate_limited:seconds       limited  limited  limited   limited  ok   limited  limited   limited
rate_limited:date          limited  limited  limited   limited  ok   limited  limited   limited
refused_200                silent   silent   unknown   silent   ok   silent   unknown   unknown
malformed_json             silent   silent   made      silent   ok   silent   done      unknown+
html_502                   silent   silent   unknown   silent   ok   silent   unknown   unknown
truncated                  silent   silent   made      silent   ok   silent   done      unknown+
empty_body                 silent   silent   made      silent   ok   silent   done      unknown+
slow_trickle               silent   silent   made      silent   ok   silent   unknown+  unknown+
auth_error                 auth     auth     auth      auth     ok   auth     auth      auth
session_expired            auth     auth     auth      auth     ok   auth     auth      auth
no_capacity                -        -        full      -        -    -        -         -
offer_gone                 -        -        full      -        -    -        -         -
name_taken                 -        -        unknown   -        -    -        -         -
deploy_body:empty          -        -        made      -        -    -        -         -
deploy_body:deployment_id  -        -        made      -        -    -        -         -
deploy_body:id             -        -        made      -        -    -        -         -
deploy_body:resource_id    -        -        made      -        -    -        -         -
deploy_body:data           -        -        made      -        -    -        -         -
wrong_gpu                  -        -        made      -        -    -        -         -
never_ready                -        -        made      -        -    -        -         -
never_reachable            -        -        made      -        -    -        -         -
host_fault                 -        -        made      -        -    -        -         -
no_ssh                     -        -        made      -        -    -        -         -
dies_after_ready           -        -        made      -        -    -        -         -
empty_list                 empty    -        -         empty    ok   -        -         -
missing_page               short    -        -         silent   ok   -        -         -
slow_pages                 ok       -        -         ok       ok   -        -         -
endless_list               -        -        -         others   -    -        -         -
unstable_pages             -        -        -         ok       -    -        -         -
odd_row:no_id              -        -        -         named    -    silent   -         -
odd_row:null_row           -        -        -         named    -    silent   -         -
odd_row:undecodable        -        -        -         named    -    ok       -         -
odd_row:nan                -        -        -         ok       -    ok       -         -
odd_row:wrong_types        -        -        -         others   -    silent   -         -
odd_row:null_fields        -        -        -         ok       -    silent   -         -
status_words:upper         -        -        -         ok       -    ok       -         -
status_words:underscores   -        -        -         ok       -    ok       -         -
status_words:unknown       -        -        -         ok       -    ok       -         -
insufficient_credit        -        -        funds     -        -    -        -         funds
price_moved                -        moved    made      -        -    -        -         -
late_effect                -        -        unknown>  -        -    -        unknown>  unknown>
destroy_ignored            -        -        -         -        -    -        ignored   -
gone_as                    -        -        -         -        -    ok       done      -
stream_error               -        -        -         -        -    -        -         -
"""
"""In the sandbox the body of an answer to a deploy is empty, so that a cut or malformed one is the usual one: the
machine is found by its name. A destroy without a readable answer is followed by a read of the deployment.
`price_moved` at a create is a machine that costs more than was asked for: the first listing shows it. `gone_as` hits
deployments that do not exist, and `stream_error` logs, which virtual machines don't have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One fault on one call, and what must come of it."""

    row: str
    call: str
    outcome: str

    @property
    def fault(self) -> str:
        """The name to arm."""
        return self.row.partition(":")[0]

    @property
    def order(self) -> dict[str, Any]:
        """The body that arms it once."""
        form = self.row.partition(":")[2]
        args = {"kind" if self.fault == "odd_row" else "form": form} if form else {}
        return {"provider": "io.net", "call": self.call, "fault": self.fault, "times": 1, "args": args}


def cells(*, applicable: bool = True) -> Iterator[Cell]:
    """The cells that a fault can hit, or those that none can."""
    head, *rows = (line.split() for line in TABLE.strip().splitlines())
    assert tuple(head[1:]) == CALLS
    for name, *outcomes in rows:
        for call, outcome in zip(CALLS, outcomes, strict=True):
            if (outcome != "-") is applicable:
                yield Cell(row=name, call=call, outcome=outcome)
