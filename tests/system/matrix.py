"""The fault matrix as data: every fault of the sandbox against every call that the adapter makes.

A cell says what the call must come to:

    ok         a whole, true answer                       empty      an answer without rows: the engine judges it
    short      an answer of the right form, half its rows made       a machine, whatever is wrong with it
    silent     ProviderUnavailable                        limited    RateLimited
    auth       AuthFailed                                 funds      InsufficientFunds
    gone       OfferGone                                  done       accepted, and the machine is gone
    ignored    accepted, and nothing came of it           queued     NoCapacity, and the market keeps it in mind
    unknown    OutcomeUnknown, and the market did nothing
    unknown+   OutcomeUnknown, and the market did it      unknown>   OutcomeUnknown, and the market does it later
    -          the fault can't hit this call

Refusals (silent, limited, auth, funds, gone) always mean that the market did nothing.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

CALLS = ("search", "create", "list", "get", "destroy", "user", "start", "stop", "logs", "charges")

TABLE = """
fault                    search   create    list     get      destroy   user     start     stop      logs     charges
refuse_connection        silent   unknown   silent   silent   unknown   silent   unknown   unknown   silent   silent
hang_before              silent   unknown   silent   silent   unknown   silent   unknown   unknown   silent   silent
hang_after               silent   unknown+  silent   silent   unknown+  silent   unknown+  unknown+  silent   silent
reset_before             silent   unknown   silent   silent   unknown   silent   unknown   unknown   silent   silent
reset_after              silent   unknown+  silent   silent   unknown+  silent   unknown+  unknown+  silent   silent
status_500_before        silent   unknown   silent   silent   unknown   silent   unknown   unknown   silent   silent
status_502_before        silent   unknown   silent   silent   unknown   silent   unknown   unknown   silent   silent
status_503_before        silent   unknown   silent   silent   unknown   silent   unknown   unknown   silent   silent
status_504_before        silent   unknown   silent   silent   unknown   silent   unknown   unknown   silent   silent
status_500_after         silent   unknown+  silent   silent   unknown+  silent   unknown+  unknown+  silent   silent
status_504_after         silent   unknown+  silent   silent   unknown+  silent   unknown+  unknown+  silent   silent
rate_limited:text        limited  limited   limited  limited  limited   limited  limited   limited   limited  limited
rate_limited:json        limited  limited   limited  limited  limited   limited  limited   limited   limited  limited
rate_limited:quota       limited  limited   limited  limited  limited   limited  limited   limited   limited  limited
refused_200              silent   unknown   silent   silent   unknown   silent   unknown   unknown   silent   silent
malformed_json           silent   unknown+  silent   silent   unknown+  silent   unknown+  unknown+  silent   silent
html_502                 silent   unknown   silent   silent   unknown   silent   unknown   unknown   silent   silent
truncated                silent   unknown+  silent   silent   unknown+  silent   unknown+  unknown+  silent   silent
empty_body               silent   unknown+  silent   silent   unknown+  silent   unknown+  unknown+  silent   silent
slow_trickle             silent   unknown+  silent   silent   unknown+  silent   unknown+  unknown+  silent   silent
auth_error               auth     auth      auth     auth     auth      auth     auth      auth      auth     auth
session_expired          auth     auth      auth     auth     auth      auth     auth      auth      auth     auth
offer_gone               -        gone      -        -        -         -        -         -         -        -
no_capacity              -        gone      -        -        -         -        -         -         -        -
insufficient_credit      -        funds     -        -        -         -        -         -         -        -
price_moved              -        made      -        -        -         -        -         -         -        -
wrong_gpu                -        made      -        -        -         -        -         -         -        -
never_ready              -        made      -        -        -         -        -         -         -        -
dies_after_ready         -        made      -        -        -         -        -         -         -        -
volume_share_refused     -        made      -        -        -         -        -         -         -        -
image_fault              -        made      -        -        -         -        -         -         -        -
host_fault               -        made      -        -        -         -        -         -         -        -
no_ssh                   -        made      -        -        -         -        -         -         -        -
proxy_down               -        made      -        -        -         -        -         -         -        -
direct_down              -        made      -        -        -         -        -         -         -        -
ssh_down                 -        made      -        -        -         -        -         -         -        -
keys_refreshed           -        made      -        -        -         -        -         -         -        -
shy_row                  -        made      -        -        -         -        -         -         -        -
other_name               -        made      -        -        -         -        -         -         -        -
late_effect              -        unknown>  -        -        unknown>  -        unknown>  unknown>  -        -
empty_list               empty    -         empty    -        -         -        -         -         -        silent
missing_page             short    -         silent   -        -         -        -         -         -        silent
slow_pages               ok       -         ok       -        -         -        -         -         -        ok
endless_list             -        -         ok       -        -         -        -         -         -        -
odd_row                  -        -         ok       ok       -         -        -         -         -        -
gone_as                  -        -         -        ok       done      -        -         -         -        -
destroy_ignored          -        -         -        -        ignored   -        -         -         -        -
start_refused            -        -         -        -        -         -        queued    -         -        -
stop_ignored             -        -         -        -        -         -        -         ignored   -        -
stop_lies                -        -         -        -        -         -        -         ok        -        -
key_refused              -        -         -        -        -         -        -         -         -        -
"""
"""`volume_share_refused` speaks of volumes, which nothing rented here has; `gone_as` of machines that do not exist;
`key_refused` of a call that is not in the table."""

_SLOW = {"hang_before", "hang_after", "slow_trickle"}
_STATUS = re.compile(r"status_\d{3}_(before|after)")


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
    def slow(self) -> bool:
        """True when only our own time limit ends the call."""
        return self.fault in _SLOW

    @property
    def requests(self) -> int:
        """How many requests the call takes: a page of an endless list is followed by another one."""
        return 2 if self.fault == "endless_list" else 1

    def order(self, times: int = 1) -> dict[str, Any]:
        """The body that arms it. What hangs, hangs just longer than the matrix waits."""
        form = self.row.partition(":")[2]
        args: dict[str, Any] = {"form": form} if form else {}
        if self.slow:
            args["seconds"] = 1.0
        return {"call": self.call, "fault": self.fault, "times": times, "args": args}


def cells(*, applicable: bool = True) -> Iterator[Cell]:
    """The cells that a fault can hit, or those that none can."""
    head, *rows = (line.split() for line in TABLE.strip().splitlines())
    assert tuple(head[1:]) == CALLS
    for name, *outcomes in rows:
        for call, outcome in zip(CALLS, outcomes, strict=True):
            if (outcome != "-") is applicable:
                yield Cell(row=name, call=call, outcome=outcome)


def named(row: str) -> str:
    """The sandbox's own name of a row's fault."""
    fault = row.partition(":")[0]
    found = _STATUS.fullmatch(fault)
    return f"status_{found[1]}" if found else fault
