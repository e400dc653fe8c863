"""Problems for an operator: everything in the database that does not resolve on its own, or not as fast as it should.

The code here only reads the database. `gpuproxy doctor` prints the findings with advice; HealthCheck counts them.
"""

import asyncio
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Literal, get_args

from gpuproxy.billing.check import reading_of
from gpuproxy.health import left_behind
from gpuproxy.model import bookings, contracts, self_ending
from gpuproxy.model.errors import AuthFailed, InsufficientFunds, OrphansFound, UnreadableRows
from gpuproxy.model.leases import RENTED, Lease, LeaseEvent, LeaseState
from gpuproxy.model.meter import meter_rate
from gpuproxy.model.money import dollars
from gpuproxy.model.offers import AccountKey, ProviderName
from gpuproxy.model.webhooks import Standing
from gpuproxy.ports import Capabilities, Clock, Database, Tx
from gpuproxy.reconcile.silence import SILENT_AFTER
from gpuproxy.store import account_problems, events, leases, ledger_check, outbox
from gpuproxy.store.account_problems import AccountProblem
from gpuproxy.store.rows import moment

Kind = Literal[
    "unknown",
    "stuck_release",
    "dead_machine",
    "missing",
    "orphans",
    "spend_differs",
    "unconfigured",
    "paused",
    "silent",
    "unreadable",
    "contract_ends",
    "booking_ends",
    "ledger",
    "self_ending",
    "webhook",
]
_NOTICES: frozenset[Kind] = frozenset({"contract_ends", "self_ending"})
"""Findings that are no problems of the operator's: the owner of a machine must act, or nobody can."""
SUMMARY_SECONDS = 1.0
"""Real seconds. The maximum age of what HealthCheck says of the database."""
_STUCK = timedelta(minutes=5)
_MISSING = timedelta(minutes=5)
_DEAD = timedelta(minutes=2)
"""A machine may be down for a short time while its host restarts it."""
_FAILING = timedelta(minutes=10)
"""A receiver of webhooks may be down for a short time while it is restarted."""
_GPU_FAILED = re.compile(r"\bxid\b(?:\s*\([^)]*\))?[\s:]*79\b|fallen off the bus", re.IGNORECASE)
"""The GPU driver's messages about a failed GPU, in the status message of a machine with status running."""
GpuFailures = Mapping[ProviderName, re.Pattern[str]]
"""By provider: the marketplace's own messages about a failed GPU."""
_BILLED = {"all": "it costs {}/h", "disk": "only its disk is billed, {}/h", "nothing": "nothing is billed"}
_REMEDIES = {
    AuthFailed.reason: "Create an API key for this service at the marketplace, set it under the account's name and "
    "restart the server. Such a key does not expire with a login session or a two-factor session. Until then, the "
    "account's machines can't be released.",
    InsufficientFunds.reason: "Add credit at the marketplace. The server retries creates within three minutes.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One problem (`text`) of one lease or account (`subject`), and the remedy (`advice`)."""

    kind: Kind
    subject: str
    text: str
    advice: str

    @property
    def notice(self) -> bool:
        """True if it is only to be known: HealthCheck does not count it, and `gpuproxy doctor` exits with 0."""
        return self.kind in _NOTICES


def gpu_failures(providers: Iterable[tuple[ProviderName, Capabilities]]) -> GpuFailures:
    """The patterns of those marketplaces that have one."""
    return {name: able.gpu_failure for name, able in providers if able.gpu_failure is not None}


def findings(
    tx: Tx, accounts: Collection[AccountKey], failures: GpuFailures = MappingProxyType({}), *, every_row: bool = False
) -> tuple[Finding, ...]:
    """All problems, by account. `accounts`: the configured accounts. `every_row`: read the whole ledger."""
    found: list[Finding] = []
    for account in sorted(left_behind.accounts(tx) | frozenset(accounts)):
        rows = leases.live(tx, *account)
        found += [finding for lease in rows if (finding := _about(tx, lease, failures)) is not None]
        if account not in accounts and (has := left_behind.in_words(tx, account)):
            found.append(_unconfigured(account, has))
        if (differs := _spend(tx, account)) is not None:
            found.append(differs)
        if (alone := _self_ending(account, rows)) is not None:
            found.append(alone)
    found += [_ledger(problem) for problem in (ledger_check.full(tx) if every_row else ledger_check.quick(tx))]
    found += [_webhook(each, tx.now()) for each in outbox.standings(tx) if each.failing_for(tx.now()) >= _FAILING]
    known = [trouble for trouble in account_problems.current(tx) if trouble.account in accounts]
    found += [finding for trouble in known if (finding := _troubled(trouble, tx.now())) is not None]
    return tuple(found)


class Health:
    """A short summary of the findings, for HealthCheck. It is read from the database at most once a second."""

    def __init__(self, db: Database, accounts: Collection[AccountKey], failures: GpuFailures, clock: Clock) -> None:
        self._db = db
        self._accounts = accounts
        self._failures = failures
        self._clock = clock
        self._reading = asyncio.Lock()
        self._counts: Mapping[Kind, int] = {}
        self._valid_until = -math.inf

    async def summary(self) -> str:
        """The number of findings of each kind, or `ok`, at most `SUMMARY_SECONDS` old. `gpuproxy doctor` shows all.

        Anybody may ask, without credentials, so the number of reads does not grow with the number of calls.
        """
        counted = sorted((await self.counts()).items())
        return ", ".join(f"{kind} {count}" for kind, count in counted if count and kind not in _NOTICES) or "ok"

    async def counts(self) -> Mapping[Kind, int]:
        """The number of findings of every kind, notices included, at most `SUMMARY_SECONDS` old."""
        if self._clock.monotonic() < self._valid_until:
            return self._counts
        async with self._reading:
            asked = self._clock.monotonic()
            if asked >= self._valid_until:
                self._counts = await self._read()
                self._valid_until = asked + SUMMARY_SECONDS * self._clock.scale
            return self._counts

    async def findings(self) -> tuple[Finding, ...]:
        """All problems now, of all projects."""
        return await self._db.read(lambda tx: findings(tx, self._accounts, self._failures))

    async def _read(self) -> Mapping[Kind, int]:
        counted = Counter(finding.kind for finding in await self.findings())
        return {kind: counted[kind] for kind in get_args(Kind)}


def _about(tx: Tx, lease: Lease, failures: GpuFailures) -> Finding | None:
    now = tx.now()
    if lease.outcome_unknown and lease.is_prepaid:
        return _unknown_booking(lease, now)
    if lease.outcome_unknown:
        since = lease.creation.call_started_at or lease.created_at
        checks = f"{lease.pending.absent_checks} of 3 valid listings did not show it"
        return Finding(
            kind="unknown",
            subject=lease.id,
            text=f"{_age(now - since)}: it is unknown whether {lease.offered.offer_id} was rented at {lease.provider} "
            f"({lease.account}); {checks}. {lease.observed.status_message}",
            advice="The server resolves this on its own. To check it yourself, look for the label "
            f"{lease.label} in the provider's console.",
        )
    if lease.state is LeaseState.RELEASING and lease.pending.destroy_tries and lease.started_at is not None:
        since = events.first_at(tx, lease, LeaseEvent.RELEASE) or lease.started_at
        if now - since >= _STUCK:
            return Finding(
                kind="stuck_release",
                subject=lease.id,
                text=f"{_age(now - since)}: {lease.provider} {lease.instance_id} still exists after "
                f"{lease.pending.destroy_tries} destroy calls; {_billed(lease)}.",
                advice="The server repeats the destroy. If the machine stays, destroy it in the provider's console.",
            )
    missing_since = lease.pending.missing_since
    if lease.state in RENTED and missing_since is not None and now - missing_since >= _MISSING:
        return _missing(lease, now)
    if is_dead(lease, now, failures):
        return _dead(lease, now)
    if ending := bookings.warning(lease):
        return _booking_ends(lease, ending)
    warning = contracts.warning(lease)
    return _contract_ends(lease, warning) if warning else None


def _unknown_booking(lease: Lease, now: datetime) -> Finding:
    """A prepaid create without an answer. Nothing but its machine proves that it was executed."""
    since = lease.creation.call_started_at or lease.created_at
    amount = dollars(bookings.price_of(lease, lease.prepaid.booked_hours))
    return Finding(
        kind="unknown",
        subject=lease.id,
        text=f"{_age(now - since)}: it is unknown whether {lease.offered.offer_id} was booked at {lease.provider} "
        f"({lease.account}) for {amount}. {lease.observed.status_message}",
        advice="The server looks for the machine until everything that the create may have booked is over. To check it "
        f"yourself, look for the name {lease.label} in the provider's console.",
    )


def _booking_ends(lease: Lease, warning: str) -> Finding:
    return Finding(
        kind="booking_ends",
        subject=lease.id,
        text=warning,
        advice=f"The server tries again until the booking ends. Tell the owner of {lease.reservation_id} (project "
        f"{lease.project}). If credit is missing, add it at the marketplace.",
    )


def _missing(lease: Lease, now: datetime) -> Finding:
    """A machine that listings do not show, and whose single reads do not say whether it exists."""
    age = _age(now - (lease.pending.missing_since or now))
    return Finding(
        kind="missing",
        subject=lease.id,
        text=f"{age}: listings do not show {lease.provider} {lease.instance_id} of {lease.reservation_id}, and single "
        "reads give no clear answer; according to the last known state, "
        f"{_billed(lease)}.",
        advice="Look in the provider's console. If the machine does not exist there, release it: `gpuproxy destroy "
        f"{lease.instance_id}`.",
    )


def is_dead(lease: Lease, now: datetime, failures: GpuFailures) -> bool:
    """True for a machine that was ready and, according to the provider, no longer works.

    False if the machine is to be stopped.
    """
    if lease.pending.stop_at is not None:
        return False
    if lease.state is LeaseState.ACTIVE:
        own = failures.get(lease.provider)
        message = lease.observed.status_message
        return _GPU_FAILED.search(message) is not None or (own is not None and own.search(message) is not None)
    if lease.state is not LeaseState.STARTING or lease.observed.ready_at is None or lease.observed.faltered_at is None:
        return False
    return now - lease.observed.faltered_at >= _DEAD


def _dead(lease: Lease, now: datetime) -> Finding:
    machine = f"{lease.provider} {lease.instance_id} of {lease.reservation_id}"
    if lease.observed.faltered_at is None:
        text = f"{machine} has status running, but one of its GPUs has failed"
    else:
        text = f"{_age(now - lease.observed.faltered_at)}: {machine} was ready and no longer runs"
    if lease.observed.billed == "nothing":
        advice = (
            "Its host may come back, and nothing is billed until then. Wait, or destroy the machine "
            f"(`gpuproxy destroy {lease.instance_id}`) and rent another."
        )
    else:
        advice = f"Destroy it (`gpuproxy destroy {lease.instance_id}`) and rent another. Data on it is lost."
    return Finding(
        kind="dead_machine",
        subject=lease.id,
        text=f"{text}; {_billed(lease)}. The provider's message: {lease.observed.status_message}",
        advice=advice,
    )


def _contract_ends(lease: Lease, warning: str) -> Finding:
    return Finding(
        kind="contract_ends",
        subject=lease.id,
        text=warning,
        advice=f"Tell the owner of {lease.reservation_id} (project {lease.project}). Until the contract ends, the host "
        "may still extend it.",
    )


def _billed(lease: Lease) -> str:
    """The present cost of the machine, in words."""
    return _BILLED[lease.observed.billed].format(dollars(meter_rate(lease) or 0))


def _unconfigured(account: AccountKey, has: str) -> Finding:
    return Finding(
        kind="unconfigured",
        subject=f"{account[0]} {account[1]}",
        text=f"The account is not configured, but it has {has}.",
        advice="Set the account's key again under the same name until everything is released.",
    )


def _troubled(trouble: AccountProblem, now: datetime) -> Finding | None:
    subject, lasting = " ".join(trouble.account), now - trouble.since
    if trouble.pauses:
        return Finding(
            kind="paused",
            subject=subject,
            text=f"{_age(lasting)}: no machine is created with this account ({trouble.reason}): {trouble.message}",
            advice=_REMEDIES[trouble.reason],
        )
    if trouble.reason == OrphansFound.reason:
        return Finding(
            kind="orphans",
            subject=subject,
            text=f"{_age(lasting)}: machines have this deployment's label but are not in the database: "
            f"{trouble.message}. The server destroys them, a few at a time, ten minutes after it first saw them.",
            advice="If you restored an older copy of the database and need the machines, stop the server now. If "
            "another server runs on a copy of the database, stop one of the two servers.",
        )
    if trouble.reason == UnreadableRows.reason:
        return Finding(
            kind="unreadable",
            subject=subject,
            text=f"{_age(lasting)}: some rows of the account's listing can't be read: {trouble.message}. Until they "
            "can, a machine that is missing from the listing is not taken as absent.",
            advice="In the provider's console, check which machines run on this account.",
        )
    if lasting < SILENT_AFTER:
        return None
    return Finding(
        kind="silent",
        subject=subject,
        text=f"{_age(lasting)}: the account's machines can't be listed ({trouble.reason}): {trouble.message}",
        advice="Check whether the marketplace is up. The server repeats the listing, and changes no machine's state "
        "until it succeeds.",
    )


def _spend(tx: Tx, account: AccountKey) -> Finding | None:
    reading = reading_of(tx, *account)
    if reading is None or not reading.alarm:
        return None
    return Finding(
        kind="spend_differs",
        subject=f"{account[0]} {account[1]}",
        text=f"Until {moment(reading.at):%Y-%m-%d %H:%MZ} the provider charged {dollars(reading.spent)}, but the "
        f"ledger says {dollars(reading.booked)}.",
        advice="Compare `gpuproxy ps` with the provider's console. A machine may run that the database does not know, "
        "or the account may also be used by others.",
    )


def _ledger(problem: str) -> Finding:
    return Finding(
        kind="ledger",
        subject="ledger",
        text=problem,
        advice="Costs and limits may be wrong. Keep a copy of the database (`gpuproxy backup`), and report it.",
    )


def _webhook(standing: Standing, now: datetime) -> Finding:
    waiting = f"{standing.waiting} event{' waits' if standing.waiting == 1 else 's wait'}"
    return Finding(
        kind="webhook",
        subject=standing.target,
        text=f"{_age(standing.failing_for(now))}: the webhook does not take events; {waiting}. The oldest one was "
        f"tried {standing.tries} times; the last answer: {standing.error}.",
        advice=f"Check the receiver, then run `gpuproxy webhooks test {standing.target}`. Events are sent again for a "
        "day, then given up.",
    )


def _self_ending(account: AccountKey, rows: Sequence[Lease]) -> Finding | None:
    """Which machines with an end do not end themselves while this server is down."""
    rented = [lease for lease in rows if lease.state in RENTED and not lease.is_prepaid]
    counted = Counter(self_ending.state(lease) for lease in rented if lease.expires_at is not None)
    lacking = {state: number for state, number in counted.items() if state.startswith("unsupported")}
    if not lacking:
        return None
    endless = sum(lease.expires_at is None for lease in rented)
    parts = [f"{number} {state}" for state, number in sorted(counted.items())]
    return Finding(
        kind="self_ending",
        subject=" ".join(account),
        text=f"While this server is down, not every machine with an end ends itself: {', '.join(parts)}. "
        f"{endless} more have no end.",
        advice="The server must be up at their end. docs/lease-endings.md says what each reason means.",
    )


def _age(duration: timedelta) -> str:
    minutes = int(duration.total_seconds() // 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
