"""What a caller reads and sets of spending limits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import InvalidArgument, NotFound, Violation
from gpuproxy.model.limits import ALWAYS_SHOWN, POLICIES, Over, Policy, SpendingLimit, Usage, Window, window
from gpuproxy.model.money import Micro
from gpuproxy.ports import Database, Tx
from gpuproxy.store import keys, limits, spend_limits
from gpuproxy.store.rows import micros, moment
from gpuproxy.store.spent import first_payment

_MOST = Micro(10**15)
"""A billion dollars."""
_MINUTE = 60_000_000
_MOST_HOURS = 72
"""Up to here whole days are named in hours, as the windows of the published settings are."""
_MAX_NAME = 64
"""Characters of a project or the id of a key."""


@dataclass(frozen=True, slots=True)
class WindowShown:
    """What was spent and is held within a window. The limit's amount is 0 if there is none."""

    usage: Usage
    next_release_at: datetime | None
    """When the oldest spending leaves the window, or the month ends; None if nothing was spent."""


class SpendingLimits:
    """Reads and sets limits. `default_policy` is that of limits without one."""

    def __init__(self, db: Database, default_policy: Policy) -> None:
        self._db = db
        self._default_policy = default_policy

    async def windows(self, caller: Caller) -> tuple[list[WindowShown], Micro]:
        """The windows that concern a caller, shortest first, and what its project spent within 24 hours."""

        def read(tx: Tx) -> tuple[list[WindowShown], Micro]:
            found = limits.usages(tx, [*_unlimited(caller), *spend_limits.applying(tx, caller.project, caller.key_id)])
            spent = next(each.spent for each in found if not each.limit.amount and each.limit.window.name == "24h")
            limited = {(u.limit.window.name, u.limit.scope) for u in found if u.limit.amount}
            shown = [u for u in found if u.limit.amount or (u.limit.window.name, u.limit.scope) not in limited]
            shown.sort(key=lambda u: (u.limit.window.length or 31 * 86_400_000_000, u.limit.scope, u.limit.id))
            return [WindowShown(usage, _next_release(tx, usage)) for usage in shown], Micro(spent)

        return await self._db.read(read)

    async def check(self, caller: Caller, amount: Micro) -> list[Over]:
        """The limits that would refuse the caller an amount now. A reservation holds at most its price times its end.

        Raises InvalidArgument.
        """
        if not 0 <= amount <= _MOST:
            raise InvalidArgument([Violation("amount", "must be USD, from 0 to 1,000,000,000")])

        def read(tx: Tx) -> list[Over]:
            found = limits.usages(tx, spend_limits.applying(tx, caller.project, caller.key_id))
            strict = (usage for usage in found if usage.limit.policy != "warn")
            return [Over(usage=usage, asked=amount) for usage in strict if amount > 0 and usage.left < amount]

        return await self._db.read(read)

    async def set(self, wanted: "LimitWish") -> SpendingLimit:
        """Set a limit; an amount of 0 removes it.

        Raises InvalidArgument, and NotFound for an unknown key, or if the limit to remove is one of the settings.
        """
        limit = self._limit(wanted)

        def write(tx: Tx) -> SpendingLimit:
            if limit.scope == "key" and not keys.exists(tx, limit.subject):
                raise NotFound(f"There is no API key {limit.subject}. ListAPIKeys shows the ids of keys.")
            if not spend_limits.replace(tx, limit) and not limit.amount:
                _require_no_setting(limit, spend_limits.listed(tx))
            return limit

        return await self._db.write(write)

    async def listed(self, caller: Caller) -> list[SpendingLimit]:
        """The limits that apply to a caller's project and its keys; for an admin, all."""

        def read(tx: Tx) -> list[SpendingLimit]:
            if caller.scope is None:
                return spend_limits.listed(tx)
            own = {row.id for row in keys.listed(tx, caller.project)}
            subjects = {"global": {""}, "project": {caller.project}, "key": own}
            return [each for each in spend_limits.listed(tx) if each.subject in subjects[each.scope]]

        return await self._db.read(read)

    def _limit(self, wanted: "LimitWish") -> SpendingLimit:
        violations = []
        try:
            period = _canonical(window(wanted.window))
        except ValueError as error:
            violations.append(Violation("window", str(error)))
            period = window("1h")
        if not 0 <= wanted.amount <= _MOST:
            violations.append(Violation("limit", "must be USD, from 0.000001 to 1,000,000,000, or 0 for no limit"))
        if wanted.policy and wanted.policy not in POLICIES:
            violations.append(Violation("policy", f"{wanted.policy!r} is none of {', '.join(POLICIES)}"))
        for field, name in (("project", wanted.project), ("key_id", wanted.key_id)):
            if name and not (1 <= len(name.strip()) <= _MAX_NAME and name.strip().isprintable()):
                violations.append(Violation(field, f"must be 1 to {_MAX_NAME} printable characters, or left out"))
        if wanted.project and wanted.key_id:
            violations.append(Violation("key_id", "a limit is of a project or of a key: leave project empty"))
        if violations:
            raise InvalidArgument(violations)
        scope, subject = ("key", wanted.key_id) if wanted.key_id else ("project", wanted.project)
        subject = subject.strip()
        limit = SpendingLimit(
            scope="project", subject=subject, window=period, amount=wanted.amount,
            policy=next((each for each in POLICIES if each == wanted.policy), self._default_policy),
        )  # fmt: skip
        return replace(limit, scope="key" if scope == "key" else "project" if subject else "global")


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitWish:
    """A limit as a caller asks for it. Empty texts: all projects, any key, the default policy."""

    window: str
    amount: Micro
    project: str = ""
    key_id: str = ""
    policy: str = ""


def _unlimited(caller: Caller) -> list[SpendingLimit]:
    """The windows that are always shown, as limits without an amount."""
    every = caller.scope is None
    return [
        SpendingLimit(
            scope="global" if every else "project", subject="" if every else caller.project, window=window(name),
            amount=Micro(0), policy="warn",
        )
        for name in ALWAYS_SHOWN
    ]  # fmt: skip


def _canonical(given: Window) -> Window:
    """The window with the one name for its length: whole days above 72 hours, else whole hours, else minutes."""
    if not given.length:
        return given
    minutes = given.length // _MINUTE
    if minutes % 1440 == 0 and minutes > _MOST_HOURS * 60:
        return Window(f"{minutes // 1440}d", given.length)
    return Window(f"{minutes}m" if minutes % 60 else f"{minutes // 60}h", given.length)


def _require_no_setting(removed: SpendingLimit, known: Sequence[SpendingLimit]) -> None:
    """Raise NotFound if the limit that was to be removed, and that no call had set, is one of the settings."""
    same = (removed.scope, removed.subject, removed.window.length)
    for each in known:
        if (each.scope, each.subject, each.window.length) == same:
            raise NotFound(
                f"No call has set a limit of {removed.window.name} for {removed.whose}, so none was removed. The limit "
                f"of {each.window.name} comes from the setting {each.name}: change that."
            )


def _next_release(tx: Tx, usage: Usage) -> datetime | None:
    if usage.spent <= 0:
        return None
    limit = usage.limit
    span = limit.window.span(micros(tx.now()))
    if span.end is not None:
        return moment(span.end)
    project, key_id = (limit.subject if limit.scope == scope else None for scope in ("project", "key"))
    first = first_payment(tx, project=project, key_id=key_id, since=moment(span.since))
    return None if first is None else moment(micros(first) + limit.window.length)
