"""What a new machine needs besides its boot: SSH keys registered with the marketplace, and its boot report read.

Keys that only the boot script installs vanish when the host renews the machine's keys, so the marketplace must have
them. A key counts as refused only if the marketplace refuses it repeatedly; an outage is no refusal. While the machine
boots, nothing is lost by waiting. Once it runs, its readiness waits for a few tries only. A machine is never released
because of its keys or its report. Tries are counted in memory; after a restart they start again.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from gpuproxy import boot
from gpuproxy.model.errors import InvalidRequest, ProviderError, RateLimited, Unavailable
from gpuproxy.model.lease_facts import Booted, KeysGiven
from gpuproxy.model.leases import BOOT_NOT_REPORTED, BOOT_REQUESTED, RENTED, InstanceId, KeysState, Lease, LeaseId
from gpuproxy.ports import Clock, Database, Provider, Tx
from gpuproxy.reconcile.steps import RegisterKeys
from gpuproxy.store import leases

log = structlog.get_logger(__name__)

_REFUSALS = 3
"""This many refusals of one key are a verdict. The first ones may be about a machine that is not known everywhere."""
_FAILURES = 6
"""After this many failed tries on a running machine, its readiness no longer waits for the keys."""
_READS = 3
_WAITING_READS = 12
"""Reads of a machine that waits for the lock of its volume. Together they take longer than it waits."""
_LINES = 1_000
"""Log lines that are searched for the report. Images may print much before and after it."""
_FIRST_WAIT, _LONGEST_WAIT = 2.0, 30.0


@dataclass(slots=True)
class _Tries:
    """Failed tries of one thing for one lease."""

    times: int = 0
    next_at: datetime | None = None

    def is_due(self, now: datetime) -> bool:
        return self.next_at is None or self.next_at <= now

    def wait(self, now: datetime, seconds: float) -> None:
        self.next_at = now + timedelta(seconds=seconds)


@dataclass(slots=True)
class _Keys(_Tries):
    """The registration of one machine's keys. `times` counts failed tries while the machine runs."""

    done: set[str] = field(default_factory=set)
    refusals: dict[str, int] = field(default_factory=dict)
    pause: float = _FIRST_WAIT

    def open(self, lease: Lease) -> list[str]:
        """The keys that are neither registered nor refused for good."""
        return [
            key for key in lease.creation.ssh_keys if key not in self.done and self.refusals.get(key, 0) < _REFUSALS
        ]


class Boots:
    """Registers keys and reads boot reports for the machines of one account."""

    def __init__(self, provider: Provider, db: Database, clock: Clock) -> None:
        self._provider = provider
        self._db = db
        self._clock = clock
        self._keys: dict[LeaseId, _Keys] = {}
        self._reports: dict[LeaseId, _Tries] = {}
        self._reading = False

    def forget(self, live: Collection[LeaseId]) -> None:
        """Forget the tries of all leases that are not in `live`."""
        self._keys = {lease_id: keys for lease_id, keys in self._keys.items() if lease_id in live}
        self._reports = {lease_id: tries for lease_id, tries in self._reports.items() if lease_id in live}

    async def register_keys(self, step: RegisterKeys) -> None:
        """Register those keys of a machine that the marketplace does not have yet."""
        lease, now = step.lease, self._clock.now()
        keys = self._keys.setdefault(lease.id, _Keys())
        if lease.instance_id is None or not keys.is_due(now):
            return
        error = await self._register(lease, lease.instance_id, keys)
        if not keys.open(lease):
            await self._conclude(lease, "refused" if keys.refusals.keys() - keys.done else "registered")
            return
        keys.times += step.runs
        limited = error.retry_after if isinstance(error, RateLimited) else None
        keys.wait(self._clock.now(), keys.pause if limited is None else limited)
        keys.pause = min(2 * keys.pause, _LONGEST_WAIT)
        if keys.times >= _FAILURES and lease.pending.keys_state == "pending":
            await self._conclude(lease, "unregistered")

    async def _register(self, lease: Lease, contract: InstanceId, keys: _Keys) -> ProviderError | None:
        """Try each open key. Returns the error that ended the try, or the last refusal."""
        refusal: ProviderError | None = None
        for key in keys.open(lease):
            try:
                await self._provider.add_ssh_key(contract, key)
            except InvalidRequest as error:
                keys.refusals[key] = keys.refusals.get(key, 0) + 1
                refusal = error
            except ProviderError as error:
                log.info("ssh_key_failed", lease=lease.id, reason=error.reason, error=str(error))
                return error
            else:
                keys.done.add(key)
        if refusal is not None:
            log.info("ssh_key_failed", lease=lease.id, reason=refusal.reason, error=str(refusal))
        return refusal

    async def _conclude(self, lease: Lease, state: KeysState) -> None:
        if state != "registered":
            log.warning("ssh_keys_missing", lease=lease.id, contract=lease.instance_id, state=state)
        await self._write(lambda tx: _note_keys(tx, lease.id, state))

    async def read_report(self, lease: Lease) -> None:
        """Read what the boot script reported; after several reads without a report, record that there is none.

        One log is read at a time, because stops and starts share the marketplace's rate limit with it.
        """
        tries = self._reports.setdefault(lease.id, _Tries())
        if lease.instance_id is None or self._reading or not tries.is_due(self._clock.now()):
            return
        reported = None
        if "logs" not in self._provider.capabilities.missing:
            self._reading = True
            try:
                reported = boot.reported(await self._provider.logs(lease.instance_id, _LINES))
            except ProviderError as error:
                log.debug("boot_report_unread", lease=lease.id, reason=error.reason)
            finally:
                self._reading = False
            tries.times += 1
            tries.wait(self._clock.now(), _LONGEST_WAIT)
            if tries.times < (_READS if reported is None else _WAITING_READS if _waits(reported) else 0):
                return
        await self._write(lambda tx: _note_report(tx, lease.id, reported or {}))

    async def _write(self, unit: Callable[[Tx], None]) -> None:
        try:
            await self._db.write(unit)
        except Unavailable as error:
            log.warning("database_unavailable", account=self._provider.account, error=str(error.__cause__))


def _waits(reported: Mapping[str, str]) -> bool:
    """Whether the report is not final: the machine waits for the lock of its volume."""
    return reported.get("lock") == "waiting"


def _note_report(tx: Tx, lease_id: LeaseId, reported: Mapping[str, str]) -> None:
    lease = leases.get(tx, lease_id)
    parts = tuple(
        (part, reported.get(part, BOOT_NOT_REPORTED) if state == BOOT_REQUESTED else state)
        for part, state in lease.observed.boot
    )
    if lease.state in RENTED:
        leases.note(tx, lease, Booted(parts))


def _note_keys(tx: Tx, lease_id: LeaseId, state: KeysState) -> None:
    lease = leases.get(tx, lease_id)
    if lease.state in RENTED:
        leases.note(tx, lease, KeysGiven(state))
