"""The faults that can be armed, and which call each one hits. `plan` has the effects of a fault on an answer."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CALLS = frozenset(
    {"search", "create", "list", "get", "destroy", "start", "stop", "label", "ssh_key", "extend", "price", "logs"}
    | {"user", "charges", "volume_search", "volume_create", "volume_list", "volume_delete", "any"}
)
"""The calls of marketplaces; an API may have more."""
EVERY = frozenset({"any"})
"""The calls of a fault that can hit every call."""
GONE = "gone_as"
COMMON: Mapping[str, frozenset[str]] = dict.fromkeys(
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
    EVERY,
)
"""The faults that every API has, with the calls that they can hit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """The faults of one API."""

    calls: frozenset[str]
    """All calls, and "any"."""
    faults: Mapping[str, frozenset[str]]
    """Every fault, with the calls that it can hit."""
    choices: Mapping[tuple[str, str], tuple[str, ...]]
    """The allowed words of (fault, argument)."""

    def can_hit(self, fault: str, call: str) -> bool:
        """True if a fault can hit a call. Calls that have no name here can only be hit by faults of every call."""
        return self.faults[fault] is EVERY or call in self.faults[fault]


_NUMBERS = frozenset({"seconds", "threshold", "factor", "gpu_ram"})
_STATUS_NAME = re.compile(r"status_(\d{3})_(before|after)")


class BadFault(Exception):
    """The fault can't be armed; the text says why."""


@dataclass(slots=True, kw_only=True)
class Fault:
    """One armed fault. It lets `after` calls pass and then hits `times` calls; None: until it is cleared."""

    name: str
    provider: str
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
        return self.provider == provider and self.account in (None, account) and self.call in ("any", call)


class Faults:
    """All armed faults, oldest first."""

    def __init__(self, catalogues: Mapping[str, Catalogue]) -> None:
        """`catalogues` has the faults of each marketplace. The first one is meant where a fault names none."""
        self._catalogues = catalogues
        self._armed: list[Fault] = []

    def arm(self, wanted: Mapping[str, Any]) -> Fault:
        """Arm a fault from the body of a control API call. Raises BadFault."""
        fault = self._checked(wanted)
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
            if not self._catalogues[provider].can_hit(fault.name, call):
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

    def _checked(self, wanted: Mapping[str, Any]) -> Fault:
        unknown = set(wanted) - {"provider", "account", "call", "fault", "times", "after", "args"}
        if unknown:
            raise BadFault(f"{min(unknown)} is not a field of a fault")
        name, args = str(wanted.get("fault", "")), wanted.get("args") or {}
        if not isinstance(args, dict):
            raise BadFault("args must be an object")
        if named := _STATUS_NAME.fullmatch(name):
            name, args = f"status_{named[2]}", {**args, "status": int(named[1])}
        provider = str(wanted.get("provider") or next(iter(self._catalogues)))
        call = str(wanted.get("call") or "any")
        known = self._catalogues.get(provider)
        if known is None:
            raise BadFault(f"provider must be one of {', '.join(sorted(self._catalogues))}, not {provider!r}")
        if name not in known.faults:
            raise BadFault(f"fault must be one of {', '.join(sorted(known.faults))}, not {name!r}")
        if call not in known.calls:
            raise BadFault(f"call must be one of {', '.join(sorted(known.calls))}, not {call!r}")
        if call != "any" and not known.can_hit(name, call):
            raise BadFault(f"{name} can't hit {call}, only {', '.join(sorted(known.faults[name]))}")
        _check_args(known, name, args)
        times, after = _count(wanted, "times", 1), _count(wanted, "after", 0)
        account = wanted.get("account")
        return Fault(
            name=name,
            provider=provider,
            account=None if account is None else str(account),
            call=call,
            times=times or None,
            after=after,
            args=args,
        )


def _check_args(known: Catalogue, name: str, args: Mapping[str, Any]) -> None:
    for arg, value in args.items():
        choices = known.choices.get((name, arg))
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
