"""The faults that can be armed, and which call each one hits. `plan` has the effects of a fault on an answer."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from gpuproxy.sandbox.options import GoneForm

CALLS = frozenset(
    [
        "search",
        "create",
        "list",
        "get",
        "destroy",
        "start",
        "stop",
        "label",
        "ssh_key",
        "extend",
        "price",
        "logs",
        "user",
        "charges",
        "volume_search",
        "volume_create",
        "volume_list",
        "volume_delete",
        "any",
    ]
)
_EVERY = CALLS - {"any"}
_CHANGES = frozenset(
    {"create", "destroy", "start", "stop", "label", "ssh_key", "extend", "price", "volume_create", "volume_delete"}
)
_LISTS = frozenset({"list", "search", "volume_search", "volume_list", "charges"})
_CREATE = frozenset({"create"})
GONE = "gone_as"
FAULTS: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(
        [
            "refuse_connection",
            "hang_before",
            "hang_after",
            "reset_before",
            "reset_after",
            "status_before",
            "status_after",
            "rate_limited",
            "refused_200",
            "malformed_json",
            "html_502",
            "truncated",
            "empty_body",
            "slow_trickle",
            "auth_error",
            "session_expired",
        ],
        _EVERY,
    ),
    **dict.fromkeys(
        [
            "no_capacity",
            "price_moved",
            "wrong_gpu",
            "never_ready",
            "dies_after_ready",
            "volume_share_refused",
            "image_fault",
            "host_fault",
            "no_ssh",
            "proxy_down",
            "ssh_down",
            "direct_down",
            "keys_refreshed",
            "shy_row",
            "other_name",
        ],
        _CREATE,
    ),
    **dict.fromkeys(["offer_gone", "insufficient_credit"], frozenset({"create", "volume_create"})),
    "late_effect": _CHANGES,
    "empty_list": _LISTS,
    "missing_page": _LISTS,
    "slow_pages": _LISTS,
    "endless_list": frozenset({"list"}),
    "odd_row": frozenset({"list", "get"}),
    GONE: frozenset({"get", "destroy"}),
    "key_refused": frozenset({"ssh_key"}),
    "start_refused": frozenset({"start"}),
    "stop_ignored": frozenset({"stop"}),
    "stop_lies": frozenset({"stop"}),
    "destroy_ignored": frozenset({"destroy", "volume_delete"}),
}
"""Every fault, with the calls that it can hit."""
CHOICES: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("rate_limited", "form"): ("text", "threshold", "detail", "json", "quota"),
    ("odd_row", "kind"): (
        "undecodable",
        "surrogate",
        "nan",
        "null_row",
        "no_id",
        "wrong_types",
        "null_fields",
    ),
    ("odd_row", "whose"): ("stranger", "mine"),
    (GONE, "form"): get_args(GoneForm),
    ("shy_row", "status"): ("exited", "stopped", "null"),
    ("image_fault", "status"): ("created", "loading"),
    ("host_fault", "status"): ("created", "loading"),
}
"""The allowed words of (fault, argument)."""
_NUMBERS = frozenset({"seconds", "threshold", "factor", "gpu_ram"})
_STATUS_NAME = re.compile(r"status_(\d{3})_(before|after)")


class BadFault(Exception):
    """The fault can't be armed; the text says why."""


@dataclass(slots=True, kw_only=True)
class Fault:
    """One armed fault. It lets `after` calls pass and then hits `times` calls; None: until it is cleared."""

    name: str
    provider: str = "vast.ai"
    account: str | None = None
    call: str = "any"
    times: int | None = 1
    after: int = 0
    args: Mapping[str, Any] = field(default_factory=dict)

    def number(self, name: str, otherwise: float) -> float:
        """A number from the args, or `otherwise` if it isn't given."""
        value = self.args.get(name)
        return otherwise if value is None else float(value)

    def hits(self, provider: str, account: str | None, call: str) -> bool:
        """True if the fault applies to this call."""
        return (
            self.provider == provider
            and self.account in (None, account)
            and self.call in ("any", call)
            and (call in FAULTS[self.name] or (call not in CALLS and FAULTS[self.name] is _EVERY))
        )


class Faults:
    """All armed faults, oldest first."""

    def __init__(self) -> None:
        self._armed: list[Fault] = []

    def arm(self, wanted: Mapping[str, Any]) -> Fault:
        """Arm a fault from the body of a control API call. Raises BadFault."""
        fault = _checked(wanted)
        self._armed.append(fault)
        return fault

    def clear(self) -> int:
        """Disarm all faults; returns their number."""
        count = len(self._armed)
        self._armed.clear()
        return count

    def take(self, provider: str, account: str | None, call: str) -> Fault | None:
        """The fault that hits this call, or None. The call is counted."""
        return self._next(provider, account, call, gone=False)

    def take_gone(self, provider: str, account: str | None, call: str) -> Fault | None:
        """Like `take`, for a call about a missing instance; only faults for such calls are considered."""
        return self._next(provider, account, call, gone=True)

    def _next(self, provider: str, account: str | None, call: str, *, gone: bool) -> Fault | None:
        for fault in self._armed:
            if (fault.name == GONE) is not gone or not fault.hits(provider, account, call):
                continue
            if fault.after > 0:
                fault.after -= 1
                continue
            if fault.times is not None:
                fault.times -= 1
                if fault.times == 0:
                    self._armed.remove(fault)
            return fault
        return None


def _checked(wanted: Mapping[str, Any]) -> Fault:
    unknown = set(wanted) - {"provider", "account", "call", "fault", "times", "after", "args"}
    if unknown:
        raise BadFault(f"{min(unknown)} is not a field of a fault")
    name, args = str(wanted.get("fault", "")), wanted.get("args") or {}
    if not isinstance(args, dict):
        raise BadFault("args must be an object")
    if named := _STATUS_NAME.fullmatch(name):
        name, args = f"status_{named[2]}", {**args, "status": int(named[1])}
    call = str(wanted.get("call") or "any")
    if name not in FAULTS:
        raise BadFault(f"fault must be one of {', '.join(sorted(FAULTS))}, not {name!r}")
    if call not in CALLS:
        raise BadFault(f"call must be one of {', '.join(sorted(CALLS))}, not {call!r}")
    if call != "any" and call not in FAULTS[name]:
        raise BadFault(f"{name} can't hit {call}, only {', '.join(sorted(FAULTS[name]))}")
    _check_args(name, args)
    times, after = _count(wanted, "times", 1), _count(wanted, "after", 0)
    account = wanted.get("account")
    return Fault(
        name=name,
        provider=str(wanted.get("provider") or "vast.ai"),
        account=None if account is None else str(account),
        call=call,
        times=times or None,
        after=after,
        args=args,
    )


def _check_args(name: str, args: Mapping[str, Any]) -> None:
    for arg, value in args.items():
        choices = CHOICES.get((name, arg))
        if choices is not None and value not in choices:
            raise BadFault(f"args.{arg} of {name} must be one of {', '.join(choices)}, not {value!r}")
        if arg in _NUMBERS and (isinstance(value, bool) or not isinstance(value, (int, float, type(None)))):
            raise BadFault(f"args.{arg} must be a number, not {value!r}")


def _count(wanted: Mapping[str, Any], name: str, otherwise: int) -> int:
    value = wanted.get(name, otherwise)
    if value is None:
        return otherwise
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadFault(f"{name} must be a whole number of at least 0")
    return value
